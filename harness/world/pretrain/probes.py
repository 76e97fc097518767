"""Deep supervision of the language model: linear probes on intermediate layers, used in pre-training only.

A question about two objects needs a look-up of each and then a relation between them. The probes ask for
these intermediate results where the network can have them: at every mention of a category its state
(position, size, count, first appearance), and at the mention that completes a relation its value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.world.catalogue import CATEGORIES
from harness.world.geometry import signed_angle
from harness.world.pretrain.dense import r2
from harness.world.pretrain.network import HIDDEN
from harness.world.pretrain.shards import Example

STATES = ("east", "north", "log_distance", "log_size", "count", "first")
RELATIONS = ("log_gap", "side_cos", "side_sin", "turn_cos", "turn_sin", "later")
_COLUMNS = {"stop": ("stop",), "summary": ("counts", "firsts"), "state": STATES, "relation": RELATIONS}

PROBES: dict[str, tuple[int, int]] = {
    "stop": (0, 1),
    "state": (1, len(STATES)),
    "relation": (3, len(RELATIONS)),
    "summary": (1, 2 * len(CATEGORIES)),
    "letter": (1, 4),
    "right": (4, 1),
}
"""The layer after which each probe reads, and how many numbers: the stop of a video token, the states of a
category mentioned, the relation that a mention completes, counts and first appearances of all categories at the
end of the video, the letter of an option's words, and whether an option that ends is the right one."""


class Target(NamedTuple):
    """What a probe should read at one token of a text: numbers, NaN where unknown; for ``letter`` its index."""

    probe: str
    place: int
    truth: Sequence[float]


class Probes(nn.ModuleDict):
    """Linear read-outs of the normalised residual stream, by the names in ``PROBES``."""

    def __init__(self) -> None:
        super().__init__({name: nn.Linear(HIDDEN, width) for name, (_, width) in PROBES.items()})
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)

    def losses(self, streams: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean losses of the probes that read something: squared errors, cross-entropies of letters and right options.

        Args:
            streams: (n, hidden) residual streams that each probe reads.
            truths: (n, numbers) what it should read there.
        """
        losses = {}
        for name, values in truths.items():
            guess = self._read(name, streams)
            truth = values.to(guess.device)
            known = ~truth.isnan()
            if name == "letter":
                losses[name] = F.cross_entropy(guess, truth[:, 0].long())
            elif name == "right":
                losses[name] = F.binary_cross_entropy_with_logits(guess, truth)
            else:
                losses[name] = (guess - truth.nan_to_num())[known].square().mean()
        return losses

    @torch.no_grad()
    def r2(self, streams: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> dict[str, float]:
        """Held-out R2 of the stop, of counts and first appearances, of every state and every relation."""
        scores = {}
        for name in truths.keys() & _COLUMNS:
            columns = _COLUMNS[name]
            parts = (part.cpu().chunk(len(columns), 1) for part in (self._read(name, streams), truths[name]))
            for column, guess, value in zip(columns, *parts, strict=True):
                known = ~value.isnan()
                scores[column] = r2(guess[known], value[known])
        return scores

    def _read(self, name: str, streams: Mapping[str, Tensor]) -> Tensor:
        guess: Tensor = self[name](F.rms_norm(streams[name].float(), (HIDDEN,)))
        return guess


def states_of(example: Example) -> NDArray[np.float32]:
    """(categories, STATES) targets; NaN where a category is absent, uncertain or not unique."""
    table = np.full((len(CATEGORIES), len(STATES)), np.nan, np.float32)
    counts = np.bincount(example.kind, minlength=len(CATEGORIES))
    for i, kind in enumerate(example.kind):
        if counts[kind] == 1:
            east, north = example.where[i]
            table[kind, :3] = east / 2, north / 2, math.log(math.hypot(east, north)) - 0.7
            table[kind, 3] = 2 * math.log(example.longest[i])
    table[counts > 0, 4] = counts[counts > 0] / 2 - 1
    table[:, 5] = example.first / 3 - 1
    return table


def relations_of(question_type: str, mentions: Sequence[tuple[int, int]], example: Example) -> list[Target]:
    """The intermediate results of a question: gaps, directions, turns, order of appearance.

    Args:
        question_type: Its raw type.
        mentions: Token index and category of every mention of a category in its text.
        example: The scene.
    """
    places = np.array([example.where[int(np.argmax(example.kind == kind))] for _, kind in mentions])
    if question_type == "object_abs_distance":
        (_, a), (i, b) = mentions[:2]
        return [gap(i, example.nearest[a, b])]
    if question_type == "object_rel_distance":
        return [gap(i, example.nearest[kind, mentions[4][1]]) for i, kind in mentions[5:9]]
    if question_type.startswith("object_rel_direction"):
        return [_turn(mentions[2][0], "side", *places[:3])]
    if question_type == "route_planning":
        path = [0, *range(3, len(mentions))]
        turns = [(mentions[c][0], *places[[b, a, c]]) for a, b, c in zip(path, path[1:], path[2:], strict=False)]
        return [_turn(i, "turn", corner, 2 * corner - start, goal) for i, corner, start, goal in turns]
    if question_type == "obj_appearance_order":
        pairs = list(itertools.pairwise(mentions[4:]))
        pairs = [pair for k, pair in enumerate(pairs) if k % 4 != 3]  # not from one option to the next
        order = [(i, (example.first[b] - example.first[a]) / 2) for (_, a), (i, b) in pairs]
        return [_relation(i, later=np.clip(later, -1, 1)) for i, later in order]
    return []


def gap(place: int, metres: float) -> Target:
    """The distance that the token at a place completes."""
    return _relation(place, log_gap=np.log(max(metres, 0.1)) - 0.5)


def _turn(place: int, name: str, *points: NDArray[np.float32]) -> Target:
    """The angle at the first point from the second to the third."""
    angle = math.radians(float(signed_angle(*points)))
    return _relation(place, **{f"{name}_cos": math.cos(angle), f"{name}_sin": math.sin(angle)})


def _relation(place: int, **values: float) -> Target:
    return Target("relation", place, [float(values.get(name, math.nan)) for name in RELATIONS])
