"""The two tables of a comparison, on numbers whose answers are known."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets_kit import whole_vsi_bench

from harness.config.study import ReportSection
from harness.vsibench import questions
from harness.vsibench.records import Record
from harness.vsibench.types import TASKS
from reports.benchmarks.vsibench import VSIBench
from reports.results import Results
from reports.statistics.contrast import Contrast
from reports.tables import Table, pairs, scores
from reports.tables.published import published_footnote, published_rows
from reports.tables.scores import ScoreRow, run_score

# Table 2 of arXiv 2504.00883 (2B, vanilla): the eight tasks; average; numeric and choice means by hand.
PAPER = {
    "base": ([21.4, 3.4, 32.3, 31.1, 26.7, 27.7, 24.7, 18.9], 23.3, 22.1, 24.5),
    "sft": ([29.6, 23.5, 47.4, 33.5, 26.9, 28.3, 28.8, 18.6], 29.6, 33.5, 25.7),
    "grpo": ([53.6, 29.0, 52.7, 43.4, 28.1, 30.9, 26.8, 18.9], 35.4, 44.7, 26.2),
}


def run(values: list[float], shift: float = 0.0) -> dict[str, float]:
    tasks = {t: v + shift for t, v in zip(TASKS, values, strict=True)}
    return run_score(VSIBench().figures_of(tasks), unparsable=3.0, truncated=0.25)


FOREIGN = {**whole_vsi_bench()[0], "scene_name": "kitchen"}
LABELS = {"base": "base", "sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}


def contrast(a: str, b: str, task: str = "overall", **changes: Any) -> Contrast:
    family: Any = "confirmatory" if task == "overall" else "exploratory"
    found = Contrast(
        a, b, task, "checkpoints", 6.3, 1.0, 287.0, 4.3, 8.3, 1e-6, 4e-6, family, 5130, 288, 1, 1, "better"
    )
    return replace(found, **changes)


def results(labels: Mapping[str, str] = LABELS) -> Results:
    return Results(labels, pd.DataFrame(), (), VSIBench(), "VSI-Bench", "official", ReportSection())


def scores_table(rows: Sequence[ScoreRow], *contrasts: Contrast) -> Table:
    return scores.scores_table(results(), rows, contrasts)


def pairs_table(*contrasts: Contrast, labels: Mapping[str, str] = LABELS) -> Table:
    return pairs.pairs_table(results(labels), contrasts)


def rows() -> list[ScoreRow]:
    constant = ScoreRow("constant", "constant answer", "baseline", (run([62.1] * 8),))
    base = ScoreRow("base", "Qwen2-VL-2B", "base", (run(PAPER["base"][0]),), "vanilla")
    methods = [ScoreRow(m, f"+ {m.upper()}", "method", (run(PAPER[m][0]),), "vanilla") for m in ("sft", "grpo")]
    return [constant, base, *methods]


@pytest.mark.parametrize("name", PAPER)
def test_means_reproduce_the_papers_table(name: str) -> None:
    values, average, numeric, choice = PAPER[name]
    score = run(values)
    assert score["overall"] == pytest.approx(average, abs=0.06)
    assert (score["numeric_mean"], score["choice_mean"]) == pytest.approx((numeric, choice), abs=0.06)
    assert score["without_counting"] == pytest.approx((8 * score["overall"] - values[0]) / 7)


def test_best_is_bold_among_base_and_methods_only() -> None:
    table = scores_table(rows())
    bold = {
        (row.cells[0].values[0], c.keys[0])
        for row in table.rows
        for c, cell in zip(table.columns, row.cells, strict=True)
        if cell.bold
    }
    assert ("grpo", "overall") in bold and ("sft", "route_planning") in bold
    assert {("base", "obj_appearance_order"), ("grpo", "obj_appearance_order")} <= bold  # a tie as printed
    assert not any(name == "constant" for name, _ in bold)
    assert [row.cells[0].values[0] for row in table.rows] == ["base", "sft", "grpo", "constant"]
    assert table.rows[-1].group and not table.rows[0].group


def test_one_seed_is_said_to_compare_checkpoints() -> None:
    found = contrast("base", "sft", verdict="undecided", p_holm=0.2), contrast("base", "grpo")
    text = scores_table(rows(), *found).to_markdown()
    assert "+6.3 [4.3, 8.3]†" in text and "+6.3 [4.3, 8.3] |" in text and "<0.001" in text and "0.200" in text
    assert "comparing checkpoints, not methods" in text
    for said in (
        "clustered by room",
        "Holm-corrected over 2 pairs",
        "5,130 questions",
        "288 rooms",
        "1 seed per method",
    ):
        assert said in text
    assert "Welch" not in text


def test_three_seeds_are_said_to_compare_methods() -> None:
    found = contrast("base", "grpo", claim="methods", seeds_b=3)
    several = [ScoreRow("grpo", "+ GRPO", "method", [run(PAPER["grpo"][0], s) for s in (-1, 0, 1)], "vanilla", 3)]
    table = scores_table([*rows()[:2], *several], found)
    text = table.to_markdown()
    assert "**35.4 ± 1.0**" in text and r"+6.3 [4.3, 8.3]\*" in text and "Welch-Satterthwaite" in text
    assert "3 seeds per method" in text and "checkpoints" not in text
    back = pd.read_csv(io.StringIO(table.to_csv())).set_index("method").loc["grpo"]
    assert back["overall"] == pytest.approx(35.425, abs=1e-9) and back["overall_sd"] == pytest.approx(1)
    assert (back["seeds_done"], back["seeds_planned"]) == (3, 3)


def test_missing_seeds_tasks_and_tests_are_shown_not_hidden() -> None:
    two = [run_score(VSIBench().figures_of({"object_counting": v})) for v in (50.0, 52.0)]
    lost = ScoreRow("dpo", "+ DPO", "method", two, "vanilla", 3, note="seed 2 failed: non-finite loss")
    none = ScoreRow("sft", "+ SFT", "method", (), "vanilla", 3)
    missing = dict.fromkeys(("ci_low", "ci_high", "p_holm"), math.nan)
    found = contrast("base", "dpo", verdict="undecided", note="no test: one room", **missing)
    text = scores_table([lost, none], found).to_markdown()
    assert "2 of 3<sup>1</sup>" in text and "seed 2 failed" in text and "0 of 3" in text
    assert "51.0 ± 1.4" in text and "nan" not in text
    assert "+6.3<sup>2</sup>" in text and "no test: one room" in text


def test_pairs_are_shown_with_their_tests_and_tasks_apart_as_exploratory() -> None:
    found = (
        contrast("base", "grpo"),
        contrast("base", "grpo", "route_planning", difference=-0.04),
        contrast("sft", "grpo", verdict="worse", difference=-6.3),
        contrast("sft", "grpo", "route_planning", difference=2.0, verdict="undecided", mde=6.24),
        contrast("sft", "grpo", "object_counting", difference=0.1, verdict="equivalent"),
    )
    labels = {**LABELS, "sft": "SFT (lr 1e-5)"}
    text = pairs_table(*found, labels=labels).to_markdown()
    assert "GRPO − base" in text and "GRPO − SFT (lr 1e-5)" in text and "SFT (lr 1e-5) better" in text
    tasks = pairs.tasks_table(results(labels), found)
    text = " ".join(tasks.to_markdown().split())
    assert "+0.0‡" in text and "| +2.0 (6.2) |" in text and "| +0.1= |" in text and "exploratory" in text
    assert "equivalent within 1" in text
    back = pd.read_csv(io.StringIO(tasks.to_csv()))
    assert back["route_planning"].tolist() == [-0.04, 2.0] and back["object_abs_distance"].isna().all()


def test_undecided_shows_what_would_be_found_and_equivalence_its_margin() -> None:
    table = pairs_table(
        contrast("base", "sft", verdict="undecided", p_holm=0.3, mde=2.345, run_pairs=9, p_b_beats_a=7.5 / 9),
        contrast("base", "dpo", verdict="equivalent", p_holm=0.9, mde=0.7, margin=1.5),
        contrast("base", "grpo", mde=3.1, p_rooms=0.01, p_permutation=0.02, resamples=9999, resampling_seed=883),
    )
    lines = {line.split("|")[1].strip(): line for line in table.to_markdown().splitlines() if "−" in line}
    assert "undecided" in lines["SFT − base"] and "2.3" in lines["SFT − base"] and "83% of 9" in lines["SFT − base"]
    assert "equivalent within 1.5" in lines["DPO − base"] and "0.7" not in lines["DPO − base"]
    assert "3.1" not in lines["GRPO − base"]
    assert "does not mean “no difference”" in table.caption and "9,999 draws each, seed 883" in table.caption
    assert "agree in every pair" in table.caption
    doubted = contrast("base", "grpo", p_rooms=0.01, p_permutation=0.2, resamples=99)
    assert "disagree in 1 pair, as noted" in pairs_table(doubted).caption


def test_published_rows_stand_apart_and_take_no_part() -> None:
    table = scores_table([*rows(), *published_rows()], contrast("base", "grpo"))
    groups = [row.group for row in table.rows]
    assert groups == ["", "", "", "Baselines, not tested", *["Published elsewhere, never tested against ours"] * 21]
    shown = table.to_frame().iloc[4:]
    assert shown["p_holm"].isna().all() and shown["difference_to_base"].isna().all()
    assert not any(cell.bold for row in table.rows[4:] for cell in row.cells)
    best = next(row for row in table.rows if row.cells[0].values[0] == "grpo").cells[3]
    assert best.bold  # our best stays bold next to higher published scores
    assert table.caption == scores_table(rows(), contrast("base", "grpo")).caption


def test_inconsistent_published_rows_say_so() -> None:
    notes = {row.name: row.note for row in published_rows()}
    wrong = {name: note for name, note in notes.items() if "is not the mean" in note}
    assert len(wrong) == 2
    think = next(note for name, note in wrong.items() if "2B" in name)
    frequency = next(note for name, note in wrong.items() if "Frequency" in name)
    assert "Table 1" in think and "22.9, is not the mean of the eight tasks, 20.7" in think
    assert "34.0, is not the mean of the eight tasks, 35.5" in frequency and "constant “2”" in frequency
    assert any("tiny subset" in note for note in notes.values())
    assert all("arXiv" in note for note in notes.values())


def test_published_rows_say_which_questions_they_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions of the right number and types about the right rooms are not yet the benchmark's."""
    whole = [Record(**line) for line in whole_vsi_bench()]
    assert "not on the questions of the other rows" in published_footnote(whole)
    monkeypatch.setattr(questions, "_published", lambda: frozenset(map(questions.question_digest, whole)))
    assert "5,130" not in published_footnote(whole)
    part = [record for record in whole if record.dataset == "scannet"]
    assert f"the other rows are scores on {len(part):,} of these questions." in published_footnote(part)
    changed = [*part, Record(**FOREIGN)]
    assert f"{len(changed):,} of these questions, 1 of them changed" in published_footnote(changed)


def test_packaged_published_scores_are_those_checked_against_the_papers() -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden" / "published_scores.json").read_text(encoding="utf-8"))
    ours = {tuple(row.runs[0][name] for name in ("overall", *TASKS)) for row in published_rows()}
    checked = {tuple(row["scores"]) for row in golden["rows"] if row["source"].startswith(("arXiv", "VSI-Bench"))}
    assert checked == ours - {(22.9, 18.4, 4.3, 31.5, 17.3, 28.3, 22.9, 26.2, 16.8)}  # the row of Table 1


def test_a_constant_beats_every_published_model_on_counting() -> None:
    counting = {row.label: row.runs[0]["object_counting"] for row in published_rows()}
    constant = counting.pop("Frequency baseline")
    assert constant == 62.1 and max(counting.values()) < constant


def test_captions_say_which_intervals_are_corrected() -> None:
    two = contrast("base", "sft", joint_low=3.1, joint_high=9.5), contrast("base", "grpo", joint_low=-0.5, joint_high=8)
    table = pairs_table(*two)
    assert "[3.1, 9.5]" in table.to_markdown() and "[-0.5, 8.0]" in table.to_markdown()
    assert "not corrected for multiple comparisons, and the simultaneous ones hold for all 2 pairs" in table.caption
    assert pd.read_csv(io.StringIO(table.to_csv()))["joint_low"].tolist() == [3.1, -0.5]
    assert (
        "Simultaneous" not in pairs_table(two[0]).to_markdown() and "not corrected" not in pairs_table(two[0]).caption
    )
    assert "Intervals are not corrected for multiple comparisons" in scores_table(rows(), *two).caption
