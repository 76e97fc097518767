"""Dense supervision of the vision tower: what every video token shows, where it is and how large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, nn

from harness.world.camera import STOPS
from harness.world.catalogue import CATEGORIES
from harness.world.floor_plan import FloorPlan, Found
from harness.world.geometry import Floats
from harness.world.pretrain.network import HIDDEN
from harness.world.pretrain.shards import CELLS, TOKENS, Example

KINDS = len(CATEGORIES)
GEOMETRY = ("x", "y", "log_distance", "log_size")
ROOM = ("width", "depth", "area", "cos", "sin")
MIN_PIXELS = 12
"""A token whose most visible object covers fewer pixels has no position or size to learn."""
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
        """Read (..., hidden) video tokens with the (KINDS, hidden) category embeddings; see ``vision_targets``."""
        x = F.rms_norm(tokens, (HIDDEN,))
        bare, geometry, share, room = self.read(x).split([1, len(GEOMETRY), KINDS, len(ROOM)], -1)
        return {"kind": torch.cat([x @ embeddings.T, bare], -1), "geometry": geometry, "share": share, "room": room}


def vision_targets(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Targets of a batch.

    Returns:
        kind (n, TOKENS, KINDS + 1): share of the cell's pixels by category, the last one the bare room;
        geometry (n, TOKENS, 4): east/2, north/2, log distance, 2 log longest side of the main object;
        seen (n, TOKENS): whether there is a main object;
        share (n, TOKENS, KINDS): part of each object's visible pixels, summed by category (sums to counts);
        room (n, TOKENS, 5): 2 log width/5, 2 log depth/5, log area/25, cosine and sine of the heading.
    """
    rows = [_targets(example) for example in examples]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows]).astype(np.float32)) for name in rows[0]}


def _targets(example: Example) -> dict[str, NDArray[np.floating]]:
    cells = example.cells.astype(np.float32)
    onehot = np.eye(KINDS, dtype=np.float32)[example.kind]
    kind = cells @ onehot / (28 * 28)
    distance = np.log(np.hypot(*example.where.T))[:, None]
    objects = np.concatenate([example.where / 2, distance - 0.7, 2 * np.log(example.longest)[:, None]], 1)
    sides = np.log(np.array(example.room) / (5, 5, 25)) * (2, 2, 1)
    heading = example.heading.repeat(CELLS * CELLS)[:, None]
    return {
        "kind": np.concatenate([kind, 1 - kind.sum(1, keepdims=True)], 1),
        "geometry": objects[cells.argmax(1)],
        "seen": cells.max(1) > MIN_PIXELS,
        "share": cells / cells.sum(0).clip(1) @ onehot,
        "room": np.concatenate([np.tile(sides, (TOKENS, 1)), np.cos(heading), np.sin(heading)], 1),
    }


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


def vision_scores(read: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, float]:
    """Held-out scores: accuracy of the main category, error of the counts, R2 of geometry and room."""
    seen = target["seen"] > 0
    counts, guesses = target["share"].sum(1), read["share"].float().sum(1)
    main, guess = (part["kind"][..., :-1].argmax(-1)[seen] for part in (target, read))
    return {
        "accuracy": (guess == main).float().mean().item(),
        "count_mae": (counts - guesses)[counts > 0.5].abs().mean().item(),
        **{
            f"r2_{name}": r2(read["geometry"][seen][:, k], target["geometry"][seen][:, k])
            for k, name in enumerate(GEOMETRY)
        },
        **{f"r2_{name}": r2(read["room"][..., k], target["room"][..., k]) for k, name in enumerate(ROOM)},
    }


def floor_plan(read: Mapping[str, Tensor]) -> FloorPlan:
    """Put one video's read-outs together, for answers by geometry alone.

    Where these are good and the model's are not, the language stage loses; where they are not, the tower does.

    Args:
        read: kind (TOKENS, KINDS + 1) logits; geometry, share and room as in :func:`vision_targets`.
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


def r2(guess: Tensor, truth: Tensor) -> float:
    """Share of the variance of ``truth`` that ``guess`` explains."""
    return 1 - (guess.float() - truth).square().mean().item() / max(truth.var(correction=0).item(), 1e-9)
