"""Answers by plane geometry from a floor plan of one video: the other way round from ``questions``, without language.

Answers use a question's text and options only, and what holds for every question of the world: the catalogue's
proportions, and that only categories of several pieces are counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from harness.vsibench.types import LETTERS
from harness.world.catalogue import CATALOGUE, categories_named
from harness.world.geometry import Floats, footprint, quad_distance, signed_angle
from harness.world.questions import BARELY_SEEN_SHARE, DIRECTION_RULES, MIN_DISTANCE, Raw, turn_name
from harness.world.renderer import SEEN_SHARE

_APPEARS = math.sqrt(SEEN_SHARE * BARELY_SEEN_SHARE)
"""Share of a frame from which a category counts as seen: between the two bounds of the question's rule."""


@dataclass(frozen=True)
class Found:
    """What is known of one category.

    Attributes:
        count: Pieces, not rounded.
        places: (pieces, 2) metres east and north of the middle of the walk.
        longest: (pieces,) longest sides in metres.
        shown: (stops,) share of each stop's frame that shows the category.
    """

    count: float
    places: Floats
    longest: Floats
    shown: Floats


@dataclass(frozen=True)
class FloorPlan:
    """The categories and the room's area in square metres, as one video shows them."""

    found: Mapping[str, Found]
    area: float

    def distance(self, a: str, b: str) -> float:
        """Smallest distance of two categories' boxes in metres, the mean over the ways that they may be turned."""
        gaps = quad_distance(self._outlines(a)[:, None, :, None], self._outlines(b)[None, :, None, :])
        return float(gaps.mean((2, 3)).min())

    def place(self, name: str) -> Floats:
        """(2,) metres east and north of a category of one piece."""
        return self.found[name].places[0]

    def _outlines(self, name: str) -> Floats:
        """(pieces, 2, 4, 2) footprints, with the width to the east and with the depth, since no yaw is known."""
        width, depth, _ = CATALOGUE[name].proportions
        pieces = zip(self.found[name].places, self.found[name].longest, strict=True)
        turned = ((width, depth), (depth, width))
        return np.array([[footprint(x, y, side * a, side * b, 0.0) for a, b in turned] for (x, y), side in pieces])


def answer(record: Raw, plan: FloorPlan) -> str:
    """The answer to one question in its official form: a number, or the letter of the option that fits best."""
    asked, names = record["question_type"], categories_named(record["question"])
    if asked == "object_counting":
        return str(max(2, round(plan.found[names[0]].count)))
    if asked == "object_abs_distance":
        return f"{max(MIN_DISTANCE, plan.distance(names[0], names[1])):.1f}"
    if asked == "object_size_estimation":
        return str(round(100 * float(plan.found[names[0]].longest[0])))
    if asked == "room_size_estimation":
        return f"{plan.area:.1f}"
    misfit = _misfit(asked, plan, names)
    costs = [misfit(option.split(". ", 1)[1]) for option in record["options"]]
    return LETTERS[int(np.argmin(costs))]


def _misfit(asked: str, plan: FloorPlan, names: list[str]) -> Callable[[str], float]:
    """How badly an option's words fit the plan."""
    if asked == "object_rel_distance":
        return lambda words: plan.distance(words, names[4])
    if asked in DIRECTION_RULES:
        angle = float(signed_angle(*map(plan.place, names[:3])))
        return lambda words: _degrees_off(DIRECTION_RULES[asked], angle, words)
    if asked == "route_planning":  # named: start, what it faces, goal, then the stops of the steps
        path = [plan.place(name) for name in (names[0], *names[3:])]
        turns = [float(signed_angle(b, 2 * b - a, c)) for a, b, c in zip(path, path[1:], path[2:], strict=False)]
        return lambda words: sum(map(_degrees_off, itertools.repeat(turn_name), turns, words.split(", ")))
    first = {name: int(np.argmax(plan.found[name].shown >= _APPEARS)) for name in names}
    return lambda words: sum(
        (first[a] > first[b]) + (first[a] == first[b]) / 2 for a, b in itertools.combinations(words.split(", "), 2)
    )


def _degrees_off(rule: Callable[[float], str | None], angle: float, answer: str) -> float:
    """Degrees by which an angle must change before the rule gives this answer."""
    off = np.abs(_angles_of(rule, answer) - angle) % 360
    return float(np.minimum(off, 360 - off).min())


@cache
def _angles_of(rule: Callable[[float], str | None], answer: str) -> Floats:
    """The whole degrees for which the rule gives this answer."""
    return np.array([angle for angle in range(-179, 181) if rule(angle) == answer], float)
