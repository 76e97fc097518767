"""Appearance of a room besides its geometry: light, exposure, and the patterns of floor and walls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.world.catalogue import FLOOR_COLOURS, WALL_COLOURS, Colour

FloorPattern = Literal["chequer", "boards", "tiles", "carpet"]
WallPattern = Literal["plain", "stripes", "wainscot", "panels"]
FLOORS: tuple[FloorPattern, ...] = ("chequer", "boards", "tiles", "carpet")
WALLS: tuple[WallPattern, ...] = ("plain", "stripes", "wainscot", "panels")

F32 = np.float32
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """A sun through a window: direction, share of the light that comes from everywhere, exposure, warmth.

    Attributes:
        azimuth: Radians, counter-clockwise from east, towards the light.
        elevation: Radians above the horizon.
        ambient: Brightness of a surface turned away from the light; a surface that faces it has 1.
        exposure: Factor on all colours.
        warmth: Share by which red is raised and blue lowered.
    """

    azimuth: float = -0.96
    elevation: float = 0.91
    ambient: float = 0.55
    exposure: float = 1.0
    warmth: float = 0.0

    @property
    def towards(self) -> Array:
        """Unit vector to the light."""
        level = math.cos(self.elevation)
        x, y = level * math.cos(self.azimuth), level * math.sin(self.azimuth)
        return np.array([x, y, math.sin(self.elevation)], F32)

    @property
    def tint(self) -> Array:
        """(3,) factors on red, green and blue."""
        return F32(self.exposure) * np.array([1 + self.warmth, 1, 1 - self.warmth], F32)


@dataclass(frozen=True)
class Look:
    """Colours, patterns and light of a room.

    Attributes:
        walls: RGB of the walls to the east, west, north and south.
        floor: RGB of the floor.
        floor_pattern: Pattern of the floor.
        floor_scale: Metres from one square, board, tile or blotch to the next.
        floor_turned: Whether boards run north-south.
        wall_pattern: Pattern of the walls.
        contrast: Strength of both patterns, 0 for none.
        light: The light.
    """

    walls: tuple[Colour, ...] = WALL_COLOURS
    floor: Colour = FLOOR_COLOURS[0]
    floor_pattern: FloorPattern = "chequer"
    floor_scale: float = 1.0
    floor_turned: bool = False
    wall_pattern: WallPattern = "plain"
    contrast: float = 0.0
    light: Light = Light()


PLAIN = Look()
"""Standard colours, no pattern, the standard light."""


def draw_look(rng: np.random.Generator) -> Look:
    """Random colours near the standard ones, a pattern for floor and walls, and a light."""
    pattern = FLOORS[int(rng.integers(len(FLOORS)))]
    low, high = {"chequer": (0.5, 1.2), "boards": (0.25, 0.5), "tiles": (0.5, 1.0), "carpet": (0.8, 1.6)}[pattern]
    return Look(
        walls=tuple(jitter(rng, wall, 7.0) for wall in WALL_COLOURS),
        floor=jitter(rng, FLOOR_COLOURS[int(rng.integers(len(FLOOR_COLOURS)))], 8.0),
        floor_pattern=pattern,
        floor_scale=float(rng.uniform(low, high)),
        floor_turned=bool(rng.random() < 0.5),
        wall_pattern=WALLS[int(rng.integers(len(WALLS)))],
        contrast=float(rng.uniform(0.6, 1.2)),
        light=Light(
            azimuth=float(rng.uniform(0, 2 * math.pi)),
            elevation=math.radians(float(rng.uniform(35, 70))),
            ambient=float(rng.uniform(0.5, 0.65)),
            exposure=float(rng.uniform(0.85, 1.08)),
            warmth=float(rng.uniform(-0.05, 0.06)),
        ),
    )


def jitter(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """A colour near another."""
    red, green, blue = np.clip(np.asarray(colour) + rng.normal(0.0, spread, 3), 0, 255).tolist()
    return (red, green, blue)


def floor_brightness(look: Look, east: Array, north: Array, distance: Array) -> Array:
    """Factors on the floor's colour at points in metres; patterns fade with the distance from the camera.

    Without the fading, boards narrower than a pixel would flicker from frame to frame.
    """
    along, across = (north, east) if look.floor_turned else (east, north)
    u, v = along / F32(look.floor_scale), across / F32(look.floor_scale)
    fade = 1 / (1 + (distance / F32(5.0)) ** 2)
    if look.floor_pattern == "chequer":
        value = F32(0.11) * ((np.floor(u) + np.floor(v)) % 2 * 2 - 1)
    elif look.floor_pattern == "boards":
        board = np.floor(v)
        value = F32(0.10) * np.sin(board * F32(12.9)) - F32(0.16) * (v - board < 0.12)
    elif look.floor_pattern == "tiles":
        joint = np.minimum(u - np.floor(u), v - np.floor(v)) < 0.08
        value = F32(0.03) - F32(0.2) * joint
    else:
        value = F32(0.07) * np.sin(F32(2 * np.pi) * u) * np.sin(F32(2 * np.pi) * v + u)
    return (1 + F32(look.contrast) * value * fade).astype(F32)


def wall_brightness(look: Look, along: Array, height: Array) -> Array:
    """Factors on the walls' colours at points given in metres along a wall and above the floor."""
    if look.wall_pattern == "plain":
        return np.ones_like(height)
    if look.wall_pattern == "stripes":
        value = F32(0.05) * (np.floor(along * F32(2.5)) % 2 * 2 - 1)
    elif look.wall_pattern == "wainscot":
        value = F32(-0.12) * (height < 0.9) - F32(0.12) * (np.abs(height - F32(0.93)) < 0.05)
    else:
        value = F32(-0.09) * (along / F32(1.2) - np.floor(along / F32(1.2)) < 0.07)
    return (1 + F32(look.contrast) * value).astype(F32)
