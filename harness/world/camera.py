"""The walkthrough: a slow left turn on a small circle that lingers in eight directions, with a hand-held camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

STOPS = 8
"""Directions in which the walk lingers, 45 degrees apart."""
FRAMES = 64
"""Frames of a walkthrough."""
FPS = 6
"""Frames per second: the walk takes 10.7 seconds."""
SAMPLED = tuple(range(0, FRAMES, 4))
"""The frames that a loader of 16 evenly spaced frames sees, two per stop."""
CAMERA_HEIGHT = 1.5
CAMERA_PITCH = -0.38
"""Radians; looking down puts the furniture, not the bare upper walls, into the middle of the frame."""
FIELD_OF_VIEW = math.radians(72)
RADIUS_RANGE = (0.3, 0.5)
"""Metres from the centre of the circle to the camera: two to three metres of walking."""

_LINGER = (1.1, -0.12)
"""Weights of the two waves that slow the turn to 2% of its mean speed at the stops and speed it up in between."""
_SWAY = (0.012, 0.012, 0.018)
"""Metres by which the hand moves the camera east, north and up ..."""
_SHAKE = (0.008, 0.010)
"""... and radians by which it turns and tilts it."""


@dataclass(frozen=True)
class Walk:
    """One walkthrough.

    Attributes:
        centre: (x, y) of the centre of the circle in metres.
        radius: Metres from there to the camera, which looks outwards.
        heading: Direction of the first stop, radians counter-clockwise from east.
        sway: Phases in radians of the hand's five movements.
    """

    centre: tuple[float, float]
    radius: float = 0.0
    heading: float = 0.0
    sway: tuple[float, ...] | None = None

    @property
    def headings(self) -> tuple[float, ...]:
        """(STOPS,) directions in the middle of the stops, without the hand's movements."""
        return tuple(self.heading + k * 2 * math.pi / STOPS for k in range(STOPS))

    @cached_property
    def poses(self) -> Poses:
        """Where the camera is and looks in each frame."""
        per_stop = FRAMES / STOPS
        at = (np.arange(FRAMES) - per_stop / 4) / per_stop  # k in the middle of stop k
        first, second = _LINGER
        slowed = first * np.sin(2 * np.pi * at) / (2 * np.pi) + second * np.sin(4 * np.pi * at) / (4 * np.pi)
        yaw = self.heading + 2 * math.pi / STOPS * (at - slowed)
        position = np.empty((FRAMES, 3))
        position[:, 0] = self.centre[0] + self.radius * np.cos(yaw)
        position[:, 1] = self.centre[1] + self.radius * np.sin(yaw)
        position[:, 2] = CAMERA_HEIGHT
        pitch = np.full(FRAMES, CAMERA_PITCH)
        if self.sway is not None:
            steps = 2 * np.pi * np.arange(FRAMES) / FPS
            waves = [np.sin(rate * steps + phase) for rate, phase in zip((0.5, 0.4, 0.9), self.sway, strict=False)]
            position += np.array(_SWAY) * np.stack(waves, -1)
            yaw = yaw + _SHAKE[0] * np.sin(0.35 * steps + self.sway[3])
            pitch += _SHAKE[1] * np.sin(0.6 * steps + self.sway[4])
        return Poses(position, yaw, pitch)


@dataclass(frozen=True, eq=False)
class Poses:
    """Position (FRAMES, 3) in metres, yaw and pitch (FRAMES,) in radians of every frame."""

    position: NDArray[np.float64]
    yaw: NDArray[np.float64]
    pitch: NDArray[np.float64]


def draw_walk(rng: np.random.Generator, core: tuple[float, float, float, float]) -> Walk:
    """A random walk near the middle of a room's core (west, south, east, north)."""
    west, south, east, north = core
    centre = (
        west + (east - west) * float(rng.uniform(0.45, 0.55)),
        south + (north - south) * float(rng.uniform(0.45, 0.55)),
    )
    phases = tuple(float(phase) for phase in rng.uniform(0, 2 * math.pi, 5))
    return Walk(centre, float(rng.uniform(*RADIUS_RANGE)), float(rng.uniform(0, 2 * math.pi)), phases)
