"""Every run is reported: which collapsed, how often that may happen, and the differences without those runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_small_dataset
from page_kit import fabricate_run

from harness.console import Console
from harness.vsibench.records import Record
from reports.collect import collect
from reports.comparison import Comparison
from reports.results import Results, compare_results, results_of
from reports.statistics import collapses
from reports.tables import build_tables


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFT and GRPO, five seeds each; GRPO's run 3 answers nothing that a scorer reads, SFT's are as drawn."""
    root = tmp_path_factory.mktemp("runs")
    sources = {
        "benchmark": str(write_small_dataset(root / "test", scenes=6)),
        "train": str(write_small_dataset(root / "train", scenes=2, split="train")) + "#train",
    }

    def silent(record: Record, method: str, seed: int) -> str | None:
        return "I cannot say" if (method, seed) == ("grpo", 3) else None

    methods = ("sft", "grpo")
    return fabricate_run(root / "run", cache=root / "cache", methods=methods, seeds=5, answer=silent, **sources)


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return results_of(collect(run))


def test_the_interval_and_the_limit_are_those_of_published_tables() -> None:
    """Clopper-Pearson 95%, 0 of 5: 0 to .5218, 1 of 5: .0051 to .7164; one-sided, 0 of 5: 1 - .05 ** (1 / 5)."""
    none = collapses({seed: 70.0 for seed in range(5)}, 70.0, 10.0, 0.05)
    assert (none.runs, none.seeds, none.low) == (5, (), 0.0)
    assert none.high == pytest.approx(0.5218, abs=1e-4) and none.most == pytest.approx(0.4507, abs=1e-4)
    one = collapses({0: 70.0, 1: 59.9, 2: 60.0, 3: 71.0, 4: 75.0}, 70.0, 10.0, 0.05)
    assert one.seeds == (1,)  # exactly 10 below has not collapsed
    assert (one.low, one.high) == pytest.approx((0.0051, 0.7164), abs=1e-4)


def test_a_collapsed_run_is_counted_and_its_pairs_are_shown_without_it(results: Results) -> None:
    tables = build_tables(results)
    assert tables.runs is not None
    every, counts, differences = tables.runs.tables
    runs = every.to_frame()
    assert len(runs) == 11 and list(runs.loc[runs["collapsed"] == 1, "method"]) == ["grpo"]
    assert runs.loc[runs["collapsed"] == 1, "seed"].item() == 3
    scores = results.answers[results.answers["method"] == "grpo"].groupby("seed")["score"].mean()
    assert runs.loc[runs["method"] == "grpo", "score"].idxmin() == runs.loc[runs["collapsed"] == 1].index[0]
    assert scores[3] == 0
    shown = counts.to_frame().set_index("method")
    assert (shown.loc["grpo", "collapsed"], shown.loc["sft", "collapsed"]) == (1, 0)
    without = differences.to_frame()
    assert set(zip(without["b"], without["a"], strict=True)) == {("grpo", "base"), ("grpo", "sft")}
    assert set(without["seeds_b"]) == {4}
    kept = replace(results, answers=results.answers.query("method != 'grpo' or seed != 3"))
    expected = {(c.b, c.a): c.difference for c in compare_results(kept) if c.task == "overall"}
    for row in without.itertuples():
        assert row.difference == pytest.approx(expected[row.b, row.a], abs=1e-12)


def test_the_verdicts_say_it_where_it_concerns_them_and_what_no_collapse_leaves_open(results: Results) -> None:
    tables = build_tables(results)
    notes = {(v.a, v.b): " ".join(v.notes) for v in tables.verdicts}
    assert "collapsed" not in notes["base", "sft"]
    for pair in (("base", "grpo"), ("sft", "grpo")):
        assert "1 of 5 GRPO runs (seed 3) collapsed; without it the difference is" in notes[pair]
    said = " ".join(tables.common)
    assert "No run of SFT collapsed (5), which does not exclude that up to 45% of runs would (95% one-sided)" in said
    assert said.count("does not exclude") == 1


def test_another_threshold_another_count(results: Results) -> None:
    report = results.report.model_copy(update={"collapse": 60.0})
    tables = build_tables(replace(results, report=report))
    assert tables.runs is not None and len(tables.runs.tables) == 2
    assert "No run of SFT and GRPO collapsed (5 each)" in " ".join(tables.common)


def test_without_a_base_model_no_run_has_collapsed_by_definition(results: Results) -> None:
    alone = replace(results, answers=results.answers.query("method != 'base'"), points={
        key: one for key, one in results.points.items() if key[0] != "base"
    })  # fmt: skip
    tables = build_tables(alone)
    assert tables.runs is not None and [len(table.rows) for table in tables.runs.tables] == [10]
    assert "collapsed" not in " ".join([*tables.common, *(note for v in tables.verdicts for note in v.notes)])


def test_a_method_whose_runs_all_collapsed_has_no_line_without_them(results: Results) -> None:
    answers = results.answers.copy()
    answers.loc[answers["method"] == "grpo", "score"] = 0.0
    points = dict(results.points)
    for seed in range(5):
        points["grpo", seed] = points["grpo", 3]
    with np.errstate(all="ignore"):
        tables = build_tables(replace(results, answers=answers.query("method != 'grpo' or seed < 3"), points={
            key: one for key, one in points.items() if key[0] != "grpo" or key[1] < 3
        }))  # fmt: skip
    notes = {(v.a, v.b): " ".join(v.notes) for v in tables.verdicts}
    assert "3 of 3 GRPO runs (seeds 0, 1 and 2) collapsed; no run is left without them." in notes["sft", "grpo"]
    assert tables.runs is not None and len(tables.runs.tables) == 2


def test_the_report_has_a_file_a_figure_and_a_section_of_runs(run: Path) -> None:
    paths = Comparison().write(run, Console(quiet=True))
    text = (run / "report" / "runs.md").read_text()
    assert "| collapsed" in text and "0% [0%, 52%]" in text and "45%" in text
    assert "leaving out runs by their outcome is no test of the methods" in " ".join(text.split())
    frame = pd.read_csv(run / "report" / "runs.csv")
    assert list(frame.columns) == ["method", "seed", "score", "difference_from_base", "collapsed"]
    page = paths[0].read_text()
    assert '<section id="runs">' in page and (run / "report" / "figures" / "runs.svg").is_file()
