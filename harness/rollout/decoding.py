"""One decoding step after a prefill: with one copy of each prompt's keys and values, or with n copies."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from harness.models.attention import CachedPrefix, SuffixCache
from harness.models.policy import Policy


class Decoder(Protocol):
    """Extends every row by one token."""

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        """Feed (rows,) tokens at (rows,) positions; return the next (rows, vocabulary) logits."""
        ...


class SharedDecoder:
    """Each prompt's keys and values stay as prefilled; a row keeps only those of its own tokens.

    Args:
        policy: The model.
        cache: The prefilled cache of B prompts.
        mask: (B, P), 1 on real prompt tokens (left-padded).
        n: Rows a prompt.
        steps: Most tokens a row will get.
    """

    def __init__(self, policy: Policy, cache: Any, mask: Tensor, n: int, steps: int) -> None:
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        hidden = torch.zeros(mask.shape, dtype=layers[0][0].dtype, device=mask.device)
        hidden = hidden.masked_fill(mask == 0, -torch.inf)[:, None, None]
        self._policy = policy
        self._prefix = CachedPrefix(layers, hidden, n)
        self._own = SuffixCache(self._prefix, steps)

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        embeddings = self._policy.base.get_input_embeddings()(token[:, None])
        places = position[None, :, None].expand(3, -1, -1)
        unmasked = dict.fromkeys(self._policy.base.config.text_config.layer_types)
        logits = self._policy.next_logits(embeddings, places, unmasked, self._own, shared_prefix=self._prefix)
        self._own.length += 1
        return logits


class RepeatedDecoder:
    """The plain way, kept as the oracle: the prompt's cache is copied n times and grows by transformers' own means."""

    def __init__(self, policy: Policy, cache: Any, mask: Tensor, n: int, steps: int) -> None:
        cache.batch_repeat_interleave(n)
        self._policy = policy
        self._cache = cache
        self._mask = mask.repeat_interleave(n, 0)

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        embeddings = self._policy.base.get_input_embeddings()(token[:, None])
        places = position[None, :, None].expand(3, -1, -1)
        return self._policy.next_logits(embeddings, places, self._mask, self._cache)
