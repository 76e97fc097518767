"""What was declared before the first result, what was amended after it, and where a report says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from study_kit import QUIET, finish_cell, prepare_cells, small_study

from harness.config.study import StudyConfig
from harness.console import Console
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.study.compare import describe_study, train
from harness.study.declared import Amendment, Declaration, read_declaration
from harness.study.matrix import Cell, check_output, write_matrix
from harness.study.planning import make_plan
from reports.collect import collect
from reports.comparison import Comparison
from reports.settled import WIDEST_MARGIN, default_margin
from reports.statistics import default_spread, vsi_bench_layout

ANSWERS = {str(number): "4" for number in range(9)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


def the_study(root: Path, **report: Any) -> StudyConfig:
    return small_study(root, methods=("sft", "grpo"), report=report)


def declared(run: Path, study: StudyConfig) -> dict[str, Cell]:
    """As ``compare`` leaves a run directory before the first cell starts."""
    return prepare_cells(study, run)[1]


def again(run: Path, study: StudyConfig) -> None:
    """As a later ``compare`` begins, which trains nothing that is there."""
    plan = make_plan(study, QUIET)
    write_matrix(run, study, plan.cells, train_digest=plan.train.digest, benchmark_digest=plan.benchmark.digest)
    describe_study(study, run, plan, QUIET)


def finish(run: Path, cells: dict[str, Cell]) -> None:
    for cell in cells.values():
        finish_cell(run, cell, ANSWERS, step=0 if cell.is_base else 2)


def texts(run: Path) -> dict[str, str]:
    """The texts of a report, each on one line."""
    Comparison().write(run, QUIET)
    names = ("index.html", "pairs.md", "pairs.tex", "scores.md", "fairness.md", "methods.md", "methods.tex")
    return {name: " ".join((run / "report" / name).read_text().split()) for name in names}


def test_a_study_that_keeps_to_its_plan_says_so_everywhere(root: Path, tmp_path: Path) -> None:
    finish(tmp_path, declared(tmp_path, the_study(root)))
    again(tmp_path, the_study(root))
    plan = read_declaration(tmp_path)
    assert (plan.known, plan.cells, plan.amendments) == (0, 3, ())
    assert plan.quantities["report.pairs"] == [["base", "sft"], ["base", "grpo"], ["sft", "grpo"]]
    when = f"declared before the first cell on {plan.time.day} {plan.time:%B %Y}"
    for name, text in texts(tmp_path).items():
        assert when in text and "amended" not in text.replace("othing was amended", ""), name


def test_a_wider_margin_and_other_pairs_after_the_results_leave_their_trace_in_every_place(
    root: Path, tmp_path: Path
) -> None:
    finish(tmp_path, declared(tmp_path, the_study(root, margin=1.0, pairs=[["base", "sft"]])))
    again(tmp_path, the_study(root, margin=12.0, pairs=[["sft", "grpo"], ["base", "sft"]]))
    plan = read_declaration(tmp_path)
    assert [(one.key, one.before, one.known, one.cells) for one in plan.amendments] == [
        ("report.margin", 1.0, 3, 3),
        ("report.pairs", [["base", "sft"]], 3, 3),
    ]
    found = texts(tmp_path)
    for name in ("index.html", "pairs.md", "pairs.tex", "fairness.md", "methods.md", "methods.tex"):
        assert re.search(r"amended on \d+ \w+ \d{4}, when 3 of 3 cells were known; declared was 1\b", found[name]), name
    for name in found:  # all that have p-values: their family is another one
        assert "when 3 of 3 cells were known; declared was 1 pair" in found[name], name
    note = "Not as declared: with results known, the study's report.margin and report.pairs were amended."
    assert found["pairs.md"].count(note) == 1 and found["pairs.md"].count("This pair was added then.") == 1
    assert note.replace("'", "&#39;") in found["index.html"]
    from_to = "report.margin from 1 to 12"
    assert from_to in found["methods.md"] and from_to in found["index.html"]


def test_an_amendment_is_printed_and_what_was_unknown_then_is_not_held_against_it(root: Path, tmp_path: Path) -> None:
    declared(tmp_path, the_study(root, margin=1.0))
    again(tmp_path, the_study(root, margin=2.0))
    plan = read_declaration(tmp_path)
    assert "before any cell was known; declared was 1" in plan.words("report.margin")
    assert plan.amended == ["report.margin"] and plan.amended_knowingly == []
    assert "known" not in plan.words("report.alpha")


def test_a_plan_that_is_written_with_results_at_hand_says_so(root: Path, tmp_path: Path) -> None:
    cells = declared(tmp_path, the_study(root))
    finish(tmp_path, cells)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(UserError, match=r"no plan\.json.*cells had answers"):
        collect(tmp_path)
    again(tmp_path, the_study(root))
    found = texts(tmp_path)
    for name, text in found.items():
        assert "when 3 of 3 cells were known" in text and "before the first cell" not in text, name
    assert found["pairs.md"].count("Nothing was declared beforehand") == 1


def test_answers_of_a_cell_that_did_not_finish_are_known_too(root: Path, tmp_path: Path) -> None:
    cells = declared(tmp_path, the_study(root))
    folder = finish_cell(tmp_path, cells["base-0"], ANSWERS).parent.parent
    (folder / "status.json").unlink()
    (folder / "finished.json").unlink()
    again(tmp_path, the_study(root, alpha=0.1))
    assert "when 1 of 3 cells were known; declared was 0.05" in read_declaration(tmp_path).words("report.alpha")


def test_a_plan_that_was_edited_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    study = the_study(root)
    finish(tmp_path, declared(tmp_path, study))
    document = read_json(tmp_path / "plan.json")
    document["known"], document["quantities"]["report.margin"] = 0, 9.0
    write_json(tmp_path / "plan.json", document)
    with pytest.raises(UserError, match=r"plan\.json`: its content is not what was written"):
        collect(tmp_path)
    with pytest.raises(UserError, match=r"plan\.json`: not as the harness wrote it"):
        check_output(tmp_path, study)


def test_training_alone_declares_too_and_never_amends(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.study.compare._compute", lambda *_: True)
    train(the_study(root), tmp_path, console=QUIET)
    before = (tmp_path / "plan.json").read_bytes()
    train(the_study(root, margin=7.0), tmp_path, console=Console(quiet=True))
    assert (tmp_path / "plan.json").read_bytes() == before


DAY = "2026-12-0{}T12:00:00Z"


def plan_with(*changes: tuple[int, Any, Any, int], known: int = 0) -> Declaration:
    amendments = [
        {"time": DAY.format(day), "key": "seeds", "from": a, "to": b, "known": n, "cells": 16}
        for day, a, b, n in changes
    ]
    return Declaration(
        time=DAY.format(1),
        known=known,
        cells=16,
        quantities={"seeds": 1},
        amendments=tuple(Amendment.model_validate(one) for one in amendments),
    )


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (plan_with(), "declared before the first cell on 1 December 2026"),
        (plan_with(known=7), "declared on 1 December 2026, when 7 of 16 cells were known"),
        (plan_with((2, 1, 5, 7)), "amended on 2 December 2026, when 7 of 16 cells were known; declared was 1"),
        (plan_with((2, 1, 5, 0)), "amended on 2 December 2026, before any cell was known; declared was 1"),
        (
            plan_with((2, 1, 5, 7), (3, 5, 8, 16)),
            "amended 2 times, last on 3 December 2026, when 16 of 16 cells were known; declared was 1",
        ),
        (
            plan_with((2, 1, 5, 7), (3, 5, 1, 16)),
            "declared before the first cell on 1 December 2026, changed later and changed back",
        ),
        (
            plan_with((2, 1, 5, 16), known=7),
            "amended on 2 December 2026, when 16 of 16 cells were known; declared was 1, and that when 7 of 16 cells "
            "were known",
        ),
    ],
)
def test_one_quantity_in_words(plan: Declaration, words: str) -> None:
    assert plan.words("seeds") == words


def test_the_margin_follows_from_the_plan_and_never_from_results(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.settled.WIDEST_MARGIN", 100.0)  # which nine questions exceed
    cells = declared(tmp_path, the_study(root, alpha=0.05))
    least = read_declaration(tmp_path).current["report.margin"]
    again(tmp_path, the_study(root, alpha=0.2))
    easier = read_declaration(tmp_path).current["report.margin"]
    assert easier < least, "nothing was known, so the margin follows the level"
    finish(tmp_path, cells)
    again(tmp_path, the_study(root, alpha=0.01))
    assert read_declaration(tmp_path).current["report.margin"] == easier
    assert f"Equivalence margin: {easier:g}, amended" in texts(tmp_path)["pairs.md"]


def test_the_default_margin_is_where_equal_methods_are_found_equivalent() -> None:
    """By simulation: four times of five at the default margin, and nearly never at half of it."""
    rng, layout, spread = np.random.default_rng(3), vsi_bench_layout(), default_spread()
    margin, seeds, alpha, pairs, n = default_margin(layout, 5, 0.05, 6), 5, 0.05, 6, 20_000
    rooms = spread.room_variance(seeds, layout)
    runs = rng.normal(0, spread.typical, (n, 2, seeds))
    difference = rng.normal(0, rooms**0.5, n) + runs.mean(2) @ [1, -1]
    variances = runs.var(2, ddof=1).T / seeds
    df = (rooms + variances.sum(0)) ** 2 / (rooms**2 / (layout.rooms - 1) + (variances**2 / (seeds - 1)).sum(0))
    error = np.sqrt(rooms + variances.sum(0))
    for width, low, high in ((margin, 0.76, 0.88), (margin / 2, 0.0, 0.05)):
        p = stats.t.sf((width - abs(difference)) / error, df)
        assert low < (p < alpha / pairs).mean() < high, width
    assert default_margin(replace(layout, rooms=6, effective=9.0), 1, 0.05, 1) == WIDEST_MARGIN
