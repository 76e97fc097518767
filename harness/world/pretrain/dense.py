"""Dense supervision of the vision tower: what every video token shows, where it is and how large."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.world.catalogue import CATEGORIES
from harness.world.pretrain.network import HIDDEN, IMAGE_MEAN, IMAGE_STD, PATCH
from harness.world.pretrain.shards import CELLS, TOKENS, Example

KINDS = len(CATEGORIES)
ROOM = 5
MIN_PIXELS = 12
"""A token whose most visible object covers fewer pixels has no position or size to learn."""
PIXEL_NOISE = 2.0
"""Standard deviation, of 255, of the noise added to training frames: about the error of the codec."""


class VisionHeads(nn.Module):
    """Linear read-outs of a normalised video token; category logits use the categories' own embeddings.

    Tying the category read-out to the language model's embeddings puts "this token shows a chair" where
    attention looks for the word "chair".
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(HIDDEN, 1 + 4 + KINDS + ROOM)
        nn.init.normal_(self.read.weight, std=0.01)
        nn.init.zeros_(self.read.bias)

    def forward(self, tokens: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
        """Read (n, TOKENS, hidden) tokens with the (KINDS, hidden) category embeddings."""
        x = F.rms_norm(tokens, (HIDDEN,))
        rest = self.read(x)
        logits = torch.cat([x @ embeddings.T, rest[..., :1]], -1)
        return {
            "kind": logits,
            "geometry": rest[..., 1:5],
            "share": rest[..., 5 : 5 + KINDS],
            "room": rest[..., -ROOM:],
        }


def vision_targets(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Targets of a batch.

    Returns:
        kind (n, TOKENS, KINDS + 1): share of the cell's pixels by category, the last one the bare room;
        geometry (n, TOKENS, 4): east/2, north/2, log distance, 2 log longest side of the main object;
        seen (n, TOKENS): whether there is a main object;
        share (n, TOKENS, KINDS): part of each object's visible pixels, summed by category (sums to counts);
        room (n, TOKENS, ROOM): 2 log width/5, 2 log depth/5, log area/25, cosine and sine of the heading.
    """
    rows: dict[str, list[NDArray[np.float32]]] = {k: [] for k in ("kind", "geometry", "seen", "share", "room")}
    for example in examples:
        cells = example.cells.astype(np.float32)
        onehot = np.eye(KINDS, dtype=np.float32)[example.kind]
        kind = cells @ onehot / (28 * 28)
        rows["kind"].append(np.concatenate([kind, 1 - kind.sum(1, keepdims=True)], 1))
        main = cells.argmax(1)
        rows["seen"].append((cells.max(1) > MIN_PIXELS).astype(np.float32))
        distance = np.log(np.hypot(*example.where.T))
        table = np.concatenate(
            [example.where / 2, distance[:, None] - 0.7, 2 * np.log(example.longest)[:, None]], 1
        ).astype(np.float32)
        rows["geometry"].append(table[main])
        rows["share"].append(cells / cells.sum(0).clip(1) @ onehot)
        width, depth, area = example.room
        sides = np.array([2 * math.log(width / 5), 2 * math.log(depth / 5), math.log(area / 25)], np.float32)
        sides = np.tile(sides, (TOKENS, 1))
        heading = example.heading.repeat(CELLS * CELLS)
        rows["room"].append(np.concatenate([sides, np.cos(heading)[:, None], np.sin(heading)[:, None]], 1))
    return {name: torch.from_numpy(np.stack(values).astype(np.float32)) for name, values in rows.items()}


def vision_losses(read: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean losses: category cross-entropy and squared errors, weighted to comparable size."""
    seen = target["seen"]
    entropy = -(target["kind"] * read["kind"].float().log_softmax(-1)).sum(-1)
    geometry = ((read["geometry"].float() - target["geometry"]) ** 2 * seen[..., None]).sum() / seen.sum()
    return {
        "kind": 2 * (entropy * (1 + 3 * seen)).mean(),
        "geometry": geometry,
        "share": 100 * ((read["share"].float() - target["share"]) ** 2).mean(),
        "room": ((read["room"].float() - target["room"]) ** 2).mean(),
    }


def vision_scores(read: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, float]:
    """Held-out scores: accuracy of the main category, R2 of the geometry, error of the counts."""
    seen = target["seen"] > 0
    right = (read["kind"][..., :-1].argmax(-1) == target["kind"][..., :-1].argmax(-1))[seen]
    scores = {"accuracy": right.float().mean().item()}
    for k, name in enumerate(("x", "y", "log_distance", "log_size")):
        truth, guess = target["geometry"][..., k][seen], read["geometry"][..., k][seen]
        scores[f"r2_{name}"] = 1 - ((guess - truth) ** 2).mean().item() / truth.var().item()
    counts, guesses = target["share"].sum(1), read["share"].sum(1)
    scores["count_mae"] = (counts - guesses)[counts > 0.5].abs().mean().item()
    for k, name in enumerate(("width", "depth", "area", "cos", "sin")):
        truth, guess = target["room"][..., k], read["room"][..., k]
        scores[f"r2_{name}"] = 1 - ((guess - truth) ** 2).mean().item() / truth.var().item()
    return scores


def to_patches(frames: Tensor, noise: float = 0.0) -> Tensor:
    """Frames (n, 2 * STOPS, S, S, 3) of 0 to 255 to (n * STOPS * 36, 1176) patches in the processor's order."""
    pixels = frames.flatten(0, 1).float()
    if noise:
        pixels = pixels + noise * torch.randn_like(pixels)
    mean, std = (255 * torch.tensor(values, device=pixels.device) for values in (IMAGE_MEAN, IMAGE_STD))
    x = ((pixels - mean) / std).permute(0, 3, 1, 2)
    grid = x.shape[-1] // PATCH
    x = x.reshape(-1, 2, 3, grid // 2, 2, PATCH, grid // 2, 2, PATCH).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(-1, 2 * 3 * PATCH * PATCH)
