"""Rooms of the benchmark are found in training data under every spelling, and refused or dropped."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from study_kit import small_study

from harness.data.leakage import check_leakage, leaking_rooms, shared_rooms
from harness.data.reader import Dataset, read_dataset
from harness.errors import UserError
from harness.study.setup import trained_rooms
from harness.vsibench.records import Record
from harness.vsibench.rooms import published_rooms


def record(number: int, dataset: str, scene: str) -> Record:
    return Record(
        id=number,
        dataset=dataset,
        scene_name=scene,
        question_type="room_size_estimation",
        question="How large?",
        ground_truth="9",
    )


def data(*scenes: tuple[str, str], split: str = "train") -> Dataset:
    records = tuple(record(number, *scene) for number, scene in enumerate(scenes))
    return Dataset(Path("/data"), split, records)


NOTHING = data(("world", "test_000000"), split="test")


def test_the_288_videos_are_288_rooms() -> None:
    rooms = [room.partition("/")[0] for room in published_rooms()]
    assert {name: rooms.count(name) for name in set(rooms)} == {"arkitscenes": 150, "scannet": 88, "scannetpp": 50}


@pytest.mark.parametrize(
    ("dataset", "scene", "room"),
    [
        ("scannet", "scene0025_01", "scannet/scene0025"),  # the benchmark's own scan
        ("scannet", "scene0025_00", "scannet/scene0025"),  # another scan of that room
        ("ScanNet", "scene0030_00", "scannet/scene0030"),
        ("scannet_v2", "scene0046_02", "scannet/scene0046"),
        ("arkitscenes", "41159525", "arkitscenes/41159525"),
        ("ARKitScenes", "41159521", "arkitscenes/41159525"),  # the same visit, 381879
        ("arkitscenes", "41159526", "arkitscenes/41159525"),
        ("ScanNet++", "09c1414f1b", "scannetpp/09c1414f1b"),
        ("scannetpp", "0d2ee665be", "scannetpp/0d2ee665be"),
        ("sr91k", "scene0025_01", "scannet/scene0025"),
    ],
)
def test_rooms_of_vsi_bench_are_recognised(dataset: str, scene: str, room: str) -> None:
    assert leaking_rooms([record(0, dataset, scene), record(1, dataset, scene)]) == {room: 2}


@pytest.mark.parametrize(
    ("dataset", "scene"),
    [("scannet", "scene0000_00"), ("mine", "scene0001_01"), ("arkitscenes", "1"), ("world", "train_000000")],
)
def test_other_rooms_are_not(dataset: str, scene: str) -> None:
    assert leaking_rooms([record(0, dataset, scene)]) == {}


def test_clean_data_pass_unchanged() -> None:
    train = data(("scannet", "scene0000_00"), ("world", "train_000000"))
    assert check_leakage(train, NOTHING, drop=False) is train


def test_leaking_data_are_refused_with_numbers() -> None:
    train = data(("scannet", "scene0025_00"), ("scannet", "scene0025_01"), ("world", "test_000000"), ("world", "x"))
    with pytest.raises(UserError) as refused:
        check_leakage(train, NOTHING, drop=False)
    assert "3 of 4 training records show 2 rooms" in str(refused.value)
    assert "scannet/scene0025 (2), world/test_000000 (1)" in str(refused.value)


def test_leaking_data_are_dropped_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    train = data(("scannet", "scene0025_00"), ("world", "test_000000"), ("world", "train_000000"))
    with caplog.at_level(logging.WARNING):
        kept = check_leakage(train, NOTHING, drop=True)
    assert [one.scene_name for one in kept.records] == ["train_000000"]
    assert kept.digest != train.digest
    assert len(kept.skipped) == 2
    assert "record 0: room scannet/scene0025" in kept.skipped[0]
    assert "2 of 3 training records show 2 rooms" in caplog.text


def test_an_id_of_a_record_that_names_a_published_scene_leaks() -> None:
    """Videos renamed, and the ids of the questions left; a number is no name."""
    renamed = record(0, "mine", "room_17").model_copy(update={"id": "scene0025_01_q3"})
    train = Dataset(Path("/data"), "train", (renamed, record(41069025, "mine", "room_18")))
    assert shared_rooms(train, []) == {"scene0025_01_q3": "scannet/scene0025"}


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UserError, match="Nothing else is left"):
        check_leakage(data(("world", "test_000000")), NOTHING, drop=True)


def folder(root: Path, *names: str) -> Dataset:
    """A data set with one record and one file for each name, each of its own content."""
    for name in names:
        file = root / "mine" / f"{name}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode().ljust(9))
    return Dataset(root, "train", tuple(record(number, "mine", name) for number, name in enumerate(names)))


def test_a_renamed_copy_of_a_benchmark_s_file_leaks(tmp_path: Path) -> None:
    test, train = folder(tmp_path / "test", "hall", "attic"), folder(tmp_path / "train", "kitchen", "cellar")
    assert shared_rooms(train, [test]) == {}
    (tmp_path / "train/mine/cellar.mp4").write_bytes((tmp_path / "test/mine/attic.mp4").read_bytes())
    assert shared_rooms(train, [test]) == {"1": "mine/attic"}
    assert [one.scene_name for one in check_leakage(train, test, drop=True).records] == ["kitchen"]


@pytest.mark.parametrize("target", ["scans/scene0025_01/scene0025_01.mp4", "arkit/41069025_wide.mp4"])
def test_a_link_to_a_published_video_leaks(tmp_path: Path, target: str) -> None:
    train = folder(tmp_path / "train", "kitchen", "cellar")
    elsewhere = tmp_path / target
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"video")
    (tmp_path / "train/mine/cellar.mp4").unlink()
    (tmp_path / "train/mine/cellar.mp4").symlink_to(elsewhere)
    assert list(shared_rooms(train, [NOTHING])) == ["1"]


def test_a_linked_folder_of_stills_is_the_benchmark_s(tmp_path: Path) -> None:
    test, train = folder(tmp_path / "test", "hall"), folder(tmp_path / "train", "kitchen")
    for name in ("test/mine/hall.mp4", "train/mine/kitchen.mp4"):
        (tmp_path / name).unlink()
    stills = tmp_path / "test/mine/hall"
    stills.mkdir()
    (stills / "0.jpg").write_bytes(b"")
    (tmp_path / "train/mine/kitchen").symlink_to(stills)
    assert shared_rooms(train, [test]) == {"0": "mine/hall"}


def test_the_folder_of_a_data_set_is_no_evidence(tmp_path: Path) -> None:
    assert shared_rooms(folder(tmp_path / "scene0025_01", "kitchen"), [NOTHING]) == {}


def test_a_checkpoint_s_training_rooms_are_known_to_its_later_evaluations(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    other = read_dataset(tmp_path / "data", "train")
    assert trained_rooms(study, read_dataset(tmp_path / "data", "test")) == ""
    said = trained_rooms(study, other)
    assert "inflates its score" in said and "world/train_000000 (3)" in said
    (tmp_path / "data" / "train.jsonl").unlink()
    assert "unknown" in trained_rooms(study, other)


def test_rooms_of_additional_benchmarks_leak(tmp_path: Path) -> None:
    train = data(("mine", "kitchen"), ("mine", "cellar"))
    with pytest.raises(UserError, match="mine/cellar"):
        check_leakage(train, NOTHING, drop=False, more=[record(5, "Mine", "cellar")])
