"""Linear read-outs of the network's insides, used in pre-training only, and what they should read.

The vision tower is supervised densely: every video token tells what it shows, where that is and how large. A
question about two objects needs a look-up of each and then a relation between them. Probes ask for these
intermediate results where the language model can have them: at every mention of a category its state (position,
size, count, first appearance), and at the mention that completes a relation its value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, nn

from harness.world.camera import STOPS
from harness.world.catalogue import CATEGORIES
from harness.world.floor_plan import FloorPlan, Found
from harness.world.geometry import Floats, signed_angle
from harness.world.pretrain.network import HIDDEN
from harness.world.pretrain.shards import KINDS, Example, scaled

GEOMETRY = ("x", "y", "log_distance", "log_size")
ROOM = ("width", "depth", "area", "cos", "sin")
_SHARPNESS = 2.0
"""Power of a token's confidence in its weight: tokens that are sure of their category decide where it is."""
_FAINT = 0.1
"""Tokens less sure than this share of the surest one are ignored."""


class VisionHeads(nn.Module):
    """Linear read-outs of a normalised video token; category logits use the categories' own embeddings.

    Tying the category read-out to the language model's embeddings puts "this token shows a chair" where
    attention looks for the word "chair".
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(HIDDEN, 1 + len(GEOMETRY) + KINDS + len(ROOM))
        nn.init.normal_(self.read.weight, std=0.01)
        nn.init.zeros_(self.read.bias)

    def forward(self, tokens: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
        """Read (..., hidden) video tokens with the (KINDS, hidden) category embeddings, as in ``vision_targets``."""
        x = F.rms_norm(tokens, (HIDDEN,))
        bare, geometry, share, room = self.read(x).split([1, len(GEOMETRY), KINDS, len(ROOM)], -1)
        return {"kind": torch.cat([x @ embeddings.T, bare], -1), "geometry": geometry, "share": share, "room": room}


def vision_losses(read: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean losses: category cross-entropy and squared errors, weighted to comparable size."""
    seen = target["seen"]
    entropy = -(target["kind"] * read["kind"].float().log_softmax(-1)).sum(-1)
    error = {name: (read[name].float() - target[name]) ** 2 for name in ("geometry", "share", "room")}
    return {
        "kind": 2 * (entropy * (1 + 3 * seen)).mean(),
        "geometry": (error["geometry"] * seen[..., None]).sum() / seen.sum(),
        "share": 100 * error["share"].mean(),
        "room": error["room"].mean(),
    }


def vision_scores(read: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, float]:
    """Held-out scores: accuracy of the main category, error of the counts, R2 of geometry and room."""
    seen = target["seen"] > 0
    counts, guesses = target["share"].sum(1), read["share"].float().sum(1)
    main, guess = (part["kind"][..., :-1].argmax(-1)[seen] for part in (target, read))
    explained = r2_by_column(read["geometry"][seen], target["geometry"][seen], GEOMETRY)
    explained |= r2_by_column(read["room"].flatten(0, 1), target["room"].flatten(0, 1), ROOM)
    return {
        "accuracy": (guess == main).float().mean().item(),
        "count_mae": (counts - guesses)[counts > 0.5].abs().mean().item(),
        **{f"r2_{name}": value for name, value in explained.items()},
    }


def floor_plan(read: Mapping[str, Tensor]) -> FloorPlan:
    """Put one video's read-outs together, for answers by geometry alone.

    Where these are good and the model's are not, the language stage loses; where they are not, the tower does.

    Args:
        read: kind (TOKENS, KINDS + 1) logits; geometry, share and room as in ``shards.vision_targets``.
    """
    kind = read["kind"].double().softmax(-1).numpy()[:, :KINDS]
    geometry, share, room = (read[name].double().numpy() for name in ("geometry", "share", "room"))
    shown = kind.reshape(STOPS, -1, KINDS).mean(1)
    found = {}
    for k, name in enumerate(CATEGORIES):
        main = kind[:, k] * (kind.argmax(1) == k)
        places, longest = _pieces(main if main.any() else kind[:, k], geometry, count := float(share[:, k].sum()))
        found[name] = Found(count, places, longest, shown[:, k])
    return FloorPlan(found, 25 * math.exp(float(np.median(room[:, 2]))))


def _pieces(weight: Floats, geometry: Floats, count: float) -> tuple[Floats, Floats]:
    """(pieces, 2) places and (pieces,) longest sides in metres: as many clusters of tokens as there are pieces."""
    tokens = np.flatnonzero(weight > _FAINT * weight.max())
    weight, where = weight[tokens] ** _SHARPNESS, 2 * geometry[tokens, :2]
    groups = np.zeros(len(tokens))
    if round(count) > 1 and len(tokens) > 1:
        groups = fcluster(linkage(where, "average"), round(count), "maxclust")
    share = np.stack([weight * (groups == g) for g in np.unique(groups)])
    share /= share.sum(1, keepdims=True)
    return share @ where, np.exp(share @ geometry[tokens, 3] / 2)


RELATIONS = ("log_gap", "side_cos", "side_sin", "turn_cos", "turn_sin", "later")

PROBES: dict[str, tuple[int, tuple[str, ...]]] = {
    "stop": (0, ("stop",)),
    "state": (1, ("east", "north", "log_distance", "log_size", "count", "first")),
    "relation": (3, RELATIONS),
    "summary": (1, ("counts",) * KINDS + ("firsts",) * KINDS),
    "letter": (1, tuple("ABCD")),
    "right": (4, ("right",)),
}
"""The layer after which each probe reads, and names of its numbers: the stop of a video token, the states of a
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
        super().__init__({name: nn.Linear(HIDDEN, len(columns)) for name, (_, columns) in PROBES.items()})
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
        scores: dict[str, float] = {}
        for name in truths.keys() - {"letter", "right"}:
            scores |= r2_by_column(self._read(name, streams).cpu(), truths[name], PROBES[name][1])
        return scores

    def _read(self, name: str, streams: Mapping[str, Tensor]) -> Tensor:
        guess: Tensor = self[name](F.rms_norm(streams[name].float(), (HIDDEN,)))
        return guess


def states_of(example: Example) -> NDArray[np.float32]:
    """(categories, states) targets; NaN where a category is absent, uncertain or not unique."""
    count, first = example.known[:, 3:].T
    states = np.column_stack([scaled(example.known[:, :2], example.known[:, 2]), count / 2 - 1, first / 3 - 1])
    states[count != 1, :4] = np.nan
    return states


def relations_of(question_type: str, mentions: Sequence[tuple[int, int]], example: Example) -> Iterator[Target]:
    """The intermediate results of a question: gaps, directions, turns, order of appearance.

    Args:
        question_type: Its raw type.
        mentions: Token index and category of every mention of a category in its text.
        example: The scene.
    """
    at, kinds = [i for i, _ in mentions], [kind for _, kind in mentions]
    places, first = example.known[kinds, :2], example.known[kinds, 4]
    if question_type == "object_abs_distance":
        yield gap(at[1], example.nearest[kinds[0], kinds[1]])
    elif question_type == "object_rel_distance":
        yield from (gap(i, example.nearest[kind, kinds[4]]) for i, kind in mentions[5:9])
    elif question_type.startswith("object_rel_direction"):
        yield _turn(at[2], "side", *places[:3])
    elif question_type == "route_planning":
        path = [0, *range(3, len(at))]
        for a, b, c in zip(path, path[1:], path[2:], strict=False):
            yield _turn(at[c], "turn", places[b], 2 * places[b] - places[a], places[c])
    elif question_type == "obj_appearance_order":
        for k, (a, b) in enumerate(itertools.pairwise(range(4, len(at)))):
            if k % 4 != 3:  # not from one option to the next
                yield _relation(at[b], later=np.clip((first[b] - first[a]) / 2, -1, 1))


def gap(place: int, metres: float) -> Target:
    """The distance that the token at a place completes."""
    return _relation(place, log_gap=np.log(max(metres, 0.1)) - 0.5)


def _turn(place: int, name: str, *points: Floats) -> Target:
    """The angle at the first point from the second to the third."""
    angle = math.radians(float(signed_angle(*points)))
    return _relation(place, **{f"{name}_cos": math.cos(angle), f"{name}_sin": math.sin(angle)})


def _relation(place: int, **values: float) -> Target:
    return Target("relation", place, [float(values.get(name, math.nan)) for name in RELATIONS])


def r2_by_column(guess: Tensor, truth: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Share of the variance of ``truth`` (n, columns), where it is known, that ``guess`` explains, by column name."""
    scores = {}
    for name in dict.fromkeys(names):
        columns = [k for k, other in enumerate(names) if other == name]
        known = ~truth[:, columns].isnan()
        aimed, read = truth[:, columns][known], guess[:, columns][known].float()
        scores[name] = 1 - (read - aimed).square().mean().item() / max(aimed.var(correction=0).item(), 1e-9)
    return scores
