"""The physical room that a video shows: the cluster of every statistic and the unit of the leak check."""

from __future__ import annotations

import re
from functools import lru_cache

_KNOWN = ("scannetpp", "scannet", "arkitscenes")

_SAME_VISIT = {"41159521": "41159525", "41159526": "41159525"}
"""ARKitScenes videos of the visit (381879) of a VSI-Bench video, by that video: one physical room.

They are in ARKitScenes' Training fold (``visit_id`` of its metadata)."""


@lru_cache(maxsize=100_000)
def room_of(dataset: str, scene: str) -> str:
    """The physical room of a scene, as ``dataset/room``, the same under every spelling of the data set.

    "ScanNet++", "scannetpp" and "ScanNetPP_v2" are one data set. ScanNet's ``sceneXXXX_YY`` are scans of
    the room ``sceneXXXX``, and some ARKitScenes videos are of one visit; elsewhere one scene is one room.
    """
    plain = re.sub(r"[\W_]+", "", dataset.casefold().replace("+", "p")) or dataset
    plain = next((known for known in _KNOWN if plain.startswith(known)), plain)
    if plain == "scannet":
        scene = scene[:9]
    elif plain == "arkitscenes":
        scene = _SAME_VISIT.get(scene, scene)
    return f"{plain}/{scene}"
