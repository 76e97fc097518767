"""A prompt as the language model receives it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PromptState(NamedTuple):
    """A prompt as the language model receives it.

    Attributes:
        ids: (P,) token ids, on the CPU.
        visual: (P,) bool, the video tokens, on the CPU.
        video: The video's digest.
        embeddings: (P, hidden) token embeddings with the video's features in place.
        deepstack: (levels, video tokens, hidden) features for the first language layers; most models have none.
        positions: (3, P) M-RoPE positions from the model's own rule.
        next_position: The position of the first completion token on all three axes.
    """

    ids: Tensor
    visual: Tensor
    video: str
    embeddings: Tensor
    deepstack: Tensor
    positions: Tensor
    next_position: int

    def following(self, count: int) -> Tensor:
        """(3, count) positions of the tokens after the prompt."""
        places = torch.arange(self.next_position, self.next_position + count, device=self.positions.device)
        return places[None].expand(3, -1)
