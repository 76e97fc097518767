"""From a run directory to one table of answers, and to a report: what is refused, what is shown."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_kit import QUIET, finish_cell, prepare_cells, small_study

from harness.config.study import StudyConfig
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.outputs import write_listed
from harness.study.asked import Asked, EvaluationManifest, digest_of_questions
from harness.study.cell import main as run_cell
from harness.study.matrix import Cell, check_output
from harness.study.setup import Environment
from harness.study.status import State, Status, write_status
from harness.vsibench.records import Record
from reports.collect import SECOND_TURN, collect
from reports.comparison import Comparison
from reports.page import fairness_card
from reports.results import results_of
from reports.statistics import training_metrics
from reports.tables import build_tables

RIGHT = dict(zip(map(str, range(9)), ["4", "B", "23.5"] * 3, strict=True))
WRONG = dict(zip(map(str, range(9)), ["9", "C", "99", "4", "B", "99", "x", "C", "23.5"], strict=True))


MACHINE = Environment(
    python="3.11", platform="Linux", device="cpu", threads=1, packages={"torch": "2"}, argv=("harness",)
).model_dump(mode="json")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    return small_study(tmp_path_factory.mktemp("study"), seeds=2)


@pytest.fixture
def cells(study: StudyConfig, tmp_path: Path) -> dict[str, Cell]:
    return prepare_cells(study, tmp_path)[1]


def finish_all(run_dir: Path, cells: dict[str, Cell], **changes: dict[str, Any]) -> None:
    for name, cell in cells.items():
        answers = WRONG if cell.is_base else RIGHT
        options = {"answers": answers, "step": 0 if cell.is_base else 2} | changes.get(name.replace("-", "_"), {})
        finish_cell(run_dir, cell, **options)


def test_answers_are_scored_and_the_last_checkpoint_is_reported(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    finish_cell(tmp_path, cells["sft-0"], WRONG, step=1)
    collected = collect(tmp_path)
    reported = collected.headline.reported
    assert len(collected.headline.answers) == 4 * 9 and len(reported) == 3 * 9
    assert set(reported.loc[reported["method"] == "sft", "step"]) == {2}
    assert (reported.loc[reported["method"] == "sft", "score"] == 1).all()
    base = reported[reported["method"] == "base"].set_index("question")["score"]
    # By hand: 9 for 4 is 125% off, 4 of 4 right; 99 for 23.5 far off; "x" no number.
    assert base.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("key", ["benchmark", "prompts", "frames", "decoding", "engine"])
def test_unequal_evaluations_are_refused_and_the_part_named(tmp_path: Path, cells: dict[str, Cell], key: str) -> None:
    finish_all(tmp_path, cells, sft_1={key: "something else"})
    with pytest.raises(UserError, match=rf"must not be compared: {key} is .*something else") as caught:
        collect(tmp_path)
    assert cells["sft-1"].id in str(caught.value)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("study.json", "seeds", "two"),
        ("study.json", "nonsense", 1),
        ("matrix.json", "cells", 3),
        ("matrix.json", "cells.1.id", "../../elsewhere"),
        ("matrix.json", "cells.1.seed", None),
        ("CELL/compute.json", "seconds", -1),
        ("CELL/compute.json", "updates", 10**400),
        ("CELL/compute.json", "tokens_sampled", "many"),
        ("CELL/env.json", "packages", ["torch"]),
        ("CELL/vsibench/step-000002/manifest.json", "complete", "perhaps"),
        ("CELL/vsibench/step-000002/manifest.json", "identity", [1]),
    ],
)
def test_a_damaged_document_is_refused_by_file_and_key(
    tmp_path: Path, cells: dict[str, Cell], file: str, key: str, value: Any
) -> None:
    finish_all(tmp_path, cells)
    write_json(cells["sft-0"].folder(tmp_path) / "env.json", MACHINE)
    path = tmp_path / file.replace("CELL", f"cells/{cells['sft-0'].id}")
    document = read_json(path)
    *parts, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    node = document
    for part in parts:
        node = node[part]
    node[last] = value
    write_json(path, document)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}.*(`{key}|not what)") as caught:
        collect(tmp_path)
    assert "again" in str(caught.value) or "Delete" in str(caught.value)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=re.escape(str(path))):
        collect(tmp_path)


def test_questions_that_changed_since_they_were_asked_are_not_scored(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    records = collect(tmp_path).test.records
    folder = cells["sft-0"].folder(tmp_path) / "vsibench" / "step-000002"

    def ask(records: Sequence[Record], questions: str = "") -> None:
        ids = tuple(record.key for record in records)
        asked = Asked(mode="official", ids=ids, questions=questions or digest_of_questions(records))
        EvaluationManifest.read(folder).model_copy(update={"asked": asked}).write(folder)

    ask(records)
    collect(tmp_path)
    ask(records, "d")
    with pytest.raises(UserError, match=r"other questions were asked than description\.json has of .*vsibench"):
        collect(tmp_path)
    ask(records[:4])
    with pytest.raises(UserError, match=r"4 then, 9 now"):
        collect(tmp_path)


def test_a_run_directory_of_a_newer_version_is_named_as_such(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    document = read_json(tmp_path / "matrix.json")
    newer = document | {"version": "99.1", "looks": ["a key of that version"]}
    write_listed(tmp_path, "matrix.json", json.dumps(newer).encode())
    with pytest.raises(UserError, match=r"matrix\.json.* 99\.1 wrote .*--out"):
        collect(tmp_path)
    with pytest.raises(UserError, match=r"matrix\.json.* 99\.1 wrote .*--out"):
        check_output(tmp_path, StudyConfig(**read_json(tmp_path / "study.json")))


@pytest.mark.parametrize("key", ["id", "model", "hash8"])
def test_a_cell_under_another_name_is_refused(tmp_path: Path, cells: dict[str, Cell], key: str) -> None:
    finish_all(tmp_path, cells)
    document = read_json(tmp_path / "matrix.json")
    document["cells"][1][key] = "x"
    write_json(tmp_path / "matrix.json", document)
    with pytest.raises(UserError, match=r"matrix\.json.*cells\.1.*`id` is not"):
        collect(tmp_path)


def test_cells_other_than_the_studys_are_refused(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    matrix = read_json(tmp_path / "matrix.json")
    for rows in (matrix["cells"][:-1], matrix["cells"] + matrix["cells"][-1:]):
        write_json(tmp_path / "matrix.json", matrix | {"cells": rows})
        with pytest.raises(UserError, match=r"matrix\.json.*not those of study\.json.*method sft, seed 1"):
            collect(tmp_path)


@pytest.mark.parametrize("line", ['{"loss": 1}', '{"step": "x"}', '{"step": 1, "loss": "low"}', "[1]", "{", ""])
def test_damaged_metrics_are_refused_by_line(tmp_path: Path, cells: dict[str, Cell], line: str) -> None:
    finish_all(tmp_path, cells)
    file = cells["sft-0"].folder(tmp_path) / "metrics.jsonl"
    file.write_text(f'{{"step": 1, "loss": null, "examples": 4.0}}\n{line}\n')
    with pytest.raises(UserError, match=rf"{re.escape(str(file))}`, line 2"):
        training_metrics(collect(tmp_path))


def test_a_video_that_changed_between_two_evaluations_is_noticed(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells, sft_1={"prompt": "another"})
    with pytest.raises(UserError, match="question 0 was not the same"):
        collect(tmp_path)


def test_a_question_without_an_answer_is_not_scored_zero(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells, sft_0={"answers": dict(list(RIGHT.items())[:-2])})
    with pytest.raises(UserError, match="2 questions have no answer, the first is 7"):
        collect(tmp_path)


def test_changed_answers_are_refused(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    samples = cells["sft-0"].folder(tmp_path) / "vsibench" / "step-000002" / "samples.jsonl"
    samples.write_text(samples.read_text().replace('"answer": "B"', '"answer": "C"', 1))
    with pytest.raises(UserError, match=r"samples\.jsonl.*not what the evaluation wrote"):
        collect(tmp_path)


def test_nothing_finished_says_what_the_cells_are(tmp_path: Path, cells: dict[str, Cell]) -> None:
    write_status(cells["sft-0"].folder(tmp_path), Status(state=State.FAILED, reason="the loss is nan at step 1"))
    with pytest.raises(UserError, match=r"no cell has finished.*failed the loss is nan at step 1"):
        collect(tmp_path)
    with pytest.raises(UserError, match="not a run directory"):
        collect(tmp_path / "elsewhere")


def test_missing_seeds_are_shown(tmp_path: Path, cells: dict[str, Cell]) -> None:
    for name in ("base-0", "sft-0"):
        finish_cell(tmp_path, cells[name], RIGHT if name == "sft-0" else WRONG, step=2)
    write_status(cells["sft-1"].folder(tmp_path), Status(state=State.FAILED, reason="the loss is nan at step 1"))
    (cells["sft-1"].folder(tmp_path) / "compute.json").write_text(
        json.dumps(read_json(cells["sft-0"].folder(tmp_path) / "compute.json") | {"updates": 7000})
    )
    paths = Comparison().write(tmp_path, QUIET)
    text = (tmp_path / "report" / "scores.md").read_text()
    assert "seed 1 failed: the loss is nan at step 1" in text and "1 of 2" in text
    card = (tmp_path / "report" / "fairness.md").read_text()
    assert "the loss is nan at step 1" in card and "3,502" not in card  # what a broken cell consumed is no mean
    assert all(path.is_file() for path in paths)


def test_no_file_of_the_report_holds_a_nan(tmp_path: Path, cells: dict[str, Cell]) -> None:
    """Ties give tests without a variance: nothing in JSON may be NaN or Infinity."""
    for base, method in ((WRONG, RIGHT), (RIGHT, RIGHT), (WRONG, WRONG)):
        for cell in cells.values():
            finish_cell(tmp_path, cell, base if cell.is_base else method, step=2)
        paths = Comparison().write(tmp_path, QUIET)
        found = [path for path in paths if path.suffix == ".json"]
        assert {path.name for path in found} >= {"scores.json", "pairs.json"}
        for path in found:
            json.loads(path.read_text(), parse_constant=pytest.fail)


def test_the_report_is_a_function_of_the_answers(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    dated = ("index.html", "methods.md", "methods.tex")

    def written() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Comparison().write(tmp_path, QUIET) if path.name not in dated}

    first = written()
    for cell in cells.values():
        write_status(cell.folder(tmp_path), Status(state=State.DONE, step=7))
    assert written() == first
    tables = build_tables(results_of(collect(tmp_path)))
    assert tables.pairs is not None and len(tables.contrasts)
    assert first["scores.md"].decode() == tables.scores.to_markdown()


def test_the_card_names_what_was_shared(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    told = {"ends": ["<|im_end|>", "<|endoftext|>"], "notes": ["The model brings top_k = 1."]}
    told |= {"quantisation": "4bit fp4: 56 layers"}
    write_json(cells["sft-0"].folder(tmp_path) / "env.json", MACHINE | told)
    card = fairness_card(collect(tmp_path)).to_markdown()
    assert re.search(r"\| Quantisation +\| 4bit fp4: 56 layers ", card)
    for said in ("Notes on the model", "The model brings top_k = 1.", "endoftext"):
        assert said in card.replace("\\", "")
    for said in (
        "2 optimiser steps",
        "digest dddddddddddd",
        "official, 1 (thinking-in-space",
        "distance × 1",
        "greedy",
    ):
        assert said in card


def test_the_card_tells_what_was_left_out_and_what_to_know(tmp_path: Path, cells: dict[str, Cell]) -> None:
    finish_all(tmp_path, cells)
    collected = collect(tmp_path)
    told = {"skipped": ("a.jsonl:3: no <b>video</b>",) * 2, "notes": ("2 types are not in this copy",)}
    train = collected.train.model_copy(update=told)
    described = collected.description.model_copy(update={"train": train})
    card = fairness_card(replace(collected, description=described)).to_markdown()
    assert "- a.jsonl:3: no &lt;b&gt;video&lt;/b&gt; (2 times)" in card
    assert "## Notes on the data\n\n- 2 types are not in this copy" in card


def test_two_turns_stand_beside_one_and_both_raw_answers_are_shown(tmp_path: Path) -> None:
    """Real cells: the base model and one training, evaluated in one turn and in two of the same mode and limit."""
    thought = "sft:prompt.evaluation=cot"
    methods = (thought, f"{thought}:evaluation.two_turns=true")
    study = small_study(tmp_path / "study", methods=methods, train={"checkpoints": 1})
    plan, _ = prepare_cells(study, tmp_path / "run")
    before = signal.getsignal(signal.SIGTERM)
    for cell in plan.cells:
        assert run_cell([str(tmp_path / "run"), cell.id]) == 0
    signal.signal(signal.SIGTERM, before)  # a cell takes it over
    found = collect(tmp_path / "run").headline.reported
    alone, two = (found[found["method"] == method].set_index("question") for method in methods)
    assert len(alone) == len(two) == len(plan.benchmark.records)
    parts = two["answer"].str.split(SECOND_TURN, n=1, expand=True, regex=False)
    assert parts[0].tolist() == alone["answer"].tolist() and parts[1].tolist() == two["read"].tolist()
    assert (alone["answer"] == alone["read"]).all()
