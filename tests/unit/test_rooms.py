"""One room has one name: for clusters, for the leak check, and whatever the spelling of its data set."""

import pytest

from harness.vsibench.published import published_rooms, published_scenes
from harness.vsibench.records import Record
from harness.vsibench.rooms import room_of


@pytest.mark.parametrize(
    ("dataset", "scene", "room"),
    [
        ("scannet", "scene0011_00", "scannet/scene0011"),
        ("ScanNet", "scene0011_01", "scannet/scene0011"),
        ("ScanNet_v2", "scene0011_02", "scannet/scene0011"),
        ("ScanNet++", "09c1414f1b", "scannetpp/09c1414f1b"),
        ("scannetpp", "09c1414f1b", "scannetpp/09c1414f1b"),
        ("ARKitScenes", "41159521", "arkitscenes/41159525"),  # one visit (381879), by ARKitScenes' metadata
        ("arkitscenes", "41159525", "arkitscenes/41159525"),
        ("arkitscenes", "41069025", "arkitscenes/41069025"),
        ("world", "test_000000", "world/test_000000"),
        ("My rooms", "kitchen", "myrooms/kitchen"),
        ("部屋", "kitchen", "部屋/kitchen"),
        ("+", "a", "p/a"),
        ("-", "a", "-/a"),
    ],
)
def test_a_room_has_one_name(dataset: str, scene: str, room: str) -> None:
    assert room_of(dataset, scene) == room
    record = Record(id=1, dataset=dataset, scene_name=scene, question_type="t", question="q", ground_truth="1")
    assert record.room == room


def test_vsi_bench_s_288_videos_are_288_rooms_under_the_names_of_its_files() -> None:
    assert len(published_scenes()) == len(published_rooms()) == 288
    for dataset, scene in published_scenes():
        assert room_of(dataset, scene) == f"{dataset}/{scene[:9] if dataset == 'scannet' else scene}"
