"""Deep supervision of the language model: linear probes on intermediate layers, used in pre-training only.

A question about two objects needs a look-up of each and then a relation between them. The probes ask for
these intermediate results where the network can have them: at every mention of a category its state
(position, size, count, first appearance), and at the mention that completes a relation its value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.world.camera import STOPS
from harness.world.catalogue import CATEGORIES
from harness.world.geometry import signed_angle
from harness.world.pretrain.network import HIDDEN
from harness.world.pretrain.shards import CELLS, Example

TAPS = (0, 1, 3, 4)
"""Layers after which the stop index, the states and letters, the relations, and right options are read."""

STATES = ("east", "north", "log_distance", "log_size", "count", "first")
RELATIONS = ("log_gap", "side_cos", "side_sin", "turn_cos", "turn_sin", "later")

Relation = tuple[int, int, float]
"""Token index in the question, index into RELATIONS, target."""


@dataclass(frozen=True)
class Option:
    """An option in a text: token indices of its content, its letter, and whether it is right (if known)."""

    spots: tuple[int, ...]
    letter: int
    right: bool | None


class Probes(nn.Module):
    """Linear read-outs of the normalised residual stream after the layers in TAPS."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = nn.Linear(HIDDEN, 1)
        self.state = nn.Linear(HIDDEN, len(STATES))
        self.relation = nn.Linear(HIDDEN, len(RELATIONS))
        self.summary = nn.Linear(HIDDEN, 2 * len(CATEGORIES))
        self.letter = nn.Linear(HIDDEN, 4)
        self.right = nn.Linear(HIDDEN, 1)
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.02)

    def losses(self, taps: Sequence[Tensor], targets: ProbeTargets) -> dict[str, Tensor]:
        """Mean losses: squared errors of values, cross-entropies of letters and of right options.

        Args:
            taps: Residual streams (T, hidden) after the layers in TAPS.
            targets: What to read where.
        """
        first, second, fourth, fifth = taps
        stop = self.stop(_normal(first[targets.video]))[:, 0]
        state = self.state(_normal(second[targets.mentions]))
        known = ~targets.states.isnan()
        state_error = (state - targets.states.nan_to_num())[known].square()
        relation = self.relation(_normal(fourth[targets.related]))
        guess = relation.gather(1, targets.channel[:, None])[:, 0]
        summary = self.summary(_normal(second[targets.video_ends]))
        told = ~targets.summaries.isnan()
        return {
            "summary": (summary - targets.summaries.nan_to_num())[told].square().mean(),
            "stop": (stop - targets.stops).square().mean(),
            "state": state_error.mean(),
            "relation": (guess - targets.values).square().mean() if len(guess) else stop.sum() * 0,
            **self._option_losses(second, fifth, targets),
        }

    def _option_losses(self, second: Tensor, fifth: Tensor, targets: ProbeTargets) -> dict[str, Tensor]:
        losses = {}
        if len(targets.letters):
            guess = self.letter(_normal(second[targets.contents]))
            losses["letter"] = F.cross_entropy(guess, targets.letters)
        if len(targets.right):
            guess = self.right(_normal(fifth[targets.judged]))[:, 0]
            losses["right"] = F.binary_cross_entropy_with_logits(guess, targets.right)
        return losses

    @torch.no_grad()
    def r2(self, taps: Sequence[Tensor], targets: ProbeTargets) -> dict[str, float]:
        """Held-out R2 of every state and relation."""
        state = self.state(_normal(taps[1][targets.mentions]))
        relation = self.relation(_normal(taps[2][targets.related]))
        scores = {"stop": _r2(self.stop(_normal(taps[0][targets.video]))[:, 0], targets.stops)}
        summary = self.summary(_normal(taps[1][targets.video_ends]))
        for name, part in (("counts", slice(0, len(CATEGORIES))), ("firsts", slice(len(CATEGORIES), None))):
            told = ~targets.summaries[:, part].isnan()
            scores[name] = _r2(summary[:, part][told], targets.summaries[:, part][told])
        for k, name in enumerate(STATES):
            known = ~targets.states[:, k].isnan()
            scores[name] = _r2(state[known, k], targets.states[known, k])
        for k, name in enumerate(RELATIONS):
            here = targets.channel == k
            scores[name] = _r2(relation[here, k], targets.values[here])
        return scores


def _normal(x: Tensor) -> Tensor:
    return F.rms_norm(x.float(), (HIDDEN,))


def _r2(guess: Tensor, truth: Tensor) -> float:
    return 1 - (guess.float() - truth).square().mean().item() / max(truth.var(correction=0).item(), 1e-9)


class ProbeTargets:
    """Flat token indices of a batch and what the probes should read there."""

    def __init__(
        self,
        ids: Tensor,
        scene_of_token: Tensor,
        starts: Sequence[int],
        relations: Sequence[Sequence[Relation]],
        options: Sequence[Sequence[Option]],
        examples: Sequence[Example],
        category_ids: Sequence[int],
        video_token: int,
    ) -> None:
        self.video = (ids == video_token).nonzero()[:, 0]
        per_stop = torch.arange(STOPS).repeat_interleave(CELLS * CELLS)
        self.stops = per_stop.repeat(len(examples)).float() / 4 - 1
        kind = torch.full((int(ids.max()) + 1,), -1)
        for index, token in enumerate(category_ids):
            if token < len(kind):
                kind[token] = index
        of_token = kind[ids]
        self.mentions = (of_token >= 0).nonzero()[:, 0]
        table = torch.from_numpy(np.stack([states_of(e) for e in examples]))
        last = STOPS * CELLS * CELLS - 1
        self.video_ends = self.video.view(len(examples), -1)[:, last] + 1
        counts = torch.nan_to_num(table[..., 4], nan=-1.0)
        self.summaries = torch.cat([counts, table[..., 5]], 1)
        self.states = table[scene_of_token[self.mentions], of_token[self.mentions]]
        flat = [(s + i, c, v) for s, items in zip(starts, relations, strict=True) for i, c, v in items]
        self.related = torch.tensor([i for i, _, _ in flat], dtype=torch.long)
        self.channel = torch.tensor([c for _, c, _ in flat], dtype=torch.long)
        self.values = torch.tensor([v for _, _, v in flat], dtype=torch.float32)
        shown = [
            (s + i, option) for s, items in zip(starts, options, strict=True) for option in items for i in option.spots
        ]
        self.contents = torch.tensor([i for i, _ in shown], dtype=torch.long)
        self.letters = torch.tensor([option.letter for _, option in shown], dtype=torch.long)
        judged = [(s + o.spots[-1], o.right) for s, items in zip(starts, options, strict=True) for o in items]
        self.judged = torch.tensor([i for i, right in judged if right is not None], dtype=torch.long)
        self.right = torch.tensor([float(right) for _, right in judged if right is not None])


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


def relations_of(question_type: str, ids: NDArray[np.int16], kinds: dict[int, int], example: Example) -> list[Relation]:
    """The intermediate results of a question: gaps, directions, turns, order of appearance."""
    spots = [(i, kinds[int(t)]) for i, t in enumerate(ids) if int(t) in kinds]
    if question_type == "object_abs_distance":
        (_, a), (i, b) = spots[:2]
        return [(i, 0, float(np.log(example.nearest[a, b])) - 0.5)]
    if question_type == "object_rel_distance":
        anchor = spots[4][1]
        return [(i, 0, float(np.log(max(example.nearest[k, anchor], 0.1))) - 0.5) for i, k in spots[5:9]]
    if question_type.startswith("object_rel_direction"):
        a, b, (i, c) = spots[0][1], spots[1][1], spots[2]
        angle = _angle(_place(example, a), _place(example, b), _place(example, c))
        return [(i, 1, math.cos(angle)), (i, 2, math.sin(angle))]
    if question_type == "route_planning":
        path = [spots[0], *spots[3:]]
        found: list[Relation] = []
        for (_, a), (_, b), (i, c) in zip(path, path[1:], path[2:], strict=False):
            start, corner, goal = (_place(example, kind) for kind in (a, b, c))
            angle = _angle(corner, 2 * corner - start, goal)
            found += [(i, 3, math.cos(angle)), (i, 4, math.sin(angle))]
        return found
    if question_type == "obj_appearance_order":
        return [
            (i, 5, float(np.clip((example.first[b] - example.first[a]) / 2, -1, 1)))
            for k, ((_, a), (i, b)) in enumerate(itertools.pairwise(spots[4:]))
            if k % 4 != 3
        ]
    return []


def _place(example: Example, kind: int) -> NDArray[np.float32]:
    return example.where[int(np.argmax(example.kind == kind))]


def _angle(origin: NDArray[np.float32], facing: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    return math.radians(float(signed_angle(origin, facing, target)))
