"""Identities by content: files that are edited or replaced under their old names are others, and so are threads."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from study_kit import QUIET, prepare_cells, small_study

from harness.config.study import ModelSection, StudyConfig
from harness.console import Console
from harness.hub import model_digests
from harness.io import read_json, write_json, write_text
from harness.models.conversation import conversation_notes, generation_defaults
from harness.models.loading import check_model, load_model
from harness.models.presets import TINY
from harness.study.dry_run import print_dry_run
from harness.study.planning import make_plan
from harness.study.threads import settle_threads


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def planned(study: StudyConfig, *, keep: bool = True) -> dict[str, tuple[str, str]]:
    """Of each method, its cell's id and what its evaluation asks."""
    return {c.method: (c.id, c.evaluation["vsibench"].benchmark) for c in make_plan(study, QUIET, keep=keep).cells}


def replace(path: Path, content: bytes) -> None:
    """Another file under the same name, with the same time of modification."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_replaced_training_video_is_another_cell(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    world = tmp_path / "data" / "world"
    before = planned(study)
    replace(world / "train_000002.mp4", (world / "train_000001.mp4").read_bytes())
    after = planned(study)
    assert after["base"] == before["base"]
    assert after["sft"][0] != before["sft"][0] and after["sft"][1] == before["sft"][1]


def test_a_replaced_benchmark_video_is_another_question(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    world = tmp_path / "data" / "world"
    before = planned(study)
    replace(world / "test_000002.mp4", (world / "test_000001.mp4").read_bytes())
    for method, (cell, asked) in planned(study).items():
        assert cell == before[method][0] and asked != before[method][1]


def test_what_is_not_shown_and_where_it_is_do_not_count(tmp_path: Path) -> None:
    study = small_study(tmp_path, data={"limit": 3})
    before = planned(study)
    replace(tmp_path / "data" / "world" / "train_000002.mp4", b"of no record that is trained on")
    os.utime(tmp_path / "data" / "world" / "train_000000.mp4")
    shutil.copytree(tmp_path / "data", tmp_path / "moved" / "data")
    here, moved = planned(study), planned(small_study(tmp_path / "moved", data={"limit": 3}))
    assert here == before
    assert {asked for _, asked in moved.values()} == {asked for _, asked in before.values()}


def test_a_replaced_still_counts(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    world, rng = tmp_path / "data" / "world", np.random.default_rng(0)
    (world / "train_000000.mp4").unlink()
    stills = world / "train_000000"
    stills.mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), np.uint8)).save(stills / f"{number}.png")
    before = planned(study)
    replace(stills / "2.png", (stills / "1.png").read_bytes())
    assert planned(study)["sft"][0] != before["sft"][0]


def test_a_dry_run_reads_the_videos_and_writes_nothing(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    first = planned(study, keep=False)
    print_dry_run(study, tmp_path / "run", QUIET)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()
    assert planned(study) == first and (tmp_path / "cache" / "frames" / "digests.jsonl").is_file()


def test_a_run_directory_keeps_its_threads_on_another_machine(tmp_path: Path, threads: None) -> None:
    study = small_study(tmp_path, runtime={"threads": 0})
    torch.set_num_threads(3)
    settled = settle_threads(study, tmp_path / "run", QUIET)
    assert settled.runtime.threads == 3
    _, cells = prepare_cells(settled, tmp_path / "run")
    torch.set_num_threads(1)
    said = io.StringIO()
    again = settle_threads(study, tmp_path / "run", Console(file=said, width=200))
    assert again == settled and "3 CPU threads per cell" in said.getvalue()
    assert {cell.id for cell in make_plan(again, QUIET).cells} == {cell.id for cell in cells.values()}
    (tmp_path / "run" / "study.json").unlink()  # as `harness train` leaves a run directory
    assert settle_threads(study, tmp_path / "run", QUIET) == settled


def test_other_threads_are_other_cells_and_that_is_said(tmp_path: Path) -> None:
    study = small_study(tmp_path, runtime={"threads": 3})
    _, cells = prepare_cells(study, tmp_path / "run")
    other, said = small_study(tmp_path, runtime={"threads": 2}), io.StringIO()
    other = settle_threads(other, tmp_path / "run", Console(file=said, width=300))
    assert "runtime.threads = 2" in said.getvalue() and "runtime.threads = 3 keeps them" in said.getvalue()
    base, sft = make_plan(other, QUIET).cells
    assert sft.id != cells["sft-0"].id
    assert base.id == cells["base-0"].id and base.evaluation != cells["base-0"].evaluation


def test_a_gpu_does_not_count_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    found = [planned(small_study(tmp_path, runtime={"threads": n})) for n in (1, 2)]
    assert found[0] == found[1]
    study = small_study(tmp_path, runtime={"threads": 0})
    write_json(tmp_path / "run" / "study.json", {"runtime": {"threads": 3}})
    assert settle_threads(study, tmp_path / "run", QUIET) == study


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with every kind of file that transformers knows, also those of other releases."""
    folder = shutil.copytree(TINY.location, tmp_path_factory.mktemp("models") / "model")
    for name, key in (("config", "configuration_files"), ("tokenizer", "fast_tokenizer_files")):
        shutil.copy(folder / f"{name}.json", folder / f"{name}.4.0.0.json")
        settings = folder / ("config.json" if name == "config" else "tokenizer_config.json")
        write_json(settings, read_json(settings) | {key: [f"{name}.4.0.0.json"]})
    for name in ("special_tokens_map", "added_tokens", "processor_config"):
        write_json(folder / f"{name}.json", {})
    write_text(folder / "additional_chat_templates" / "tool.jinja", "{{ messages }}")
    write_json(folder / "chat_template.json", {"chat_template": "{{ messages }}"})
    return folder


def test_whatever_is_read_of_a_model_is_in_its_digest(model: Path) -> None:
    seen: set[str] = set()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and watching and str(arguments[0]).startswith(f"{model}/"):
            seen.add(str(Path(arguments[0]).relative_to(model)))

    watching = True
    sys.addaudithook(hook)
    section = ModelSection(name=str(model), precision="fp32")
    check_model(section)
    conversation_notes(str(model))
    generation_defaults(str(model))
    load_model(section, torch.device("cpu"))
    watching = False
    assert {"config.json", "config.4.0.0.json", "tokenizer.4.0.0.json", "generation_config.json"} <= seen
    assert seen <= model_digests(str(model)).keys()


def test_every_file_of_a_model_counts_behind_a_link_too(model: Path, tmp_path: Path) -> None:
    before = model_digests(str(model))
    assert {"model.safetensors", "chat_template.jinja", "special_tokens_map.json", "config.4.0.0.json"} <= before.keys()
    for name in before:
        other = shutil.copytree(model, tmp_path / name.replace("/", "-"))
        elsewhere = tmp_path / "elsewhere" / name
        elsewhere.parent.mkdir(parents=True, exist_ok=True)
        (other / name).rename(elsewhere)
        (other / name).symlink_to(elsewhere)
        assert model_digests(str(other)) == before
        elsewhere.write_bytes(elsewhere.read_bytes() + b" ")
        after = model_digests(str(other))
        assert {one for one in before if after[one] != before[one]} == {name}


def test_an_edited_model_is_another_base_row(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    study = small_study(tmp_path, model={"name": str(folder)})
    before = planned(study)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"rms_norm_eps": 0.5})
    after = planned(study)
    assert not {cell for cell, _ in before.values()} & {cell for cell, _ in after.values()}
