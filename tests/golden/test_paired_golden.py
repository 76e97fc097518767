"""Contrasts against independent computations: pandas for the estimate, numpy for the sandwich."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.errors import UserError
from harness.vsibench.types import QUESTION_TYPES, TASKS, task_of
from reports.benchmarks.vsibench import VSIBench
from reports.statistics import paired
from reports.statistics.contrast import Contrast
from reports.statistics.inference import holm as holm_corrected
from reports.statistics.paired import default_pairs

compare = partial(paired.compare, benchmark=VSIBench())

DIRECTIONS = [t for t in QUESTION_TYPES if task_of(t) == "object_rel_direction"]


def answers(
    methods: dict[str, int],
    *,
    rooms: int = 30,
    per_room: int = 36,
    seed: int = 0,
    types: tuple[str, ...] = QUESTION_TYPES,
) -> pd.DataFrame:
    """Scores on {0, .1, ..., 1} with room effects; ``methods`` gives the number of seeds."""
    rng = np.random.default_rng(seed)
    n = rooms * per_room
    kind = rng.choice(types, n)
    room = np.repeat(np.arange(rooms), per_room)
    frames = []
    for i, (method, seeds) in enumerate(methods.items()):
        effect = rng.normal(0, 0.15, rooms)[room]
        for k in range(seeds):
            score = np.clip(np.round(0.4 + 0.03 * i + effect + rng.normal(0, 0.03) + rng.normal(0, 0.3, n), 1), 0, 1)
            frames.append(
                pd.DataFrame(
                    {
                        "method": method,
                        "model": "tiny",
                        "seed": k,
                        "question": [f"q{j}" for j in range(n)],
                        "type": kind,
                        "cluster": [f"r{r}" for r in room],
                        "score": score,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def by_task(contrasts: list[Contrast]) -> dict[str, Contrast]:
    return {c.task: c for c in contrasts}


def differences(frame: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    means = frame.groupby(["question", "type", "cluster", "method"])["score"].mean().unstack("method")
    return (100 * (means[b] - means[a])).rename("d").reset_index()


def sandwich(d: pd.DataFrame) -> float:
    """Standard error of the macro mean by summing each room's influence; no regression involved."""
    size = d["type"].map(d["type"].value_counts())
    weight = d["type"].map({t: 1 / 24 if t in DIRECTIONS else 1 / 8 for t in QUESTION_TYPES}) / size
    influence = weight * (d["d"] - d.groupby("type")["d"].transform("mean"))
    per_room = influence.groupby(d["cluster"]).sum()
    rooms, n, k = len(per_room), len(d), d["type"].nunique()
    return math.sqrt((per_room**2).sum() * rooms / (rooms - 1) * (n - 1) / (n - k))


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return answers({"sft": 2, "grpo": 1})


def test_differences_equal_the_closed_form(frame: pd.DataFrame) -> None:
    found = by_task(compare(frame, [("sft", "grpo")]))
    raw = differences(frame, "sft", "grpo").groupby("type")["d"].mean()
    tasks = raw.groupby(raw.index.map(task_of)).mean()
    assert list(found) == ["overall", *TASKS]
    for task in TASKS:
        assert found[task].difference == pytest.approx(tasks[task], abs=1e-9)
    assert found["overall"].difference == pytest.approx(tasks.mean(), abs=1e-9)


def test_standard_error_interval_and_p_equal_an_independent_sandwich(frame: pd.DataFrame) -> None:
    overall = compare(frame, [("sft", "grpo")])[0]
    error = sandwich(differences(frame, "sft", "grpo"))
    t = stats.t(29)
    assert overall.standard_error == pytest.approx(error, rel=1e-9)
    assert overall.df == pytest.approx(29)
    assert overall.ci_high - overall.difference == pytest.approx(t.isf(0.025) * error, rel=1e-9)
    assert overall.p == pytest.approx(2 * t.sf(abs(overall.difference) / error), rel=1e-9)
    assert (overall.claim, overall.seeds_a, overall.seeds_b) == ("checkpoints", 2, 1)
    assert (overall.n_questions, overall.n_rooms) == (1080, 30)


def run_scores(frame: pd.DataFrame, method: str) -> pd.Series:
    raw = frame[frame["method"] == method].groupby(["seed", "type"])["score"].mean().reset_index()
    raw["task"] = raw["type"].map(task_of)
    return 100 * raw.groupby(["seed", "task"])["score"].mean().groupby("seed").mean()


def interval(parts: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Standard error, degrees of freedom and half-width for independent components."""
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(variance**2 / of for variance, of in parts)
    return math.sqrt(total), df, math.sqrt(total) * stats.t.isf(0.025, df)


@pytest.mark.parametrize("wild", ["sft", "other"])
def test_a_method_claim_adds_the_variance_of_runs_the_pairs_own_or_that_of_all_methods(wild: str) -> None:
    frame = answers({"sft": 3, "grpo": 5, "other": 3})
    shift = frame["seed"].map({0: -0.08, 1: 0.0, 2: 0.08}).fillna(0) * (frame["method"] == wild)
    frame["score"] = (frame["score"] + shift).clip(0, 1)
    overall = compare(frame, [("sft", "grpo")])[0]
    room = sandwich(differences(frame, "sft", "grpo")) ** 2
    of = {method: run_scores(frame, method) for method in ("sft", "grpo", "other")}
    own = interval([(room, 29), (of["sft"].var() / 3, 2), (of["grpo"].var() / 5, 4)])
    # Eight degrees of freedom; the median of chi-square is 7.344 (tables), so that half of the estimates are too small.
    squares = 2 * of["sft"].var() + 4 * of["grpo"].var() + 2 * of["other"].var()
    pooled = interval([(room, 29), (squares / 7.344121 * (1 / 3 + 1 / 5), 8)])
    error, df, half = max(own, pooled, key=lambda one: one[2])
    assert (error is own[0]) == (wild == "sft")
    assert overall.claim == "methods"
    assert (overall.standard_error, overall.df) == pytest.approx((error, df), rel=1e-6)
    assert overall.ci_high - overall.difference == pytest.approx(half, rel=1e-6)
    p = [2 * stats.t.sf(abs(overall.difference) / one[0], one[1]) for one in (own, pooled)]
    assert overall.p == pytest.approx(max(p), rel=1e-6)
    assert overall.share_of_rooms == pytest.approx(room / own[0] ** 2)
    assert (overall.p < 0.05) == (overall.ci_low > 0 or overall.ci_high < 0)


def test_base_is_fixed_so_only_the_method_needs_seeds() -> None:
    frame = answers({"base": 1, "sft": 3, "dpo": 2})
    against_sft, against_dpo = compare(frame, [("base", "sft")])[0], compare(frame, [("base", "dpo")])[0]
    squares = 2 * run_scores(frame, "sft").var() + run_scores(frame, "dpo").var()
    room = sandwich(differences(frame, "base", "sft")) ** 2
    # All runs together have three degrees of freedom only, so that sft's own two are taken median-unbiased as well.
    own = interval([(room, 29), (run_scores(frame, "sft").var() / 3 / math.log(2), 2)])
    pooled = interval([(room, 29), (squares / stats.chi2.median(3) / 3, 3)])
    error, df, _ = max(own, pooled, key=lambda one: one[2])
    assert (against_sft.claim, against_dpo.claim) == ("methods", "checkpoints")
    assert (against_sft.standard_error, against_sft.df) == pytest.approx((error, df), rel=1e-9)


def test_runs_of_equal_seeds_are_pairs_among_variants_of_one_method() -> None:
    frame = answers({"grpo": 3, "grpo:beta=0": 3, "sft": 3})
    pair, variants = ("grpo", "grpo:beta=0"), [("grpo", "grpo:beta=0")]
    paired, other = compare(frame, [pair, ("grpo", "sft")], variants=variants, resamples=0)[::9]
    assert (paired.paired_seeds, other.paired_seeds) == (True, False)
    room = sandwich(differences(frame, *pair)) ** 2
    runs = run_scores(frame, pair[1]) - run_scores(frame, pair[0])
    # Two variants: the residuals of method by seed are the paired differences; the median of chi-square(2) is 2 ln 2.
    error, df, _ = interval([(room, 29), (runs.var() / 3 / math.log(2), 2)])
    assert (paired.standard_error, paired.df) == pytest.approx((error, df), rel=1e-9)
    shifted = frame[(frame["method"] != pair[1])]
    shifted = pd.concat([shifted, frame[frame["method"] == pair[1]].assign(seed=lambda f: f["seed"] + 1)])
    assert not compare(shifted, [pair], variants=variants, resamples=0)[0].paired_seeds


def test_runs_average_the_direction_levels_with_equal_weight() -> None:
    types = ["object_rel_direction_easy"] * 4 + ["object_rel_direction_hard", "object_counting", "object_counting"]
    overall, tasks, _ = VSIBench().figures(types, [1, 1, 1, 1, 0, 0.5, 0.7])
    assert tasks == pytest.approx({"object_counting": 60, "object_rel_direction": 50}) and overall == pytest.approx(55)


@pytest.mark.parametrize("seeds", [1, 3])
def test_swapping_sides_flips_signs_only(seeds: int) -> None:
    frame = answers({"sft": seeds, "grpo": seeds})
    for one, other in zip(compare(frame, [("sft", "grpo")]), compare(frame, [("grpo", "sft")]), strict=True):
        assert one.difference == -other.difference
        assert (one.ci_low, one.ci_high) == pytest.approx((-other.ci_high, -other.ci_low))
        assert (one.standard_error, one.df, one.p) == pytest.approx((other.standard_error, other.df, other.p))


def test_row_order_changes_nothing() -> None:
    frame, pairs = answers({"base": 1, "sft": 3, "grpo": 3}), default_pairs(["base", "grpo", "sft"])
    found, again = (pd.DataFrame(compare(rows, pairs)) for rows in (frame, frame.sample(frac=1, random_state=1)))
    pd.testing.assert_frame_equal(found, again, check_exact=True)


def test_duplicated_questions_do_not_shrink_the_error(frame: pd.DataFrame) -> None:
    twice = pd.concat([frame, frame.assign(question=frame["question"] + "-again")])
    for one, two in zip(compare(frame, [("sft", "grpo")]), compare(twice, [("sft", "grpo")]), strict=True):
        assert two.standard_error == pytest.approx(one.standard_error, rel=0.01)
        assert two.difference == pytest.approx(one.difference, abs=1e-9)


def holm(p: pd.Series) -> list[float]:
    return list(multipletests(p.to_numpy(), method="holm")[1])


def test_holm_over_declared_pairs_and_over_all_their_tasks() -> None:
    assert holm_corrected([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])  # worked by hand
    frame = answers({"base": 1, "sft": 1, "dpo": 1, "grpo": 1}, seed=3)
    pairs = default_pairs(["base", "sft", "dpo", "grpo"])
    found = pd.DataFrame(compare(frame, pairs))
    overall = found[found["task"] == "overall"]
    assert list(zip(overall["a"], overall["b"], strict=True)) == pairs
    assert overall["p_holm"].tolist() == pytest.approx(holm(overall["p"]))
    assert set(overall["family"]) == {"confirmatory"}
    tasks = found[found["task"] != "overall"]
    assert len(tasks) == 48 and tasks["p_holm"].tolist() == pytest.approx(holm(tasks["p"]))
    assert set(tasks["family"]) == {"exploratory"}
    significant = found["p_holm"] < 0.05
    assert found["verdict"].isin(["better", "worse"]).equals(significant)
    assert (found.loc[significant, "verdict"] == "better").equals(found.loc[significant, "difference"] > 0)


def test_absent_tasks_give_no_contrast_and_leave_the_mean() -> None:
    frame = answers({"a": 1, "b": 1}, types=("object_counting", "route_planning", DIRECTIONS[0]))
    found = by_task(compare(frame, [("a", "b")]))
    assert list(found) == ["overall", "object_counting", "object_rel_direction", "route_planning"]
    mean = np.mean([c.difference for task, c in found.items() if task != "overall"])
    assert found["overall"].difference == pytest.approx(mean)


def test_identical_answers_are_an_exact_zero() -> None:
    frame = answers({"sft": 1})
    frame = pd.concat([frame, frame.assign(method="grpo")])
    for c in compare(frame, [("sft", "grpo")]):
        assert (c.difference, c.standard_error, c.ci_low, c.ci_high, c.p, c.verdict) == (0, 0, 0, 0, 1, "equivalent")


def test_the_same_difference_in_every_room_gets_the_sign_test() -> None:
    frame = answers({"sft": 1}, rooms=4)
    frame = pd.concat([frame.assign(score=0.2), frame.assign(score=0.7, method="grpo")])
    overall = compare(frame, [("sft", "grpo")])[0]
    assert (overall.difference, overall.standard_error, overall.p) == pytest.approx((50, 0, 2 / 2**4))
    assert "sign test" in overall.note


def test_one_room_allows_no_claim() -> None:
    for c in compare(answers({"sft": 3, "grpo": 3}, rooms=1), [("sft", "grpo")]):
        assert math.isnan(c.standard_error) and math.isnan(c.p) and math.isnan(c.p_holm)
        assert c.verdict == "undecided" and "one room" in c.note


def test_a_type_seen_in_one_room_is_refused_and_so_is_the_mean() -> None:
    frame = answers({"sft": 1, "grpo": 1})
    frame = frame[(frame["type"] != "route_planning") | (frame["cluster"] == "r0")]
    found = by_task(compare(frame, [("sft", "grpo")]))
    assert math.isnan(found["route_planning"].p) and math.isnan(found["overall"].p)
    assert "route_planning" in found["overall"].note
    assert found["object_counting"].p_holm <= 1 and not math.isnan(found["object_counting"].p)


def refuse(frame: pd.DataFrame, *words: str) -> None:
    with pytest.raises(UserError) as error:
        compare(frame, [("sft", "grpo")])
    for word in words:
        assert word in str(error.value)


def test_bad_input_is_refused_by_name() -> None:
    good = answers({"sft": 1, "grpo": 1}, rooms=3)
    grpo = good["method"] == "grpo"
    refuse(good[~(grpo & good["question"].isin(["q3", "q7"]))], "different questions", "grpo, seed 0", "q3, q7")
    refuse(good.assign(score=good["score"].mask(grpo & (good["question"] == "q5"))), "NaN", "q5", "grpo")
    refuse(good.assign(score=good["score"] * 100), "outside [0, 1]", "q")
    refuse(pd.concat([good, good.tail(1)]), "second answer", good["question"].iloc[-1])
    refuse(good.assign(type="route_planing"), "question_type route_planing", "did you mean route_planning")
    refuse(good.assign(cluster=good["cluster"].mask(good["question"] == "q1")), "missing value", "q1")
    refuse(
        good.assign(cluster=good["cluster"].mask(grpo & (good["question"] == "q1"), "r9")), "two clusters", "q1", "r9"
    )
    refuse(good.drop(columns=["cluster"]), "column(s) cluster")
    refuse(good.head(0), "no rows")
    refuse(pd.concat([good, good.assign(model="7b")]), "several models")
    with pytest.raises(UserError, match="did you mean grpo"):
        compare(good, [("sft", "gpro")])
