"""One study over several models: a run directory each, all declared first, each on its own preset, refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.options import StudyOptions
from harness.cli.resolve import models_named, resolve_models, resolve_study
from harness.config.study import StudyConfig, load_study
from harness.console import Console
from harness.errors import UserError
from harness.study import models as several
from harness.study.matrix import read_matrix
from harness.study.models import ModelStudy, compare_models, run_folders

QUIET = Console(quiet=True)


def test_each_model_has_its_own_preset_and_a_folder_below_the_study_s() -> None:
    studies, folder = resolve_models(StudyOptions(model="tiny, 2b,7b", methods="grpo,sft", seeds=2))
    assert [one.study.model.name for one in studies] == ["tiny", "2b", "7b"]
    for one, name in zip(studies, ("tiny", "2b", "7b"), strict=True):
        alone = resolve_study(StudyOptions(model=name, methods="grpo,sft", seeds=2))
        assert one.study == alone
    rates = [one.study.train.learning_rate for one in studies]
    assert rates == [load_study(name).train.learning_rate for name in ("tiny", "2b", "7b")] and len(set(rates)) == 3
    assert folder == Path("runs/tiny-2b-7b")
    assert list(run_folders(studies, folder)) == [folder / name for name in ("tiny", "2b", "7b")]


@pytest.mark.parametrize("line", ['model = ["2b", "7b"]', 'model.name = ["2b", "7b"]'])
def test_a_study_file_names_several_models_and_each_keeps_its_preset(tmp_path: Path, line: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'extends = "2b"\nname = "mine"\nseeds = 3\n{line}\n')
    options = StudyOptions(study=str(file))
    studies, folder = resolve_models(options)
    assert folder == Path("runs/mine") and [one.study.seeds for one in studies] == [3, 3]
    assert [one.study.train.learning_rate for one in studies] == [
        load_study(name).train.learning_rate for name in ("2b", "7b")
    ]
    further = tmp_path / "further.toml"
    further.write_text(f'extends = "{file}"\nname = "further"\nseeds = 4\n')
    assert models_named(StudyOptions(study=str(further))) == ["2b", "7b"]
    # The command line's model stands for the file's, as ever.
    assert models_named(StudyOptions(study=str(file), model="7b")) == []
    assert resolve_study(StudyOptions(study=str(file), model="7b")).model.name == "7b"
    with pytest.raises(UserError, match=r"names the models 2b, 7b, which only `harness compare`"):
        resolve_study(options)


@pytest.mark.parametrize(
    ("text", "message"), [("2b,2b", "different models"), ("2b,", "different models"), ("2b,nonsense", "nonsense")]
)
def test_models_that_cannot_be_run_are_refused_before_any_is(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_models(StudyOptions(model=text))


@pytest.mark.parametrize("names", ['["2b"]', '["2b", "2b"]', "[]", "[2, 7]"])
def test_a_list_is_of_several_different_names(tmp_path: Path, names: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'extends = "2b"\nmodel = {names}\n')
    with pytest.raises(UserError, match="model"):
        options = StudyOptions(study=str(file))
        resolve_models(options) if models_named(options) else resolve_study(options)


def test_other_commands_take_one_model() -> None:
    with pytest.raises(UserError, match=r"`--model 2b,7b`: this command takes one model"):
        resolve_study(StudyOptions(model="2b,7b"))


def made(*names: str) -> list[ModelStudy]:
    tiny = load_study("tiny").model_dump(mode="json")
    return [ModelStudy(StudyConfig(**{**tiny, "model": {**tiny["model"], "name": name}}), ()) for name in names]


def test_two_models_in_one_folder_and_a_run_directory_for_several_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/qwen and b/qwen would both be run in"):
        run_folders(made("a/qwen", "b/qwen"), tmp_path)
    (tmp_path / "matrix.json").write_text("{}")
    with pytest.raises(UserError, match="a run directory"):
        run_folders(made("tiny", "other"), tmp_path)


def test_the_folder_of_several_run_directories_names_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "matrix.json").write_text("{}")
    with pytest.raises(UserError, match=rf"name those in it: {tmp_path}/a {tmp_path}/b$"):
        read_matrix(tmp_path)


def test_all_are_declared_before_the_first_trains_and_the_rest_go_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[Any, ...]] = []

    def run(study: StudyConfig, folder: Path, *, dry_run: bool, **_: Any) -> int:
        log.append(("compare", folder.name, dry_run))
        cell = folder / "cells" / "x"
        if study.model.name != "b":
            cell.mkdir(parents=True)
            (cell / "status.json").write_text(json.dumps({"state": "done"}))
        return int(study.model.name == "b")

    class Report:
        def write_several(self, folders: list[Path], console: Console, *, out: Path) -> list[Path]:
            log.append(("report", [folder.name for folder in folders], out))
            return [out / "index.html"]

    monkeypatch.setattr(several, "compare", run)
    monkeypatch.setattr(several, "prepare_run", lambda study, folder, console: log.append(("declare", folder.name)))
    monkeypatch.setattr(several, "load_report", Report)
    assert compare_models(made("a", "b", "c"), tmp_path, dry_run=False, console=QUIET) == 1
    assert log == [
        *(("declare", name) for name in "abc"),
        *(("compare", name, False) for name in "abc"),
        ("report", ["a", "c"], tmp_path / "report"),
    ]
    log.clear()
    assert compare_models(made("a", "b"), tmp_path / "dry", dry_run=True, console=QUIET) == 1
    assert log == [("compare", "a", True), ("compare", "b", True)]
