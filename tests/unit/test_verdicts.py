"""The sentence for each kind of verdict."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.config.study import ReportSection
from harness.console import Console
from harness.train.meter import Consumption
from harness.train.tracking import Misses
from reports.benchmarks.vsibench import VSIBench
from reports.collect import CellResult
from reports.comparison import show
from reports.results import Results
from reports.statistics import paired
from reports.statistics.contrast import Contrast
from reports.tables import Tables, Verdict, tally
from reports.tables import verdicts as module
from reports.tables.table import Cell, Column, Row, Table
from reports.tables.verdicts import Kind, said_once

compare = partial(paired.compare, benchmark=VSIBench())

LABELS = {"base": "tiny (base)", "sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}
FOUND = Contrast(
    a="sft",
    b="grpo",
    task="overall",
    claim="methods",
    difference=3.25,
    standard_error=1.0,
    df=20.0,
    ci_low=1.1,
    ci_high=5.4,
    p=0.004,
    p_holm=0.012,
    family="confirmatory",
    n_questions=100,
    n_rooms=10,
    seeds_a=3,
    seeds_b=3,
    verdict="better",
    mde=2.9,
    p_b_beats_a=7.5 / 9,
    run_pairs=9,
)
NO_ANSWERS = pd.DataFrame({"method": [], "seed": [], "parsed": []})
ONE_SEED = replace(FOUND, claim="checkpoints", seeds_a=1, seeds_b=1, p_b_beats_a=math.nan, run_pairs=1)


def verdicts(
    contrasts: Sequence[Contrast],
    cells: Sequence[CellResult] | None = None,
    *,
    alpha: float = 0.05,
    answers: pd.DataFrame = NO_ANSWERS,
) -> list[Verdict]:
    report = ReportSection(alpha=alpha)
    results = Results(LABELS, answers, (), VSIBench(), "VSI-Bench", "official", report, cells=cells or ())
    return module.verdicts(results, contrasts)


def common(
    contrasts: Sequence[Contrast], cells: Sequence[CellResult] = (), answers: pd.DataFrame = NO_ANSWERS
) -> tuple[str, ...]:
    results = Results(LABELS, answers, (), VSIBench(), "VSI-Bench", "official", ReportSection(), cells=cells)
    return module.common(results, contrasts)


def verdict_of(contrast: Contrast, cells: list[CellResult] | None = None) -> Verdict:
    (verdict,) = verdicts([contrast], cells)
    return verdict


def cell(method: str, seed: int, state: str = "done", reason: str = "") -> CellResult:
    return CellResult(f"{method}-{seed}", method, seed, state, reason, {}, (), None, None)


@pytest.mark.parametrize(
    ("contrast", "kind", "winner", "sentence"),
    [
        (
            FOUND,
            "better",
            "grpo",
            "GRPO is better than SFT by 3.2 points (95% CI 1.1 to 5.4, corrected p = 0.012).",
        ),
        (
            replace(FOUND, verdict="worse", difference=-1.0, ci_low=-1.9, ci_high=-0.1, p_holm=1e-5),
            "better",
            "sft",
            "SFT is better than GRPO by 1.0 point (95% CI 0.1 to 1.9, corrected p < 0.001).",
        ),
        (
            ONE_SEED,
            "better",
            "grpo",
            "The GRPO checkpoint scored 3.2 points higher than the SFT checkpoint (95% CI 1.1 to 5.4, corrected "
            "p = 0.012).",
        ),
        (
            replace(ONE_SEED, a="base", seeds_b=2),
            "better",
            "grpo",
            "The GRPO checkpoints scored 3.2 points higher than tiny (base) on average (95% CI 1.1 to 5.4, corrected "
            "p = 0.012).",
        ),
        (
            replace(FOUND, verdict="undecided", difference=-0.04, ci_low=-2.0, ci_high=1.9, p=0.97, p_holm=1.0),
            "undecided",
            "",
            "Undecided: GRPO minus SFT is +0.0 points (95% CI −2.0 to 1.9, corrected p = 1.000, 80% power from 2.9 "
            "points).",
        ),
        (
            replace(ONE_SEED, verdict="undecided", difference=0.5, seeds_b=2, ci_low=-1.0, ci_high=2.0, p_holm=0.5),
            "undecided",
            "",
            "Undecided between the checkpoints: GRPO minus SFT is +0.5 points (95% CI −1.0 to 2.0, corrected p = "
            "0.500, 80% power from 2.9 points).",
        ),
        (
            replace(FOUND, verdict="equivalent", difference=0.1, ci_low=-0.5, ci_high=0.7, p_holm=0.8),
            "equivalent",
            "",
            "GRPO and SFT are equivalent within 1 point: GRPO minus SFT is +0.1 points (95% CI −0.5 to 0.7, corrected "
            "p = 0.800).",
        ),
        (
            replace(FOUND, verdict="equivalent", difference=0.0, standard_error=0.0, p=1.0, p_holm=1.0),
            "equivalent",
            "",
            "GRPO and SFT are equivalent: their scores are exactly the same in every room.",
        ),
        (
            replace(
                ONE_SEED, verdict="undecided", p=math.nan, p_holm=math.nan, note="no test: questions of one room only"
            ),
            "untested",
            "",
            "The difference between the GRPO and SFT checkpoints could not be tested (questions of one room only): "
            "GRPO minus SFT is +3.2 points.",
        ),
    ],
)
def test_each_finding_is_one_sentence(contrast: Contrast, kind: str, winner: str, sentence: str) -> None:
    verdict = verdict_of(contrast)
    assert (verdict.kind, verdict.winner, verdict.sentence) == (kind, winner, sentence)
    assert verdict.loser == ({"sft": "grpo", "grpo": contrast.a}[winner] if winner else "")


def test_undecided_is_not_no_difference_which_is_said_once() -> None:
    undecided = replace(FOUND, verdict="undecided", p_holm=0.3)
    (said,) = common([undecided, replace(undecided, a="dpo")])
    assert said.startswith("Undecided does not mean “no difference”")
    assert common([FOUND]) == ()
    assert common([replace(undecided, difference=0.0, standard_error=0.0)]) == ()


def test_the_interval_has_the_level_that_was_tested_at() -> None:
    (verdict,) = verdicts([FOUND], alpha=0.01)
    assert "99% CI 1.1 to 5.4" in verdict.sentence


def test_unfinished_seeds_are_named_once_with_their_reasons() -> None:
    cells = [cell("grpo", 0), cell("grpo", 1, "failed", "the loss is nan"), cell("sft", 0), cell("dpo", 1, "failed")]
    pairs = [replace(ONE_SEED, a="base"), ONE_SEED]
    assert [note for note in common(pairs, cells) if "finished (" in note] == [
        "Only 1 of 2 GRPO seeds finished (seed 1 failed: the loss is nan)."
    ]


def test_why_checkpoints_are_compared_is_said_once() -> None:
    said = common([ONE_SEED, replace(ONE_SEED, a="base")])
    assert said == (
        "Checkpoints are compared, not methods, because a claim about methods needs at least 3 finished seeds per "
        "method, and there is 1; how much a method's score varies between training runs is not part of the "
        "uncertainty.",
    )
    assert "and there are 1 and 2;" in common([replace(ONE_SEED, seeds_b=2)])[0]
    assert "and there are 2;" in common([replace(ONE_SEED, a="base", seeds_b=2)])[0]
    assert "and there are 2;" in common([replace(ONE_SEED, a="base", seeds_a=2, seeds_b=5)])[0]
    (mixed,) = common([FOUND, replace(ONE_SEED, b="dpo", seeds_a=3, seeds_b=2)])
    assert mixed.startswith("Checkpoints are compared, not methods, in the comparisons with DPO, because")
    assert common([FOUND]) == ()


@pytest.mark.parametrize("kind", ["better", "worse", "equivalent", "undecided", "identical", "untested"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_names_keep_their_case(kind: str, seeds: int) -> None:
    """A name may begin a sentence, and looks like the words of ours that do."""
    changes: dict[str, Any] = {
        "identical": {"verdict": "equivalent", "difference": 0.0, "standard_error": 0.0},
        "untested": {"verdict": "undecided", "p": math.nan, "note": "no test"},
    }.get(kind, {"verdict": kind})
    names = {"base": "qwen2 (base)", "sft": "the sft-Mine", "grpo": "grpo"}
    for a in ("base", "sft"):
        claim: Any = "checkpoints" if seeds == 1 else "methods"
        found = replace(FOUND, a=a, claim=claim, seeds_a=seeds, seeds_b=seeds, **changes)
        results = Results(names, NO_ANSWERS, (), VSIBench(), "VSI-Bench", "official", ReportSection())
        (verdict,) = module.verdicts(results, [found])
        assert names[a] in verdict.sentence and " grpo " in f" {verdict.sentence}"
        # Our own words begin as sentences do.
        starts = names[a], "grpo", "The ", "Undecided"
        assert verdict.sentence.startswith(starts), verdict.sentence


def test_a_disagreeing_cross_check_is_noted() -> None:
    notes = verdict_of(replace(FOUND, note="cross-check: the permutation of rooms (p = 0.080) disagrees")).notes
    assert "Cross-check: the permutation of rooms (p = 0.080) disagrees." in notes


def test_methods_come_before_the_base_model_and_tasks_are_left_out() -> None:
    against_base = replace(FOUND, a="base")
    found = verdicts([against_base, replace(FOUND, task="object_counting"), FOUND])
    assert [(verdict.a, verdict.b) for verdict in found] == [("sft", "grpo"), ("base", "grpo")]


def answers(scores: dict[str, list[float]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for method, values in scores.items():
        rows += [
            {
                "method": method,
                "model": "tiny",
                "seed": 0,
                "question": f"q{number}",
                "type": "object_counting" if number % 2 else "route_planning",
                "cluster": f"room{number // 4}",
                "score": value,
            }
            for number, value in enumerate(values)
        ]
    return pd.DataFrame(rows)


def test_identical_answers_of_real_statistics_are_equivalent_with_difference_exactly_0() -> None:
    scores = np.random.default_rng(0).integers(0, 2, 40).astype(float).tolist()
    (verdict,) = verdicts(compare(answers({"sft": scores, "grpo": scores}), [("sft", "grpo")]))
    assert verdict.kind == "equivalent" and "exactly the same in every room" in verdict.sentence


def test_a_single_room_of_real_statistics_is_not_tested() -> None:
    frame = answers({"sft": [0.0, 1.0, 0.0, 1.0], "grpo": [1.0, 1.0, 0.0, 1.0]})
    (verdict,) = verdicts(compare(frame, [("sft", "grpo")]))
    assert verdict.kind == "untested" and "could not be tested" in verdict.sentence and "nan" not in verdict.sentence


def test_pairs_are_counted_by_how_they_ended() -> None:
    def ended(kind: Kind) -> Verdict:
        return Verdict("a", "b", kind, "", "", "", (), 3.75)

    assert tally([ended("undecided")]) == ""
    assert tally([ended("equivalent"), ended("equivalent")]) == "2 pairs: 2 equivalent within 3.75 points."
    found = [ended("undecided"), ended("better"), ended("undecided"), ended("untested")]
    assert tally(found) == "4 pairs: 1 decided, 2 undecided, 1 not tested."


def test_what_every_pair_has_a_note_of_is_said_once() -> None:
    found = [
        replace(FOUND, note="there are only 6 rooms: flips count; cross-check: B disagrees"),
        replace(FOUND, a="dpo"),
    ]
    first, second = verdicts(found)
    assert first.notes == ("There are only 6 rooms: flips count.", "Cross-check: B disagrees.") and not second.notes
    alike = [first, replace(second, notes=("There are only 6 rooms: flips count.",))]
    rest, once = said_once(alike)
    assert once == ("There are only 6 rooms: flips count.",)
    assert [verdict.notes for verdict in rest] == [("Cross-check: B disagrees.",), ()]
    assert said_once([first]) == ([first], ())


def test_runs_that_the_scorer_could_not_parse_are_named_once() -> None:
    runs = {("sft", 0): 0, ("sft", 1): 4, ("grpo", 0): 2, ("grpo", 1): 39, ("grpo", 2): 5}
    rows = [(method, seed, i >= lost) for (method, seed), lost in runs.items() for i in range(100)]
    answered = pd.DataFrame(rows, columns=["method", "seed", "parsed"])
    assert common([FOUND], answers=answered) == (
        "The scorer could not parse 39% (seed 1) and 5% (seed 2) of the answers of GRPO. The table by scorer shows how "
        "other rules score them.",
    )
    one = answered[(answered["method"] == "sft") | (answered["seed"] == 1)]
    assert "could not parse 39% of the answers of GRPO." in common([ONE_SEED], answers=one)[-1]
    assert not common([FOUND], answers=answered[answered["parsed"]])


def test_runs_whose_answers_left_the_scored_form_are_named_once() -> None:
    shares = [Misses(0.01, 0.43), Misses(0.3, 0.4), Misses(0.0, 0.12), None]  # the second did not double
    cells = [replace(cell("grpo", seed), misses=found) for seed, found in enumerate(shares)] + [cell("sft", 0)]
    assert common([FOUND, replace(FOUND, a="dpo")], cells) == (
        "In 2 of 3 GRPO runs training moved away from answers that the scorer reads (share of sampled answers that "
        "only tolerant reading finds; seed 0: 1% at first, 43% at the end; seed 2: 0% at first, 12% at the end).",
    )
    assert not common([FOUND], [cell("grpo", 0), replace(cell("sft", 0), misses=Misses(0.2, 0.3))])


def test_a_power_that_cannot_be_computed_is_not_printed() -> None:
    """The same difference in every room, so there is no spread to compute it from."""
    undecided = replace(FOUND, verdict="undecided", p_holm=0.25)
    assert "80% power from 2.9 points)" in verdict_of(undecided).sentence
    assert "power" not in verdict_of(replace(undecided, mde=math.nan)).sentence


def test_a_verdict_says_what_the_two_methods_cost() -> None:
    """The costs of the shipped five seeds' report; a run that failed, and one without a record, count for nothing."""
    spent = {"sft": (60.0, 615, 0, 5382), "grpo": (115.0, 1782, 44723, 44723)}
    cells = [
        replace(cell(method, seed), consumed=Consumption(0, 0, (1 + share) * seconds, sampled, trained, passes))
        for method, (seconds, passes, sampled, trained) in spent.items()
        for seed, share in enumerate((-0.25, 0.25))
    ]
    failed = [replace(cells[0], seed=2, state="failed"), replace(cells[0], seed=3, consumed=None)]
    told = "Per training run, GRPO used 1.9 times the device seconds, 2.9 times the forward passes and 17 times the"
    for contrast in (FOUND, replace(FOUND, a="grpo", b="sft")):
        assert f"{told} completion tokens of SFT." in verdict_of(contrast, cells + failed).notes
    free = [replace(one, consumed=Consumption(seconds=9.0)) if one.method == "sft" else one for one in cells]
    assert "Per training run, GRPO used 13 times the device seconds of SFT." in verdict_of(FOUND, free).notes
    for unknown in (cells[:2], cells[2:], failed):
        assert not any("Per training run" in note for note in verdict_of(FOUND, unknown).notes)
    assert not any("Per training run" in note for note in verdict_of(replace(FOUND, a="base"), cells).notes)


def test_the_terminal_shows_the_scores_then_a_line_a_pair_then_every_remark_once() -> None:
    pairs = [replace(FOUND, note="only here"), replace(FOUND, a="dpo", note="only here"), replace(FOUND, a="base")]
    scores = Table("Scores", (Column("Method"),), (Row((Cell(("GRPO",)),)),))
    tables = Tables(scores, (), pairs, verdicts(pairs), None, None, None, ("What is common.",))
    console = Console(file=io.StringIO(), width=120)
    show(console, tables)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in text[text.index("3 pairs") :].splitlines() if line.strip()]
    assert text.index("Scores") < text.index("3 pairs")
    assert lines == [
        "3 pairs: 3 decided.",
        "GRPO is better than SFT by 3.2 points (95% CI 1.1 to 5.4, corrected p = 0.012).¹",
        "GRPO is better than DPO by 3.2 points (95% CI 1.1 to 5.4, corrected p = 0.012).¹",
        "GRPO is better than tiny (base) by 3.2 points (95% CI 1.1 to 5.4, corrected p = 0.012).",
        "¹ Only here.",
        "What is common.",
    ]
