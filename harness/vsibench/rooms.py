"""The physical room that a video shows: the cluster of every statistic and the unit of the leak check.

A published scene id decides under any data set name: ``train/scene0025_01``, ``41069025_wide`` and ``9071E139D9.mp4``
in a data set called "mine" show rooms of ScanNet, ARKitScenes and ScanNet++.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from harness.vsibench.published import published_scenes, same_visits

_DATASETS = {"scannetpp": "scannetpp", "scannet": "scannet", "arkit": "arkitscenes"}
"""What the plain name of a data set contains, and its name here; the first that fits."""

_SCANNET = re.compile(r"scene([0-9]{4})[_ -][0-9]{2}(?![0-9])")
_LAST_OF_SCANNET = 806
_WITHIN = {
    "scannet": re.compile(r"(?<![0-9a-z])scene[0-9]{4}(?![0-9])"),
    "arkitscenes": re.compile(r"(?<![0-9])[0-9]{8}(?![0-9])"),
    "scannetpp": re.compile(r"(?<![0-9a-z])[0-9a-f]{10}(?![0-9a-z])"),
}
"""The scene within a name. ARKitScenes' and ScanNet++'s look like other numbers, so the name of the data set or the
list of VSI-Bench's own decides."""

_BUDGET = re.compile(r"(?:[0-9]+|all)_frame")
_BY_FORM = {
    "arkitscenes": re.compile(r"[0-9]{8}"),
    "scannetpp": re.compile(r"[0-9a-f]{10}"),
    "3rscan": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "multiscan": re.compile(r"scene_[0-9]{5}_[0-9]{2}"),
}
"""The ids of ReVSI's sources; its folders are named by the number of frames, and the form of an id says whose it is."""


@lru_cache(maxsize=100_000)
def room_of(dataset: str, scene: str) -> str:
    """The physical room of a scene, as ``dataset/room``, the same under every spelling of both.

    ScanNet's ``sceneXXXX_YY`` are scans of the room ``sceneXXXX``, and ARKitScenes videos of one visit show one room;
    elsewhere one scene is one room.
    """
    if named := rooms_named(scene) or rooms_named(dataset):
        return named[0]
    if _BUDGET.fullmatch(dataset):
        dataset = next((name for name, form in _BY_FORM.items() if form.fullmatch(scene)), dataset)
    plain = re.sub(r"[\W_]+", "", dataset.casefold().replace("+", "p")) or dataset
    known = next((name for part, name in _DATASETS.items() if part in plain), plain)
    found = _WITHIN[known].search(scene.casefold()) if known in _WITHIN else None
    return f"{known}/{found.group() if found else scene}"


@lru_cache(maxsize=100_000)
def rooms_named(text: str) -> tuple[str, ...]:
    """The rooms whose published ids occur in a name or path, whatever is around them.

    Of ScanNet all rooms, whose ids (scene0000 to scene0806, with a scan's number) are like no others; of ARKitScenes
    and ScanNet++ those of VSI-Bench.
    """
    plain = text.casefold()
    scans = (number for number in _SCANNET.findall(plain) if int(number) <= _LAST_OF_SCANNET)
    ids = (found for name in ("arkitscenes", "scannetpp") for found in _WITHIN[name].findall(plain))
    published = (_rooms_by_id().get(found) for found in ids)
    return (*(f"scannet/scene{number}" for number in scans), *filter(None, published))


@cache
def published_rooms() -> frozenset[str]:
    """The 288 physical rooms of VSI-Bench's videos, as :func:`room_of` names them."""
    return frozenset(room_of(*scene) for scene in published_scenes())


@cache
def _rooms_by_id() -> dict[str, str]:
    """The rooms of VSI-Bench outside ScanNet, by the ids of their videos and, of ARKitScenes, of the same visits'."""
    rooms = {scene: f"{dataset}/{scene}" for dataset, scene in published_scenes() if dataset != "scannet"}
    return rooms | {other: rooms[video] for video, others in same_visits().items() for other in others}
