"""Dense ground truth of a scene, for pre-training a vision tower and for oracles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.world.catalogue import CATEGORIES
from harness.world.questions import first_seen
from harness.world.renderer import FRAME_SIZE, render_scene
from harness.world.scenes import STOPS, Scene

TOKEN_PIXELS = 28
"""Pixels per side of one merged vision token of Qwen2-VL (patch 14, merge 2)."""


@dataclass(frozen=True)
class SceneTruth:
    """Arrays over the n objects of a scene; lengths in metres, angles in radians.

    Attributes:
        category: (n,) index into ``CATEGORIES``.
        position: (n, 2) centre, east and north of the room's centre.
        size: (n, 3) width, depth, height.
        longest: (n,) longest side.
        distance: (n,) from the camera to the centre, in plan.
        gaps: (n, n) smallest distances between the boxes.
        counts: (len(CATEGORIES),) pieces of each category.
        first_stop: (len(CATEGORIES),) stop of the first appearance, -1 if absent or uncertain.
        room: (2,) east-west and north-south extent.
        camera: (2,) camera, east and north of the room's centre.
        headings: (STOPS,) directions, counter-clockwise from east.
        token_pixels: (STOPS, S/28, S/28, n) pixels of each object in each merged vision token.
    """

    category: NDArray[np.int64]
    position: NDArray[np.float64]
    size: NDArray[np.float64]
    longest: NDArray[np.float64]
    distance: NDArray[np.float64]
    gaps: NDArray[np.float64]
    counts: NDArray[np.int64]
    first_stop: NDArray[np.int64]
    room: NDArray[np.float64]
    camera: NDArray[np.float64]
    headings: NDArray[np.float64]
    token_pixels: NDArray[np.int64]


def scene_truth(scene: Scene, size: int = FRAME_SIZE) -> SceneTruth:
    """The dense ground truth of an accepted scene seen in frames of ``size`` pixels."""
    things = scene.objects
    category = np.array([CATEGORIES.index(thing.category) for thing in things])
    room = np.array([scene.width, scene.depth])
    position = np.array([(thing.x, thing.y) for thing in things])
    extent = np.array([(thing.width, thing.depth, thing.height) for thing in things])
    first = first_seen(scene)
    return SceneTruth(
        category=category,
        position=position - room / 2,
        size=extent,
        longest=extent.max(1),
        distance=np.hypot(*(position - scene.camera).T),
        gaps=scene.distances,
        counts=np.bincount(category, minlength=len(CATEGORIES)),
        first_stop=np.array([first.get(name, -1) for name in CATEGORIES]),
        room=room,
        camera=np.array(scene.camera) - room / 2,
        headings=np.array(scene.headings),
        token_pixels=_token_pixels(render_scene(scene, size)[1], len(things)),
    )


def _token_pixels(ids: NDArray[np.int16], objects: int) -> NDArray[np.int64]:
    """Count each object's pixels inside each ``TOKEN_PIXELS`` square of the id buffers (STOPS, S, S)."""
    side = ids.shape[1] // TOKEN_PIXELS
    cells = ids[:, : side * TOKEN_PIXELS, : side * TOKEN_PIXELS]
    cells = cells.reshape(STOPS, side, TOKEN_PIXELS, side, TOKEN_PIXELS)
    token = np.arange(STOPS * side * side).reshape(STOPS, side, 1, side, 1)
    shown = cells >= 0
    flat = (token * objects + cells)[shown]
    return np.bincount(flat, minlength=STOPS * side * side * objects).reshape(STOPS, side, side, objects)
