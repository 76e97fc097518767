"""The ceiling by geometry: questions answered from what the vision tower's dense read-outs say, without language.

The read-outs (see ``dense``) say of every video token what it shows, where that is, how large it is and how
large the room is. Here they become one floor plan per video, and plane geometry answers the question. Where this
ceiling is high and the model is low, the language stage loses; where the ceiling itself is low, the tower does.
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
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from harness.vsibench.types import LETTERS
from harness.world.camera import STOPS
from harness.world.catalogue import CATALOGUE, CATEGORIES, categories_named
from harness.world.geometry import Floats, footprint, quad_distance, signed_angle
from harness.world.pretrain.dense import KINDS
from harness.world.questions import BARELY_SEEN_SHARE, DIRECTION_RULES, MIN_DISTANCE, Raw, turn_name
from harness.world.renderer import SEEN_SHARE

_SHARPNESS = 2.0
"""Power of a token's confidence in its weight: tokens that are sure of their category decide where it is."""
_FAINT = 0.1
"""Tokens less sure than this share of the surest one are ignored."""
_APPEARS = math.sqrt(SEEN_SHARE * BARELY_SEEN_SHARE)
"""Share of a frame from which a category counts as seen: between the two bounds of the question's rule."""


@dataclass(frozen=True)
class Found:
    """What the read-outs say of one category.

    Attributes:
        count: Pieces, not rounded.
        places: (pieces, 2) metres east and north of the middle of the walk.
        longest: (pieces,) longest sides in metres.
        shown: (STOPS,) share of each stop's frame that shows the category.
        outlines: (pieces, 2, 4, 2) footprints, with the width to the east and with the depth, since no yaw is read.
    """

    count: float
    places: Floats
    longest: Floats
    shown: Floats
    outlines: Floats


@dataclass(frozen=True)
class FloorPlan:
    """One video's read-outs, put together: the categories and the room's area in square metres."""

    found: Mapping[str, Found]
    area: float

    def distance(self, a: str, b: str) -> float:
        """Smallest distance of two categories' boxes in metres, the mean over the ways that they may be turned."""
        ours, theirs = self.found[a].outlines, self.found[b].outlines
        gaps = quad_distance(ours[:, None, :, None], theirs[None, :, None, :])
        return float(gaps.mean((2, 3)).min())

    def place(self, name: str) -> Floats:
        """(2,) metres east and north of a category of one piece."""
        return self.found[name].places[0]


def floor_plan(read: Mapping[str, Tensor]) -> FloorPlan:
    """Put one video's read-outs together.

    Args:
        read: kind (TOKENS, KINDS + 1) logits; geometry, share and room as in ``dense.vision_targets``.
    """
    kind = read["kind"].double().softmax(-1).numpy()[:, :KINDS]
    geometry, share, room = (read[name].double().numpy() for name in ("geometry", "share", "room"))
    shown = kind.reshape(STOPS, -1, KINDS).mean(1)
    found = {}
    for k, name in enumerate(CATEGORIES):
        main = kind[:, k] * (kind.argmax(1) == k)
        weight = main if main.any() else kind[:, k]
        found[name] = _found(name, weight, geometry, float(share[:, k].sum()), shown[:, k])
    return FloorPlan(found, 25 * math.exp(float(np.median(room[:, 2]))))


def _found(name: str, weight: Floats, geometry: Floats, count: float, shown: Floats) -> Found:
    """One category from the tokens that show it: as many clusters of places as there are pieces."""
    tokens = np.flatnonzero(weight > _FAINT * weight.max())
    weight, where = weight[tokens] ** _SHARPNESS, 2 * geometry[tokens, :2]
    groups = np.zeros(len(tokens))
    if round(count) > 1 and len(tokens) > 1:
        groups = fcluster(linkage(where, "average"), round(count), "maxclust")
    share = np.stack([weight * (groups == g) for g in np.unique(groups)])
    share /= share.sum(1, keepdims=True)
    places, longest = share @ where, np.exp(share @ geometry[tokens, 3] / 2)
    width, depth, _ = CATALOGUE[name].proportions
    outlines = [
        [footprint(x, y, side * a, side * b, 0.0) for a, b in ((width, depth), (depth, width))]
        for (x, y), side in zip(places, longest, strict=True)
    ]
    return Found(count, places, longest, shown, np.array(outlines))


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
