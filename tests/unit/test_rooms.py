"""One room has one name: for clusters, for the leak check, and whatever the spelling of its data set."""

import pytest

from harness.vsibench.published import published_scenes, same_visits
from harness.vsibench.records import Record
from harness.vsibench.rooms import published_rooms, room_of


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
        ("arkit", "Training/40753679_wide", "arkitscenes/40753679"),
        ("my scannet", "scene0707", "scannet/scene0707"),
        ("mine", "scene0707_00_vh_clean", "scannet/scene0707"),  # a scan of ScanNet outside the benchmark
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


@pytest.mark.parametrize("dataset", ["sr91k", "my_data", "scans", "arkit", "sppv2", "ScanNet++", "VSI-100k", "部屋"])
@pytest.mark.parametrize(
    ("scene", "room"),
    [
        ("scene0025_01", "scannet/scene0025"),
        ("SCENE0025_00", "scannet/scene0025"),
        ("train/scene0025_01", "scannet/scene0025"),
        ("scans/scene0025_00_vh", "scannet/scene0025"),
        ("scene0025_01.mp4", "scannet/scene0025"),
        ("my-scene0025-02-480p", "scannet/scene0025"),
        ("scene0025 01", "scannet/scene0025"),
        ("41069025", "arkitscenes/41069025"),
        ("41069025_wide", "arkitscenes/41069025"),
        ("Validation/41069025/41069025_frames/lowres_wide", "arkitscenes/41069025"),
        ("41159519", "arkitscenes/41159525"),  # of one visit
        ("9071e139d9", "scannetpp/9071e139d9"),
        ("data/9071E139D9/dslr.MP4", "scannetpp/9071e139d9"),
        ("5942004064", "scannetpp/5942004064"),  # a hash without a letter
    ],
)
def test_a_published_id_is_its_room_under_any_name(dataset: str, scene: str, room: str) -> None:
    assert room_of(dataset, scene) == room_of(scene, "video") == room
    assert room in published_rooms()


@pytest.mark.parametrize(
    ("dataset", "scene"),
    [
        ("mine", "20240131"),  # a date
        ("mine", "41069026"),  # no video of the benchmark
        ("mine", "00000025"),  # a frame's number
        ("mine", "141069025"),
        ("mine", "scene0025"),  # rooms of one's own are numbered so
        ("mine", "scene0025_001"),
        ("mine", "scene0025/01"),
        ("mine", "scene002501"),
        ("mine", "scene00025_01"),
        ("mine", "scene0807_00"),  # ScanNet ends with scene0806
        ("mine", "1700000000"),  # a time
        ("mine", "a9071e139d9"),
        ("mine", "9071e139d9a03f2244c0"),  # a longer hash
        ("mine", "4106-9025"),
    ],
)
def test_what_only_resembles_an_id_is_a_room_of_its_own(dataset: str, scene: str) -> None:
    assert room_of(dataset, scene) == f"{dataset}/{scene}"


def test_every_visit_of_arkitscenes_is_one_room() -> None:
    visits = same_visits()
    assert len(visits) == 150 and sum(map(len, visits.values())) == 301
    for video, others in visits.items():
        assert {room_of("frames", other) for other in others} == {f"arkitscenes/{video}"}


def test_vsi_bench_s_288_videos_are_288_rooms_under_the_names_of_its_files() -> None:
    assert len(published_scenes()) == len(published_rooms()) == 288
    for dataset, scene in published_scenes():
        assert room_of(dataset, scene) == f"{dataset}/{scene[:9] if dataset == 'scannet' else scene}"
