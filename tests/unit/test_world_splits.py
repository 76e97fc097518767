"""No training sees a room of the test or development split: proven by hashes over every seed that could be used."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from harness.world.build import CANDIDATES, SPLITS
from harness.world.camera import Walk, draw_walk
from harness.world.renderer import render_scene
from harness.world.rooms import Room, draw_room
from harness.world.scenes import AREA_RANGE, lay_out

RECIPE = Path(__file__).parents[2] / "harness" / "models" / "tiny" / "recipe.json"


def room_and_walk(seed: int) -> tuple[Room, Walk]:
    """What a seed's scene draws first, 200 times faster than the furniture and the check that all of it is seen."""
    rng = np.random.default_rng(seed)
    room = draw_room(rng, math.exp(rng.uniform(*map(math.log, AREA_RANGE))))
    return room, draw_walk(rng, room.core)


def hashes(seeds: Iterable[int]) -> list[bytes]:
    return [hashlib.sha256(repr(room_and_walk(seed)).encode()).digest() for seed in seeds]


def candidates(name: str) -> list[int]:
    """Every seed from which a scene of the split's own number may come, used or rejected."""
    split = SPLITS[name]
    return [seed for index in range(split.scenes) for seed in split.candidates(index)]


def test_splits_are_disjoint_by_seed() -> None:
    for a, b in itertools.combinations(SPLITS.values(), 2):
        assert a.seeds.stop <= b.seeds.start or b.seeds.stop <= a.seeds.start
    for split in SPLITS.values():
        assert split.scenes <= split.capacity
        last = split.candidates(split.capacity - 1)
        assert last.stop == split.seeds.stop and len(last) == CANDIDATES


def test_scenes_and_pictures_differ() -> None:
    scenes = [split.scene(index) for split in SPLITS.values() for index in range(5)]
    assert len({scene.digest for scene in scenes}) == len(scenes)
    assert len({render_scene(scene)[0].tobytes() for scene in scenes}) == len(scenes)


def test_every_scene_has_the_room_and_walk_of_its_seed() -> None:
    """So that scenes with other rooms or walks are other scenes, and have another ``Scene.digest``."""
    for split in SPLITS.values():
        scenes = [lay_out(seed) for seed in split.candidates(0)[:10]]
        drawn = [scene for scene in scenes if scene is not None]
        assert len(drawn) > 5
        assert all((scene.room, scene.walk) == room_and_walk(scene.seed) for scene in drawn)
    first = next(scene for scene in map(lay_out, itertools.count()) if scene is not None)
    again = lay_out(first.seed)
    assert again is not None and again.digest == first.digest


def test_no_room_of_the_test_and_dev_splits_is_in_any_training_data() -> None:
    """All 200 test and 100 dev scenes against all 500 for post-training and all that the base was pre-trained on."""
    data = json.loads(RECIPE.read_text())["data"]
    spans = [data["seeds"], data["held_out_seeds"]]
    pretraining = [seed for first, last in spans for seed in range(first, last + 1)]
    assert data["split"] == "pretrain" and all(seed in SPLITS["pretrain"].seeds for seed in pretraining)
    seeds = [*candidates("test"), *candidates("dev"), *candidates("train"), *pretraining]
    assert len(seeds) == (200 + 100 + 500) * CANDIDATES + len(pretraining)
    found = hashes(seeds)
    assert found[:3] == hashes(seeds[:3])  # a room that is drawn twice would be found
    assert len(set(found)) == len(seeds)
