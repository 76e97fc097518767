"""Floor plans: a rectangle, or a rectangle without one or two of its corners (L, T and Z shapes).

Every plan has a *core*, a rectangle from whose every point all of the floor is seen, so that a walk
inside it shows the whole room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.errors import UserError
from harness.world.geometry import Floats, quad_distance

Rectangle = tuple[float, float, float, float]
"""West, south, east and north bound in metres."""

EAST, WEST, NORTH, SOUTH = range(4)
"""The sides of the world, also the index of a wall's colour: every wall to the east has the hue of the east."""

SHAPES = {"rectangle": 0.4, "L": 0.3, "T": 0.15, "Z": 0.15}
"""Probability of each plan."""
_NOTCH = (0.22, 0.4)
"""Share of a side that a missing corner takes."""
_ASPECT = (1.0, 1.5)


@dataclass(frozen=True)
class Wall:
    """A straight stretch of wall: the side of the floor it is on, its coordinate there, and its two ends."""

    side: int
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Room:
    """A floor plan.

    Attributes:
        width: East-west extent in metres.
        depth: North-south extent in metres.
        notches: Missing corners, each a rectangle that touches two sides.

    Raises:
        UserError: No walk is possible there: a side is not positive, or the missing corners leave no core.
    """

    width: float
    depth: float
    notches: tuple[Rectangle, ...] = ()

    def __post_init__(self) -> None:
        west, south, east, north = self.core
        if min(self.width, self.depth, east - west, north - south) <= 0:
            raise UserError(
                f"a room of {self.width} m x {self.depth} m without the corners {self.notches} has no place"
                " that sees all of its floor; give positive sides and smaller missing corners"
            )

    @property
    def area(self) -> float:
        """Floor area in square metres."""
        return self.width * self.depth - sum((e - w) * (n - s) for w, s, e, n in self.notches)

    @property
    def core(self) -> Rectangle:
        """The part of the floor between all missing corners, from which every other point is seen."""
        west = south = 0.0
        east, north = self.width, self.depth
        for w, s, e, n in self.notches:
            west, east = (max(west, e), east) if w == 0 else (west, min(east, w))
            south, north = (max(south, n), north) if s == 0 else (south, min(north, s))
        return west, south, east, north

    @cached_property
    def notch_corners(self) -> Floats:
        """(n, 4, 2) corners of the missing rectangles."""
        corners = [[(w, s), (e, s), (e, n), (w, n)] for w, s, e, n in self.notches]
        return np.array(corners, float).reshape(-1, 4, 2)

    @cached_property
    def walls(self) -> tuple[Wall, ...]:
        """All stretches of wall."""
        walls = []
        for side, at, extent in (
            (EAST, self.width, self.depth),
            (WEST, 0.0, self.depth),
            (NORTH, self.depth, self.width),
            (SOUTH, 0.0, self.width),
        ):
            low, high = 0.0, extent
            for w, s, e, n in self.notches:
                first, last, near, far = (s, n, w, e) if side in (EAST, WEST) else (w, e, s, n)
                if at in (near, far):
                    low, high = (max(low, last), high) if first == 0 else (low, min(high, first))
            walls.append(Wall(side, at, low, high))
        for w, s, e, n in self.notches:
            walls.append(Wall(WEST, e, s, n) if w == 0 else Wall(EAST, w, s, n))
            walls.append(Wall(SOUTH, n, w, e) if s == 0 else Wall(NORTH, s, w, e))
        return tuple(walls)

    def holds(self, corners: Floats, gap: float) -> bool:
        """Whether a footprint (4, 2) lies on the floor, ``gap`` metres from every wall."""
        if (corners.min(0) < gap).any() or (corners.max(0) > np.array((self.width, self.depth)) - gap).any():
            return False
        return not self.notches or bool((quad_distance(corners, self.notch_corners) >= gap).all())


def draw_room(rng: np.random.Generator, area: float) -> Room:
    """A random plan with this many square metres."""
    shape = str(rng.choice(list(SHAPES), p=list(SHAPES.values())))
    corners = rng.permutation([(east, north) for east in (False, True) for north in (False, True)]).tolist()[:1]
    if shape == "rectangle":
        corners = []
    elif shape == "T":  # two corners of one side
        east, north = corners[0]
        corners.append((not east, north) if rng.random() < 0.5 else (east, not north))
    elif shape == "Z":  # two opposite corners
        corners.append((not corners[0][0], not corners[0][1]))
    shares = [rng.uniform(*_NOTCH, 2) for _ in corners]
    if shape == "T":  # leaves the side between them longer than a door
        shares = [np.minimum(share, 0.3) for share in shares]
    floor = 1.0 - sum(float(a * b) for a, b in shares)
    aspect = rng.uniform(*_ASPECT)
    sides = math.sqrt(area / floor * aspect), math.sqrt(area / floor / aspect)
    width, depth = sides if rng.random() < 0.5 else sides[::-1]
    notches = []
    for (east, north), (a, b) in zip(corners, shares, strict=True):
        across, along = float(a) * width, float(b) * depth
        w, s = (width - across if east else 0.0), (depth - along if north else 0.0)
        notches.append((w, s, width if east else across, depth if north else along))
    return Room(width, depth, tuple(notches))
