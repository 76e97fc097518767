"""Furnished rooms from a seed: floor plan, furniture without overlaps, walkthrough and look."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.world.camera import Walk, draw_walk
from harness.world.catalogue import CATALOGUE, CATEGORIES, Colour
from harness.world.geometry import Floats, footprint, quad_distance, signed_angle
from harness.world.look import PLAIN, Look, draw_look
from harness.world.rooms import EAST, NORTH, WEST, Room, draw_room

WORLD_VERSION = "2"
"""Changes whenever the same seed may give a different scene, frame or question; older caches are rebuilt."""

AREA_RANGE = (12.0, 50.0)
"""Square metres, log-uniform, so that a constant guess of the room size is a poor one."""
SIZE_RANGE = (0.5, 1.8)
"""Longest side in metres, log-uniform for every category alike."""
DUPLICATE_SIZE_RANGE = (0.5, 1.0)
"""Longest side of pieces that come in several copies; larger ones would not fit. Never asked about."""
ROOM_HEIGHT = 2.6

_CAMERA_GAP = 0.5
"""Metres: anything nearer to the walk than this would fill whole frames."""
_MIN_APPARENT_SIZE = 0.19
"""Longest side over distance to the camera: smaller pieces cover too few pixels to be recognised."""
_AZIMUTH_GAP = 16.0
"""Degrees between two pieces as the camera sees them: pieces in one line of sight hide each other."""
_SHARED_AZIMUTH = 150.0
"""Total degrees of all gaps, so that a full room can still be furnished."""
_OBJECT_GAP = 0.12
_WALL_GAP = 0.02
_PLACING_TRIES = 80
_AGAINST_WALL = 0.6
_BACK_TO = (3, 1, 0, 2)
"""Quarter turns of a piece whose back is to the wall in the east, west, north and south."""
MIN_UNIQUE = 4
"""Directions and routes need four categories of which the room has exactly one piece."""


@dataclass(frozen=True)
class Object:
    """A piece of furniture: a box on the floor.

    Attributes:
        category: One of ``CATEGORIES``.
        x: Centre, metres east of the room's south-west corner.
        y: Centre, metres north of it.
        width: Side along the piece's own x axis in metres.
        depth: Side along its own y axis, whose positive end is the piece's back.
        height: Metres.
        yaw: Rotation in radians, counter-clockwise from above.
        colour: RGB of 0 to 255.
    """

    category: str
    x: float
    y: float
    width: float
    depth: float
    height: float
    yaw: float
    colour: Colour

    @property
    def longest(self) -> float:
        """Longest of width, depth and height in metres."""
        return max(self.width, self.depth, self.height)

    @cached_property
    def corners(self) -> Floats:
        """(4, 2) corners of the footprint."""
        return footprint(self.x, self.y, self.width, self.depth, self.yaw)


@dataclass(frozen=True, eq=False)
class Scene:
    """A furnished room, the walk through it, and its look.

    Attributes:
        seed: The seed it was drawn from.
        room: The floor plan.
        objects: The furniture.
        walk: The camera's path.
        look: Colours, patterns, light.
    """

    seed: int
    room: Room
    objects: tuple[Object, ...]
    walk: Walk
    look: Look = PLAIN

    @property
    def camera(self) -> tuple[float, float]:
        """(x, y) of the middle of the walk."""
        return self.walk.centre

    @cached_property
    def by_category(self) -> dict[str, tuple[int, ...]]:
        """Indices of the objects of each category present."""
        found: dict[str, list[int]] = {}
        for i, thing in enumerate(self.objects):
            found.setdefault(thing.category, []).append(i)
        return {name: tuple(indices) for name, indices in found.items()}

    @cached_property
    def unique(self) -> tuple[str, ...]:
        """Categories of which the room has exactly one piece."""
        return tuple(name for name, indices in self.by_category.items() if len(indices) == 1)

    @cached_property
    def distances(self) -> Floats:
        """(n, n) smallest distances between the objects' boxes in metres."""
        corners = np.stack([thing.corners for thing in self.objects])
        return quad_distance(corners[:, None], corners[None])

    @property
    def digest(self) -> str:
        """Hash of the geometry without seed and look: equal for equal rooms only."""
        geometry = (self.room, self.walk, self.objects)
        return hashlib.sha256(repr(geometry).encode()).hexdigest()


def lay_out(seed: int) -> Scene | None:
    """Draw the room of a seed.

    Returns:
        The scene, or None if too few pieces could be placed. Whether the camera sees everything is
        checked by ``harness.world.renderer.sample_scene``.
    """
    rng = np.random.default_rng(seed)
    room = draw_room(rng, _log_uniform(rng, AREA_RANGE))
    walk = draw_walk(rng, room.core)
    wanted = _draw_furniture(rng)
    azimuth_gap = min(_AZIMUTH_GAP, _SHARED_AZIMUTH / len(wanted))
    objects: list[Object] = []
    for category, longest in wanted:
        placed = _place(rng, category, longest, room, walk, objects, azimuth_gap)
        if placed is not None:
            objects.append(placed)
    scene = Scene(seed, room, tuple(objects), walk, draw_look(rng))
    return scene if len(scene.unique) >= MIN_UNIQUE else None


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def _draw_furniture(rng: np.random.Generator) -> list[tuple[str, float]]:
    """Categories and longest sides, large pieces first: 4 to 6 single ones, 1 or 2 kinds of 2 to 6."""
    singles = int(rng.integers(4, 7))
    kinds = 2 if rng.random() < 0.35 else 1
    names = [str(name) for name in rng.permutation(CATEGORIES)[: singles + kinds]]
    wanted = [(name, _log_uniform(rng, SIZE_RANGE)) for name in names[:singles]]
    for k, name in enumerate(names[singles:]):
        copies = int(rng.integers(2, 7 if k == 0 else 4))
        wanted += [(name, _log_uniform(rng, DUPLICATE_SIZE_RANGE)) for _ in range(copies)]
    return sorted(wanted, key=lambda item: -item[1])


def _place(
    rng: np.random.Generator,
    category: str,
    longest: float,
    room: Room,
    walk: Walk,
    others: Sequence[Object],
    azimuth_gap: float,
) -> Object | None:
    """A free spot for one piece, by rejection sampling; None after ``_PLACING_TRIES`` tries."""
    base = np.array(CATALOGUE[category].proportions)
    jittered = np.where(base < 1.0, base * rng.uniform(0.85, 1.15, 3), 1.0)
    width, depth, height = (np.minimum(jittered, 1.0) * longest).tolist()
    tint = np.clip(np.array(CATALOGUE[category].colour) * rng.uniform(0.88, 1.1) + rng.normal(0, 6, 3), 0, 255)
    for _ in range(_PLACING_TRIES):
        spot = _propose(rng, (width, depth), room)
        if spot is None:
            continue
        x, y, yaw = spot
        range_ = math.hypot(x - walk.centre[0], y - walk.centre[1])
        if range_ < walk.radius + _CAMERA_GAP + max(width, depth) / 2 or longest < _MIN_APPARENT_SIZE * range_:
            continue
        colour = (float(tint[0]), float(tint[1]), float(tint[2]))
        candidate = Object(category, x, y, width, depth, height, yaw, colour)
        if _fits(candidate, room, walk.centre, others, azimuth_gap):
            return candidate
    return None


def _propose(rng: np.random.Generator, size: tuple[float, float], room: Room) -> tuple[float, float, float] | None:
    """A random (x, y, yaw), six times in ten with the back to a wall; None if the piece is too big there."""
    if rng.random() < _AGAINST_WALL:
        wall = room.walls[int(rng.integers(len(room.walls)))]
        reach = size[0] / 2 + 0.12
        if wall.high - wall.low < 2 * reach:
            return None
        along, off = rng.uniform(wall.low + reach, wall.high - reach), size[1] / 2 + 0.1
        yaw = _BACK_TO[wall.side] * math.pi / 2 + rng.normal(0.0, 0.08)
        if wall.side in (EAST, WEST):
            return wall.at - off if wall.side == EAST else wall.at + off, along, yaw
        return along, wall.at - off if wall.side == NORTH else wall.at + off, yaw
    yaw = int(rng.integers(4)) * math.pi / 2 + rng.normal(0.0, 0.08)
    reach = max(size) / 2 + 0.12
    if 2 * reach > min(room.width, room.depth):
        return None
    return rng.uniform(reach, room.width - reach), rng.uniform(reach, room.depth - reach), yaw


def _fits(
    candidate: Object,
    room: Room,
    camera: tuple[float, float],
    others: Sequence[Object],
    azimuth_gap: float,
) -> bool:
    """Whether a piece stands on the floor, apart from the others and from their lines of sight."""
    here = (candidate.x, candidate.y)
    for other in others:  # the cheap test first, since most candidates fail it
        if abs(float(signed_angle(camera, (other.x, other.y), here))) < azimuth_gap:
            return False
    if not room.holds(candidate.corners, _WALL_GAP):
        return False
    if not others:
        return True
    return bool((quad_distance(candidate.corners, np.stack([o.corners for o in others])) >= _OBJECT_GAP).all())
