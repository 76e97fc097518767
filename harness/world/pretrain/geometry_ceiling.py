"""The ceiling by geometry: questions answered from what the vision tower's dense read-outs say, without language.

The read-outs (see ``dense``) say of every video token what it shows, where that stands, how large it is and how
large the room is. Here they become one floor plan per video, and plane geometry answers the question. Where this
ceiling is high and the model is low, the language stage loses; where the ceiling itself is low, the tower does.
Answers use a question's text and options only, and what its asker says of every question: the catalogue's
proportions, and that only categories of several pieces are counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from harness.vsibench.types import LETTERS
from harness.world.camera import STOPS
from harness.world.catalogue import CATALOGUE, CATEGORIES, categories_named
from harness.world.geometry import Floats, footprint, quad_distance, signed_angle
from harness.world.pretrain.dense import KINDS
from harness.world.pretrain.shards import CELLS
from harness.world.questions import (
    BARELY_SEEN_SHARE,
    MIN_DISTANCE,
    Raw,
    easy_direction,
    hard_direction,
    medium_direction,
    turn_name,
)
from harness.world.renderer import SEEN_SHARE

_SHARPNESS = 2.0
"""Power of a token's confidence in its weight: tokens that are sure of their category decide where it stands."""
_FAINT = 0.1
"""Tokens less sure than this share of the surest one say nothing."""
_APPEARS = math.sqrt(SEEN_SHARE * BARELY_SEEN_SHARE)
"""Share of a frame from which a category counts as seen: between the two bounds of the question's rule."""
_DIRECTION_RULES: Mapping[str, Callable[[float], str | None]] = {
    "object_rel_direction_easy": easy_direction,
    "object_rel_direction_medium": medium_direction,
    "object_rel_direction_hard": hard_direction,
}


@dataclass(frozen=True)
class Found:
    """What the read-outs say of one category.

    Attributes:
        count: Pieces, not rounded.
        places: (pieces, 2) metres east and north of the middle of the walk.
        longest: (pieces,) longest sides in metres.
        shown: (STOPS,) share of each stop's frame that shows the category.
    """

    count: float
    places: Floats
    longest: Floats
    shown: Floats

    def outlines(self, category: str) -> Floats:
        """(pieces, 2, 4, 2) footprints: no yaw is read, so one with the width to the east and one with the depth."""
        width, depth, _ = CATALOGUE[category].proportions
        return np.array(
            [
                [footprint(x, y, side * a, side * b, 0.0) for a, b in ((width, depth), (depth, width))]
                for (x, y), side in zip(self.places, self.longest, strict=True)
            ]
        )


@dataclass(frozen=True)
class FloorPlan:
    """One video's read-outs, put together: the categories and the room's area in square metres."""

    found: Mapping[str, Found]
    area: float

    def distance(self, a: str, b: str) -> float:
        """Smallest distance of two categories' boxes in metres, the mean over the ways that they may be turned."""
        ours, theirs = self.found[a].outlines(a), self.found[b].outlines(b)
        gaps = quad_distance(ours[:, None, :, None], theirs[None, :, None, :])
        return float(gaps.mean((2, 3)).min())

    def angle(self, origin: str, facing: str, target: str) -> float:
        """Signed angle in degrees, left positive, between three categories' places."""
        return float(signed_angle(*(self.found[name].places[0] for name in (origin, facing, target))))

    def turns(self, route: Sequence[str]) -> list[float]:
        """Signed angles in degrees at the inner places of a route."""
        places = [self.found[name].places[0] for name in route]
        return [float(signed_angle(b, 2 * b - a, c)) for a, b, c in zip(places, places[1:], places[2:], strict=False)]


def floor_plan(read: Mapping[str, Tensor]) -> FloorPlan:
    """Put one video's read-outs together.

    Args:
        read: kind (TOKENS, KINDS + 1) logits; geometry (TOKENS, 4), share (TOKENS, KINDS) and room (TOKENS, ROOM) in
            the units of ``dense.vision_targets``.
    """
    kind = read["kind"].double().softmax(-1).numpy()[:, :KINDS]
    geometry, share, room = (read[name].double().numpy() for name in ("geometry", "share", "room"))
    shown = kind.reshape(STOPS, CELLS * CELLS, KINDS).mean(1)
    found = {
        name: _found(kind[:, k] * (kind.argmax(1) == k), kind[:, k], geometry, share[:, k].sum(), shown[:, k])
        for k, name in enumerate(CATEGORIES)
    }
    return FloorPlan(found, 25 * math.exp(float(np.median(room[:, 2]))))


def _found(main: Floats, any_: Floats, geometry: Floats, count: float, shown: Floats) -> Found:
    weight = main if main.any() else any_
    tokens = np.flatnonzero(weight > _FAINT * weight.max())
    weight = weight[tokens] ** _SHARPNESS
    where = 2 * geometry[tokens, :2]
    groups = _groups(where, round(count))
    share = np.stack([weight * (groups == g) for g in np.unique(groups)])
    share /= share.sum(1, keepdims=True)
    return Found(float(count), share @ where, np.exp(share @ geometry[tokens, 3] / 2), shown)


def _groups(where: Floats, pieces: int) -> Floats:
    """Which piece each token shows: at most so many clusters of places."""
    if pieces < 2 or len(where) < 2:
        return np.zeros(len(where))
    return fcluster(linkage(where, "average"), pieces, "maxclust")


def answer(record: Raw, plan: FloorPlan) -> str:
    """The answer to one question in its official form: a number, or the letter of the option that fits best."""
    asked, names = record["question_type"], categories_named(record["question"])
    if asked in _NUMBERS:
        return _NUMBERS[asked](plan, names)
    misfit = _misfit(asked, plan, names)
    costs = [misfit(option.split(". ", 1)[1]) for option in record["options"]]
    return LETTERS[int(np.argmin(costs))]


_NUMBERS: Mapping[str, Callable[[FloorPlan, list[str]], str]] = {
    "object_counting": lambda plan, names: str(max(2, round(plan.found[names[0]].count))),
    "object_abs_distance": lambda plan, names: f"{max(MIN_DISTANCE, plan.distance(names[0], names[1])):.1f}",
    "object_size_estimation": lambda plan, names: str(round(100 * float(plan.found[names[0]].longest[0]))),
    "room_size_estimation": lambda plan, names: f"{plan.area:.1f}",
}


def _misfit(asked: str, plan: FloorPlan, names: list[str]) -> Callable[[str], float]:
    """How badly an option's words fit the plan."""
    if asked == "object_rel_distance":
        return lambda words: plan.distance(words, names[4])
    if asked in _DIRECTION_RULES:
        angle = plan.angle(*names[:3])
        return lambda words: _degrees_off(_DIRECTION_RULES[asked], angle, words)
    if asked == "route_planning":  # named: start, what it faces, goal, then the stops of the steps
        turns = plan.turns([names[0], *names[3:]])
        return lambda words: sum(
            _degrees_off(turn_name, turn, word) for turn, word in zip(turns, words.split(", "), strict=True)
        )
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
