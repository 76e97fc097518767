"""Rooms of the benchmark are found in training data under every spelling, and refused or dropped."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from harness.data.leakage import check_leakage, leaking_rooms
from harness.data.reader import Dataset
from harness.errors import UserError
from harness.vsibench.published import published_rooms
from harness.vsibench.records import Record


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
    ],
)
def test_rooms_of_vsi_bench_are_recognised(dataset: str, scene: str, room: str) -> None:
    assert leaking_rooms([record(0, dataset, scene), record(1, dataset, scene)]) == {room: 2}


@pytest.mark.parametrize(
    ("dataset", "scene"),
    [("scannet", "scene0000_00"), ("scannetpp", "scene0025_01"), ("arkitscenes", "1"), ("world", "train_000000")],
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


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UserError, match="Nothing else is left"):
        check_leakage(data(("world", "test_000000")), NOTHING, drop=True)
