"""Names of data sources become folders and splits; the world is built when asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import harness.world.build as build_module
from harness.data.reader import read_dataset
from harness.data.sources import resolve_source
from harness.errors import UserError
from harness.world.scenes import WORLD_VERSION


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    root.mkdir()
    for name in ("test.jsonl", "test_debiased.parquet", "train-00000-of-00001.parquet", "notes.txt"):
        (root / name).write_text("")
    return root


def test_paths_name_a_folder_and_a_split(folder: Path, tmp_path: Path) -> None:
    for name, split in (("", "test"), ("#test_debiased", "test_debiased"), ("#train", "train")):
        assert resolve_source(f"{folder}{name}", tmp_path) == (folder, split)
    assert resolve_source(str(folder), tmp_path, default="train") == (folder, "train")
    for name, split in (("test.jsonl", "test"), ("train-00000-of-00001.parquet", "train")):
        assert resolve_source(str(folder / name), tmp_path) == (folder / name, split)


def test_a_single_split_needs_no_name(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("")
    assert resolve_source(str(tmp_path), tmp_path) == (tmp_path, "questions")


def test_a_folder_whose_name_has_the_split_sign(tmp_path: Path) -> None:
    root = tmp_path / "set#1"
    root.mkdir()
    (root / "test.jsonl").write_text("")
    assert resolve_source(str(root), tmp_path) == (root, "test")
    assert resolve_source(f"{root}#test", tmp_path) == (root, "test")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{root}/gone", r"gone`: no such folder or file. Expected a folder with .*world:train"),
        ("{root}/gone#train", "no such folder or file"),
        (
            "data/vsi-bench#full",
            "no such folder or file. `harness data prepare vsibench --from nyu-visionx/VSI-Bench` ",
        ),
        ("data/vsi-100k", "`harness data prepare vsi-100k --from OPPOer/VSI-100k --scannet DIR` creates it"),
        ("{root}#tests", "did you mean test"),
        ("{root}/notes.txt", "must end in .jsonl or .parquet"),
        ("{root}/test.jsonl#train", "cannot have a #SPLIT"),
        ("{root}/empty", "contains no data set"),
        ("{root}/two", "splits a, b; choose one, for example .*two#a"),
        ("world:tests", "did you mean test"),
        ("world:test@0", "world:test@50"),
        ("world:test@many", "world:test@50"),
        ("world:", "world:test@50"),
    ],
)
def test_mistakes_say_what_was_expected(folder: Path, tmp_path: Path, name: str, words: str) -> None:
    (folder / "empty").mkdir()
    (folder / "two").mkdir()
    for split in "ab":
        (folder / "two" / f"{split}.jsonl").write_text("")
    with pytest.raises(UserError, match=words):
        resolve_source(name.format(root=folder), tmp_path)


def test_the_world_is_built_and_read(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    root, split = resolve_source("world:train_free@1", tmp_path, progress=lambda *done: told.append(done))
    data = read_dataset(root, split)
    assert (split, told[-1]) == ("train_free", (1, 1))
    assert root.is_relative_to(tmp_path / "world")
    assert {record.scene_name for record in data.records} == {"train_000000"}
    assert all(record.options is None for record in data.records)
    assert len(read_dataset(*resolve_source("world:train@1", tmp_path)).records) == len(data.records)


def test_a_part_of_the_world_does_not_replace_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path, int | None]] = []

    def build_split(split: str, root: Path, scenes: int | None = None, **rest: object) -> Path:
        asked.append((split, root, scenes))
        return root

    monkeypatch.setattr(build_module, "build_split", build_split)
    whole, part = resolve_source("world:test", tmp_path), resolve_source("world:test@50", tmp_path)
    assert whole == (tmp_path / "world" / WORLD_VERSION, "test")
    assert asked == [("test", whole[0], None), ("test", part[0], 50)]
    assert part[0] != whole[0]


def test_a_pipe_or_a_device_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "records.jsonl")
    for name in (str(tmp_path / "records.jsonl"), "/dev/zero"):
        with pytest.raises(UserError, match=f"`{name}`: a pipe or a device"):
            resolve_source(name, tmp_path)
