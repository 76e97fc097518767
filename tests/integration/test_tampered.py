"""A finished run directory that is changed by hand: `report` refuses it and names the file, `compare` restores it."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from study_kit import QUIET, prepare_cells, small_study

from harness.config.study import StudyConfig
from harness.errors import UserError
from harness.io import read_json, sha256_file, write_json, write_sealed
from harness.study import matrix
from harness.study.asked import EvaluationManifest
from harness.study.cell import main
from harness.study.compare import score_cells
from harness.study.matrix import Cell, CellDocument, remaining_work
from harness.study.scored import Rules
from harness.study.status import State, record_state
from harness.study.time_estimate import estimate
from harness.train.checkpoint import trained_checkpoints
from reports.comparison import Comparison


class Study(NamedTuple):
    """A study and its cells, with the run directory that holds them finished."""

    study: StudyConfig
    cells: dict[str, Cell]
    rules: list[Rules]
    run_dir: Path
    tables: dict[str, bytes]


class Place(NamedTuple):
    """A copy of that run directory, for a test to spoil."""

    run_dir: Path
    sft: Path
    other: Path
    base: Path


@pytest.fixture(autouse=True, scope="module")
def handler_kept() -> Iterator[None]:
    """A cell takes SIGTERM over, which the test process wants back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def tables(run_dir: Path) -> dict[str, bytes]:
    """What a report writes, without the page, which says when."""
    return {one.name: one.read_bytes() for one in Comparison().write(run_dir, QUIET) if one.suffix in (".csv", ".json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("tampered")
    study, run_dir = small_study(root, seeds=2, train={"learning_rate": 1e-2}), root / "whole"
    plan, cells = prepare_cells(study, run_dir)
    for cell in cells.values():
        assert main([str(run_dir), cell.id]) == 0
    rules = [Rules.of(study, name, plan.benchmark, digest) for name, digest in plan.questions.items()]
    return Study(study, cells, rules, run_dir, tables(run_dir))


@pytest.fixture
def place(finished: Study, tmp_path: Path) -> Place:
    run_dir = Path(shutil.copytree(finished.run_dir, tmp_path / "moved"))
    return Place(run_dir, *(finished.cells[name].folder(run_dir) for name in ("sft-0", "sft-1", "base-0")))


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(source, target)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def reorder(path: Path) -> None:
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([second, first, *rest]))


LAST, FIRST, BASE = "vsibench/step-000002", "vsibench/step-000001", "vsibench/step-000000"
TAMPERS: dict[str, Callable[[Place], object]] = {
    "last evaluation deleted": lambda p: shutil.rmtree(p.sft / LAST),
    "first evaluation deleted": lambda p: shutil.rmtree(p.sft / FIRST),
    "evaluations swapped": lambda p: swap(p.sft / FIRST, p.sft / LAST),
    "an earlier evaluation in place of the last": lambda p: copy(p.sft / FIRST, p.sft / LAST),
    "another seed's evaluation": lambda p: copy(p.other / LAST, p.sft / LAST),
    "the base model's evaluation": lambda p: copy(p.base / BASE, p.sft / LAST),
    "all of another seed's evaluations and its record": lambda p: (
        copy(p.other / "vsibench", p.sft / "vsibench"),
        shutil.copy(p.other / "finished.json", p.sft),
    ),
    "an answer edited": lambda p: edit(p.sft / LAST / "samples.jsonl", '"answer": "', '"answer": "4'),
    "answers reordered": lambda p: reorder(p.sft / LAST / "samples.jsonl"),
    "answers cut short": lambda p: edit(p.sft / LAST / "samples.jsonl", '{"id": 8', ""),
    "manifest edited": lambda p: edit(p.sft / LAST / "manifest.json", '"n":9', '"n":8'),
    "consumption edited": lambda p: edit(p.sft / "compute.json", '"seconds": ', '"seconds": 1'),
    "machine edited": lambda p: edit(p.sft / "env.json", '"threads": 1', '"threads": 8'),
    "record deleted": lambda p: (p.sft / "finished.json").unlink(),
    "record edited": lambda p: edit(p.sft / "finished.json", '"step-000002"', '"step-000003"'),
}
"""Named changes to a cell that says it is done."""


RESTORED = {"last evaluation deleted", "all of another seed's evaluations and its record", "consumption edited"}
"""Changes after which the cell is run again; the others lead to the same work."""


@pytest.mark.parametrize("name", TAMPERS)
def test_what_was_changed_is_refused_by_the_report_and_restored(finished: Study, place: Place, name: str) -> None:
    TAMPERS[name](place)
    with pytest.raises(UserError, match=str(place.sft)):
        tables(place.run_dir)
    works = {work.cell.id: work for work in remaining_work(place.run_dir, finished.cells.values())}
    (wrong,) = (work for work in works.values() if not work.complete)
    assert wrong.cell.id == place.sft.name and str(place.sft) in wrong.status.reason
    if name not in RESTORED:
        return
    matrix.write_cell(place.run_dir, finished.study, wrong.cell)
    assert main([str(place.run_dir), wrong.cell.id]) == 0
    score_cells(finished.study, place.run_dir, list(finished.cells.values()), finished.rules)
    assert tables(place.run_dir) == finished.tables


HARMLESS: dict[str, Callable[[Place], object]] = {
    "nothing": lambda p: None,
    "a checkpoint's copy beside it": lambda p: shutil.copytree(
        p.sft / "checkpoints/step-000001", p.sft / "checkpoints/step-000001.bak"
    ),
    "an evaluation of another step": lambda p: shutil.copytree(p.other / LAST, p.sft / "vsibench/step-000009"),
    "the weights removed": lambda p: shutil.rmtree(p.sft / "checkpoints"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_decides_no_number_changes_none(finished: Study, place: Place, name: str) -> None:
    HARMLESS[name](place)
    of_training = ("checkpoints.csv", "compute.")  # what a deleted checkpoint had consumed is no longer known
    found = {key: one for key, one in tables(place.run_dir).items() if not key.startswith(of_training)}
    assert found == {key: one for key, one in finished.tables.items() if not key.startswith(of_training)}
    assert {"scores.json", "pairs.json"} <= found.keys()
    assert all(work.complete for work in remaining_work(place.run_dir, finished.cells.values()))


def test_cells_that_trade_places_in_the_matrix_are_refused(place: Place) -> None:
    document = read_json(place.run_dir / "matrix.json")
    rows = document["cells"]
    rows[1]["seed"], rows[2]["seed"] = rows[2]["seed"], rows[1]["seed"]
    write_json(place.run_dir / "matrix.json", document)
    with pytest.raises(UserError, match=r"matrix\.json.*`id` is not sft-tiny-s1-"):
        tables(place.run_dir)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"name": "tiny"', '"name": "huge"'), ('"margin": null', '"margin": 50.0'), ('"amount": 2', '"amount": 9')],
)
def test_a_study_that_was_edited_gives_its_name_to_no_result(place: Place, old: str, new: str) -> None:
    edit(place.run_dir / "study.json", old, new)
    with pytest.raises(UserError, match=r"study\.json`: edited.*Delete both"):
        tables(place.run_dir)


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = read_json(path)
    change(document)
    del document["seal"]
    write_sealed(path, document)


STRANGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "weights.step-x": lambda d: d.update(weights={"step-x": "w"}, answers={"vsibench": ["a"]}),
    "weights": lambda d: d.update(weights={"/dev/zero": "w"}, answers={"vsibench": ["a"]}),
    "answers": lambda d: d.update(answers={"vsibench": ["a"]}),
    "answers.../..": lambda d: d.update(answers={"../..": ["a", "a"]}),
    "files./etc/passwd": lambda d: d["files"].update({"/etc/passwd": "a"}),
}


@pytest.mark.parametrize("key", STRANGE)
def test_a_strangers_record_leads_nowhere_else(place: Place, key: str) -> None:
    reseal(place.sft / "finished.json", STRANGE[key])
    with pytest.raises(UserError, match=rf"finished\.json`: `?{re.escape(key.partition('.')[0])}"):
        tables(place.run_dir)


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"id": 0, "answer": null, "truncated": false, "tokens": 1, "prompt": ""}', None]
)
def test_a_strangers_answers_are_read_by_a_schema(place: Place, line: str | None) -> None:
    file = place.sft / LAST / "samples.jsonl"
    file.write_text("" if line is None else line + "\n" + file.read_text().partition("\n")[2])
    digest = sha256_file(file)
    reseal(place.sft / LAST / "manifest.json", lambda d: d.update(samples=digest))
    reseal(place.sft / LAST / "scores.json", lambda d: d.update(samples=digest))
    reseal(place.sft / "finished.json", lambda d: d["answers"]["vsibench"].__setitem__(-1, digest))
    with pytest.raises(
        UserError, match=r"samples\.jsonl`: (`0|cannot be read)" if line else "9 questions have no answer"
    ):
        tables(place.run_dir)


def unfinished(finished: Study, place: Place) -> Cell:
    """Make a cell one whose training is complete and whose last evaluation was interrupted."""
    record_state(place.sft, State.INTERRUPTED)
    (place.sft / "finished.json").unlink()
    manifest = EvaluationManifest.read(place.sft / LAST)
    manifest.model_copy(update={"complete": False, "samples": None}).write(place.sft / LAST)
    return finished.cells["sft-0"]


LINES: dict[str, Callable[[list[str]], list[str]]] = {
    "edited": lambda lines: [lines[0], lines[1].replace('"answer": "', '"answer": "4'), *lines[2:]],
    "damaged": lambda lines: [*lines[:5], lines[5][:20] + "\n", *lines[6:]],
    "in another order": lambda lines: [lines[1], lines[0], *lines[2:]],
}


@pytest.mark.parametrize("name", LINES)
def test_answers_of_an_interrupted_evaluation_are_kept_as_far_as_they_are_as_written(
    finished: Study, place: Place, name: str
) -> None:
    cell, samples = unfinished(finished, place), place.sft / LAST / "samples.jsonl"
    whole = samples.read_text()
    samples.write_text("".join(LINES[name](whole.splitlines(keepends=True))))
    assert main([str(place.run_dir), cell.id]) == 0
    assert samples.read_text() == whole
    assert tables(place.run_dir) == finished.tables


def test_anothers_answers_do_not_continue_an_evaluation(finished: Study, place: Place) -> None:
    cell = unfinished(finished, place)
    whole = (place.sft / LAST / "samples.jsonl").read_text()
    shutil.copy(place.other / LAST / "samples.jsonl", place.sft / LAST)
    assert main([str(place.run_dir), cell.id]) == 0
    assert (place.sft / LAST / "samples.jsonl").read_text() == whole


CHECKPOINTS: dict[str, Callable[[Place], object]] = {
    "another seed's": lambda p: copy(p.other / "checkpoints/step-000002", p.sft / "checkpoints/step-000002"),
    "steps swapped": lambda p: swap(p.sft / "checkpoints/step-000001", p.sft / "checkpoints/step-000002"),
    "the first removed": lambda p: shutil.rmtree(p.sft / "checkpoints/step-000001"),
    "the first replaced": lambda p: copy(p.other / "checkpoints/step-000001", p.sft / "checkpoints/step-000001"),
    "a further one": lambda p: shutil.copytree(p.other / "checkpoints/step-000002", p.sft / "checkpoints/step-000003"),
    "weights besides": lambda p: shutil.copy(
        p.other / "checkpoints/step-000002/model.safetensors", p.sft / "checkpoints/step-000002/vision.safetensors"
    ),
    "manifest edited": lambda p: edit(
        p.sft / "checkpoints/step-000002/manifest.json", '"adapter":false', '"adapter":true'
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_in_the_wrong_place_is_refused(place: Place, name: str) -> None:
    training = CellDocument.read(place.sft).training
    assert len(trained_checkpoints(place.sft / "checkpoints", training)) == 2
    CHECKPOINTS[name](place)
    with pytest.raises(UserError, match=str(place.sft / "checkpoints")):
        trained_checkpoints(place.sft / "checkpoints", training)


def test_a_cell_neither_trains_on_nor_evaluates_anothers_checkpoint(
    finished: Study, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = unfinished(finished, place)
    shutil.rmtree(place.sft / "vsibench")
    CHECKPOINTS["another seed's"](place)
    assert main([str(place.run_dir), cell.id]) == 1
    assert str(place.sft / "checkpoints") in capsys.readouterr().err
    assert not (place.sft / "finished.json").exists() and not (place.sft / "vsibench").exists()


def test_another_cells_configuration_is_refused(
    finished: Study, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(place.other / "config.json", place.sft)
    assert main([str(place.run_dir), place.sft.name]) == 1
    assert "config.json" in capsys.readouterr().err
    document = json.loads((finished.cells["sft-0"].folder(finished.run_dir) / "config.json").read_text())
    document["identity"]["seed"] = 5
    write_json(place.sft / "config.json", document)
    assert main([str(place.run_dir), place.sft.name]) == 1
    assert "config.json" in capsys.readouterr().err


def test_a_cell_that_is_to_be_evaluated_with_other_settings_is_not_done_because_its_status_says_so(
    finished: Study, place: Place
) -> None:
    cell = finished.cells["sft-0"]
    asked = {name: one.model_copy(update={"decoding": "other"}) for name, one in cell.evaluation.items()}
    other = replace(cell, evaluation=asked)
    matrix.write_cell(place.run_dir, finished.study, other)
    record_state(place.sft, State.DONE)
    (work,) = remaining_work(place.run_dir, [other])
    assert not work.complete
    with pytest.raises(UserError, match=r"finished\.json"):
        tables(place.run_dir)


def test_what_was_logged_is_restored_with_the_checkpoint(finished: Study, place: Place) -> None:
    log = place.sft / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b'{"step": 1, "loss": -5}\nnonsense\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        tables(place.run_dir)
    assert main([str(place.run_dir), place.sft.name]) == 0
    assert log.read_bytes() == whole


def test_times_that_nothing_took_give_no_estimate(finished: Study, place: Place) -> None:
    (place.sft / "timing.json").write_text('{"start": 2.0, "train": 1e308, "evaluate": 1e308}')
    shutil.rmtree(place.other)
    (work,) = (work for work in remaining_work(place.run_dir, finished.cells.values()) if not work.complete)
    found = estimate(work, finished.study, place.run_dir, 9)
    assert (found.seconds, found.unknown) == (2, ("training", "evaluation"))
