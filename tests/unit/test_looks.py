"""A study with declared looks stops at the first that decides every pair, at a level that all looks share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from study_kit import QUIET, finish_cell, small_study

from harness.config.study import StudyConfig
from harness.console import Console
from harness.study.compare import compare
from harness.study.matrix import Cell, remaining_work, write_cell
from harness.study.planning import Plan
from reports.collect import collect
from reports.results import compare_results, results_of
from reports.statistics import look_level
from reports.tables.looks import look_sentences

ALIKE = {str(number): "4" for number in range(9)}
Compute = Callable[..., bool]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


def looking(root: Path, *looks: int, **changes: Any) -> StudyConfig:
    return small_study(root, seeds=list(looks) if len(looks) > 1 else looks[0], **changes)


def answering(answers: Callable[[Cell], dict[str, str]], *, stop_after: int = 99) -> tuple[Compute, list[list[int]]]:
    """A stand-in for training and evaluation, and the list of the seeds that each look computes."""
    told: list[list[int]] = []
    left = itertools.count(stop_after, -1)

    def compute(study: StudyConfig, run_dir: Path, plan: Plan, cells: Sequence[Cell], console: Console) -> bool:
        todo = [work.cell for work in remaining_work(run_dir, cells) if not work.complete]
        told.append([cell.seed for cell in todo if not cell.is_base])
        for cell in todo:
            write_cell(run_dir, study, cell)
        for cell in todo:
            if next(left) == 0:
                raise KeyboardInterrupt
            finish_cell(run_dir, cell, answers(cell), step=0 if cell.is_base else 2)
        return True

    return compute, told


def differing(cell: Cell) -> dict[str, str]:
    """Runs that do not agree, so that no pair is decided."""
    return {str(number): ("4", "B", "9")[(number * (cell.seed + 2)) % 3] for number in range(9)}


def said(run: Path) -> str:
    results = results_of(collect(run))
    return " ".join(look_sentences(results, compare_results(results)))


def test_a_study_stops_where_every_pair_is_decided_and_says_what_that_saves(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, told = answering(lambda cell: ALIKE)
    monkeypatch.setattr("harness.study.compare._compute", compute)
    study = looking(root, 3, 5, 8)
    assert compare(study, tmp_path, dry_run=False, console=QUIET) == 0
    assert told == [[0, 1, 2]]
    assert "This is look 1 of 3, at 3 seeds per method (looks at 3, 5 and 8 seeds, declared before" in said(tmp_path)
    assert "so the study stops here" in said(tmp_path) and "cost up to 5 training runs more" in said(tmp_path)
    compare(study, tmp_path, dry_run=False, console=QUIET)
    assert told == [[0, 1, 2], []], "the same command trains nothing more"
    capsys.readouterr()
    compare(study, tmp_path, dry_run=True, console=Console())
    assert "every pair is decided, so nothing is computed" in " ".join(capsys.readouterr().out.split())


def test_a_study_goes_on_while_a_pair_is_undecided(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, told = answering(differing)
    monkeypatch.setattr("harness.study.compare._compute", compute)
    compare(looking(root, 3, 5), tmp_path, dry_run=False, console=QUIET)
    assert told == [[0, 1, 2], [3, 4]]
    results = results_of(collect(tmp_path))
    assert results.report.alpha == look_level((3, 5), 5, 0.05, 1, "obrien-fleming") < 0.05
    assert set(results.planned.values()) == {5} and "look 2 of 2" in said(tmp_path)


def test_an_interrupted_look_is_reported_as_the_one_before_and_resumed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, told = answering(differing, stop_after=5)
    monkeypatch.setattr("harness.study.compare._compute", compute)
    study = looking(root, 3, 5)
    with pytest.raises(KeyboardInterrupt):
        compare(study, tmp_path, dry_run=False, console=QUIET)
    found = collect(tmp_path)
    assert (found.seeds, found.begun, len(found.cells)) == (3, (1, 2), 4)
    assert set(results_of(found).answers["seed"]) == {0, 1, 2}
    assert "The next look is not complete: 1 of its 2 cells is done." in said(tmp_path)
    capsys.readouterr()
    compare(study, tmp_path, dry_run=True, console=Console())
    assert "The next look is at 5 seeds" in " ".join(capsys.readouterr().out.split())
    compute, told = answering(differing)
    monkeypatch.setattr("harness.study.compare._compute", compute)
    compare(study, tmp_path, dry_run=False, console=QUIET)
    assert told == [[4]] and collect(tmp_path).seeds == 5


def test_a_wider_margin_does_not_lead_back_to_an_earlier_look(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, _ = answering(differing)
    monkeypatch.setattr("harness.study.compare._compute", compute)
    compare(looking(root, 3, 5, report={"margin": 1.0}), tmp_path, dry_run=False, console=QUIET)
    compare(looking(root, 3, 5, report={"margin": 100.0}), tmp_path, dry_run=False, console=QUIET)
    assert collect(tmp_path).seeds == 5


def test_more_seeds_than_were_declared_are_an_amendment_that_the_verdict_names(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute, _ = answering(differing)
    monkeypatch.setattr("harness.study.compare._compute", compute)
    compare(looking(root, 3), tmp_path, dry_run=False, console=QUIET)
    capsys.readouterr()
    compare(looking(root, 4), tmp_path, dry_run=False, console=Console())
    printed = " ".join(capsys.readouterr().out.split())
    assert "when 4 of 4 cells were known: seeds from 3 to 4" in printed
    text = (tmp_path / "report" / "pairs.md").read_text()
    assert "with results known, the study's seeds was amended" in text


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ([5, 3], "rise"),
        ([3, 3], "rise"),
        ([1, 3], "begin at 3 seeds"),
        ([], "whole number"),
        ([3, 0], "whole number"),
        ("3,x", "whole number"),
        (0, "whole number"),
        (2.5, "whole number"),
        (True, "whole number"),
        (list(range(3, 14)), "at most 10"),
    ],
)
def test_looks_that_make_no_sense_are_refused(root: Path, seeds: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        small_study(root, seeds=seeds)


@pytest.mark.parametrize(("seeds", "looks"), [("3,5,8", (3, 5, 8)), ("4", (4,)), ([4], (4,)), (2, (2,))])
def test_seeds_are_a_number_or_looks(root: Path, seeds: Any, looks: tuple[int, ...]) -> None:
    study = small_study(root, seeds=seeds)
    assert (study.looks, study.runs) == (looks, looks[-1])
    assert StudyConfig(**study.model_dump(mode="json")) == study
