"""Four published benchmarks, from copies in their layout to tables, with the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_kit import WRITERS
from study_kit import QUIET, prepare_cells, small_study

from harness.data.prepare_described import prepare_described
from harness.errors import UserError
from harness.plugins import registry
from harness.study.asked import read_asked, rules_and_questions
from harness.study.cell import main
from harness.study.setup import load_data
from reports.comparison import Comparison

SPLITS = {name: "all_frame" if name == "revsi" else "test" for name in WRITERS}


def prepared(root: Path) -> dict[str, dict[str, str]]:
    for name, write in WRITERS.items():
        told = registry.load("benchmarks", name).description
        prepare_described(told, write(root / f"copy-{name}"), root / name, part=True, workers=1)
    return {name: {"file": f"{root / name}#{split}"} for name, split in SPLITS.items()}


def test_all_four_run_from_their_copies_to_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = prepared(tmp_path)
    study = small_study(tmp_path, evaluation={"more": more})
    run = tmp_path / "run"
    _, cells = prepare_cells(study, run)
    for cell in cells.values():
        assert main([str(run), cell.id]) == 0
    paths = {path.name: path for path in Comparison().write(run, QUIET)}
    page = paths["index.html"].read_text()
    for name in WRITERS:
        table = json.loads(paths[f"additional-{name}.json"].read_text())
        rows = {row["method"]: row for row in table["rows"]}
        described = registry.load("benchmarks", name)
        present = {task.name for task in described.tasks} & rows["sft"].keys()
        assert present and 0 <= rows["sft"]["overall"] <= 100
        assert f"Scores on {described.description.title}" in page

        samples = next((run / "cells").glob(f"sft-*/{name}/*/samples.jsonl"))
        rules, data = rules_and_questions([samples], None, None, None)  # its manifest says what was asked
        asked = read_asked(samples)
        assert isinstance(rules, described) and asked and len(asked.ids) == len(data.records)
        found = Comparison().score(samples, data, rules, ["official"])["official"]
        assert found["overall"] == pytest.approx(rows["sft"]["overall"])

        copy = tmp_path / f"{name}.jsonl"  # answers of any tool
        copy.write_text("".join(json.dumps({"id": r.id, "answer": r.ground_truth}) + "\n" for r in data.records))
        rules, data = rules_and_questions([copy], f"{name}={tmp_path / name}#{SPLITS[name]}", None, None)
        written = Comparison().write_samples(QUIET, [str(copy)], data, rules, tmp_path / f"report-{name}")
        (row,) = [
            row
            for row in json.loads(next(p for p in written if p.name == "scores.json").read_text())["rows"]
            if row["method"] == name
        ]
        assert row["overall"] == 100 and described.description.title in written[0].read_text()


def test_one_of_them_is_the_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path)
    study = small_study(tmp_path, evaluation={"benchmark": "revsi"}, data={"benchmark": f"{tmp_path}/revsi#all_frame"})
    _, benchmark = load_data(study)
    assert len(benchmark.records) == 18
    narrow = study.model_copy(
        update={"data": study.data.model_copy(update={"benchmark": f"{tmp_path}/revsi#32_frame"})}
    )
    with pytest.raises(UserError, match="its truths hold for 32 frames, and 4 are shown"):
        load_data(narrow)
