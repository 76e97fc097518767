"""The four verdicts, and what stands beside them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from harness.vsibench.types import QUESTION_TYPES
from reports.benchmarks.vsibench import VSIBench
from reports.statistics import paired
from reports.statistics.contrast import Contrast, checked, judge, verdict_words

compare = partial(paired.compare, benchmark=VSIBench())

ROOMS = 40


def answers(shift: float, *, seeds: int = 1, noise: float = 0.05, rooms: int = ROOMS, a: str = "a") -> pd.DataFrame:
    """Method b scores ``shift`` points above method a; ``noise`` is what varies by question."""
    rng = np.random.default_rng(1)
    kind, room = np.tile(QUESTION_TYPES, rooms), np.repeat(np.arange(rooms), 10)
    columns = {"question": np.arange(len(kind)).astype(str), "type": kind, "cluster": room.astype(str), "model": "m"}
    frames = []
    for method, plus in ((a, 0.0), ("b", shift / 100)):
        for seed in range(seeds):
            score = 0.5 + plus + rng.normal(0, noise, len(kind)) + rng.normal(0, 0.001)
            frames.append(pd.DataFrame(columns).assign(method=method, seed=seed, score=score.clip(0, 1)))
    return pd.concat(frames, ignore_index=True)


def overall(frame: pd.DataFrame, *, margin: float = 1.0, resamples: int = 0, a: str = "a") -> Contrast:
    return compare(frame, [(a, "b")], margin=margin, resamples=resamples)[0]


@pytest.mark.parametrize(
    ("shift", "noise", "verdict"),
    [(5.0, 0.05, "better"), (-5.0, 0.05, "worse"), (0.0, 0.02, "equivalent"), (0.5, 0.4, "undecided")],
)
def test_the_four_verdicts(shift: float, noise: float, verdict: str) -> None:
    found = overall(answers(shift, noise=noise))
    assert found.verdict == verdict
    assert found.mde > 0 and found.margin == 1.0
    words = {"better": "B! better", "worse": "A! better", "equivalent": "equivalent within 1", "undecided": "undecided"}
    assert verdict_words(found, {"a": "A!", "b": "B!"}) == words[verdict]


def test_the_margin_is_the_studys() -> None:
    frame = answers(1.5, noise=0.05)
    assert overall(frame, margin=1.0).p_equivalence > 0.5
    assert overall(frame, margin=4.0).p_equivalence < 0.001
    assert overall(answers(0.3, noise=0.1), margin=0.1).verdict == "undecided"


def test_a_difference_smaller_than_the_margin_is_real_and_said_to_be_small() -> None:
    found = overall(answers(0.5, noise=0.01))
    assert found.verdict == "better" and found.p_holm < 0.05 and found.p_equivalence < 0.05
    assert "smaller than the margin of 1" in found.note


def copied(frame: pd.DataFrame, order: dict[int, int] | None = None) -> pd.DataFrame:
    """Method b has method a's runs, under other seeds if ``order`` says so."""
    runs = frame[frame["method"] == "a"]
    return pd.concat([runs, runs.assign(method="b", seed=runs["seed"].map(order or (lambda seed: seed)))])


def test_identical_checkpoints_are_equivalent() -> None:
    found = compare(copied(answers(0.0)), [("a", "b")])
    assert {(c.difference, c.standard_error, c.verdict) for c in found} == {(0, 0, "equivalent")}
    first = found[0]
    assert (first.p_permutation, first.p_rooms) == (1, 1) and math.isnan(first.ci_boot_low)
    assert "same answer to every question" in first.note


@pytest.mark.parametrize("order", [{0: 0, 1: 1, 2: 2}, {0: 1, 1: 2, 2: 0}])
def test_the_same_runs_twice_are_equivalent_by_the_test_alone(order: dict[int, int]) -> None:
    """Their mean difference is exactly 0, but runs that vary by 8 points are no proof that it is below 1."""
    frame = answers(0.0, seeds=3)
    frame["score"] = (frame["score"] + frame["seed"].map({0: -0.08, 1: 0.0, 2: 0.08})).clip(0, 1)
    found = compare(copied(frame, order), [("a", "b")])
    for c in found:
        assert (c.difference, c.p, c.verdict) == (0, 1, "undecided")
        assert c.ci_low < -5 and c.ci_high > 5 and c.p_equivalence > 0.05
    assert found[0].p_b_beats_a == 0.5 and found[0].run_pairs == 9
    wide = compare(copied(frame, order), [("a", "b")], margin=60.0, resamples=0)[0]
    assert wide.verdict == "equivalent" and wide.p_equivalence < 0.05


def test_equal_scores_of_other_answers_are_no_equivalence() -> None:
    frame = copied(answers(0.0))
    told = frame.assign(answer=frame["method"] + "'s wrong answer")
    found = compare(told, [("a", "b")], resamples=0)[0]
    assert (found.verdict, found.p) == ("undecided", 1) and "score alike" in found.note
    assert compare(told.assign(answer="A"), [("a", "b")], resamples=0)[0].verdict == "equivalent"


@pytest.mark.parametrize(("rooms", "least"), [(2, 0.5), (4, 2 / 2**4), (6, 2 / 2**6)])
def test_few_rooms_give_no_small_p(rooms: int, least: float) -> None:
    """Nearly the same large difference in every room: t alone would be sure of it."""
    frame = answers(30.0, noise=0.002, rooms=rooms)
    c = compare(frame, [("a", "b")], resamples=0)[0]
    assert c.p == pytest.approx(least) and f"only {rooms} rooms" in c.note
    assert (c.ci_low > 0) == (c.p < 0.05)
    if rooms < 6:
        assert (c.ci_low, c.ci_high) == (-100, 100) and math.isnan(c.mde)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 3.0])
def test_with_unequal_rooms_the_sign_flips_join_and_p_and_interval_agree(seeds: int, shift: float) -> None:
    frame = answers(shift, seeds=seeds, noise=0.2)
    frame["cluster"] = frame["cluster"].where(frame["cluster"].astype(int) >= 20, "0")
    c = compare(frame, [("a", "b")], resamples=0)[0]
    checked_too = compare(frame, [("a", "b")])[0]
    assert c.n_rooms == 21 and c.effective_rooms == pytest.approx(1 / (0.25 + 20 / 1600), rel=1e-6)
    assert "as unevenly as on 4 equal ones" in c.note
    assert c.p >= max(checked_too.p_rooms if seeds == 1 else 0, checked_too.p_permutation)
    assert (c.p < 0.05) == (c.ci_low > 0 or c.ci_high < 0)
    if seeds == 1:
        assert c.p == max(checked_too.p_rooms, checked_too.p_permutation)


def test_a_task_that_both_fail_is_no_finding() -> None:
    """No score differs among its few questions, which says nothing about the next ones."""
    frame = answers(5.0)
    frame.loc[frame["type"] == "route_planning", "score"] = 0.0
    by_task = {c.task: c for c in compare(frame, [("a", "b")], resamples=0)}
    assert by_task["route_planning"].verdict == "undecided" and "no test applies" in by_task["route_planning"].note
    assert by_task["overall"].verdict == "better"


def test_seeds_decide_the_claim_and_the_base_needs_none() -> None:
    three = answers(5.0, seeds=3, a="base")
    one_base = three[(three["method"] == "b") | (three["seed"] == 0)]
    found = overall(one_base, a="base")
    assert (found.claim, found.seeds, found.seeds_a, found.seeds_b, found.run_pairs) == ("methods", 3, 1, 3, 3)
    two_base = three[(three["method"] == "b") | (three["seed"] < 2)]
    assert overall(two_base, a="base").claim == "checkpoints"  # its two runs are a sample, and too small
    assert overall(three, a="base").claim == "methods"
    two = answers(5.0, seeds=3)
    lost = overall(two[(two["method"] == "a") | (two["seed"] < 2)])
    assert (lost.claim, lost.seeds) == ("checkpoints", 2)


def test_cross_checks_are_stored_with_their_seed_and_are_the_same_each_time() -> None:
    frame = answers(1.0)
    first, again = overall(frame, resamples=499), overall(frame.sample(frac=1, random_state=3), resamples=499)
    assert first == again
    assert (first.resamples, first.resampling_seed) == (499, 883)
    assert first.ci_boot_low < first.difference < first.ci_boot_high
    assert 0 < first.p_permutation <= 1
    flipped = compare(frame, [("b", "a")], resamples=499)[0]
    assert flipped.p_permutation == first.p_permutation
    assert compare(frame, [("a", "b")], resamples=499)[1].resamples == 0  # tasks are not checked


def test_a_disagreement_in_verdict_is_told_in_words() -> None:
    base = replace(overall(answers(1.0)), p_rooms=0.04, p_permutation=0.06, ci_boot_low=0.1, ci_boot_high=2.0)
    told = checked(base, 0.05).note
    assert "permutation of rooms (p = 0.060)" in told and "t-test over rooms (p = 0.040) disagree at 0.05" in told
    assert "bootstrap" not in told
    both = checked(replace(base, p_rooms=0.06, p_permutation=0.07), 0.05).note
    assert "the bootstrap of rooms (95% interval 0.10 to 2.00)" in both and "permutation" not in both
    assert checked(replace(base, p_permutation=0.03), 0.05) == replace(base, p_permutation=0.03)


def test_one_room_carrying_everything_is_noticed() -> None:
    """A single room with all of the difference: the t-test over rooms and the sign flips both see no pattern."""
    frame = answers(0.0, noise=0.001)
    lucky = (frame["method"] == "b") & (frame["cluster"] == "7")
    frame.loc[lucky, "score"] = 1.0
    found = overall(frame, resamples=499)
    assert found.verdict == "undecided" and found.difference > 1


def test_equivalence_is_corrected_in_its_family() -> None:
    frame = answers(0.0, noise=0.05)
    third = frame[frame["method"] == "a"].assign(method="c", score=lambda f: 1 - f["score"])
    found = compare(pd.concat([frame, third]), [("a", "b"), ("a", "c")], margin=1.2, resamples=0)
    rows = [c.p_equivalence for c in found if c.task == "overall"]
    alone = [compare(pd.concat([frame, third]), [("a", b)], margin=1.2, resamples=0)[0].p_equivalence for b in "bc"]
    low, high = sorted(alone)
    assert sorted(rows) == pytest.approx([min(2 * low, 1), max(high, min(2 * low, 1))])


def test_a_contrast_without_a_test_does_not_help_the_others() -> None:
    tested = replace(overall(answers(1.0)), p=0.03, p_equivalence=0.2)
    untested = replace(tested, b="c", p=math.nan, p_equivalence=math.nan)
    first, second = judge([tested, untested], 0.05)
    assert (first.p_holm, first.verdict) == (0.06, "undecided")
    assert math.isnan(second.p_holm) and math.isnan(second.p_equivalence) and second.verdict == "undecided"


def test_every_field_of_the_report_is_there() -> None:
    wanted = {"a", "b", "task", "claim", "difference", "standard_error", "df", "ci_low", "ci_high", "p", "p_holm"}
    wanted |= {"family", "verdict", "mde", "n_questions", "n_rooms", "seeds"}
    found = pd.DataFrame(compare(answers(1.0), [("a", "b")], resamples=99))
    assert wanted <= set(found.columns) and len(found) == 9
    records = found.astype(object).where(found.notna(), None).to_dict("records")
    assert json.loads(json.dumps(records, allow_nan=False)) == records
