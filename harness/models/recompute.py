"""Decoder layers that keep little for their backward pass: what enters them and what attention gave.

Everything else in a layer is cheap beside attention and is computed again when its gradient is asked for, the part
behind attention for some tokens at a time (gradient checkpointing, arXiv 1604.06174, selective as in arXiv 2205.05198).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

TOKENS = 1024
"""Tokens whose MLP is computed again at once."""

_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"
"""PyTorch's kernel on CPUs; where another is taken, attention is computed again too."""


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    kept = str(operation).startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_keep_attention = partial(create_selective_checkpoint_contexts, _policy)


class TrunkCache:
    """Takes the keys and values of a pass over trunks as they are, graph and all; implements what transformers calls
    on a cache.

    Args:
        depth: Layers of the model; of the last one nothing but keys and values is wanted.

    Attributes:
        layers: For each layer, keys and values of (B, kv heads, P, head size).
    """

    is_compileable = False

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.layers.append((keys, values))
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return 0


class RecomputedLayer:
    """Mixed into decoder layers: a pass whose cache is a :class:`TrunkCache` keeps little of them."""

    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module
    self_attn: Any
    mlp: nn.Module

    def forward(self, hidden_states: Tensor, *args: Any, **inputs: Any) -> Tensor:
        cache = inputs.get("past_key_values")
        if args or not isinstance(cache, TrunkCache) or not torch.is_grad_enabled():
            output: Tensor = super().forward(hidden_states, *args, **inputs)  # type: ignore[misc]
            return output

        last = len(cache.layers) + 1 == cache.depth
        if last:
            inputs["shared_prefix"] = replace(inputs["shared_prefix"], suffix_only=True)

        def attend(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            caught = TrunkCache(1)
            with _passed_by(self.self_attn.o_proj):
                normed = self.input_layernorm(hidden)
                attended, _ = self.self_attn(hidden_states=normed, **{**inputs, "past_key_values": caught})
            return attended, *caught.layers[0]

        def finish(hidden: Tensor, attended: Tensor) -> Tensor:
            hidden = hidden + self.self_attn.o_proj(attended)
            return hidden + self.mlp(self.post_attention_layernorm(hidden))

        attended, keys, values = checkpoint(attend, hidden_states, use_reentrant=False, context_fn=_keep_attention)
        cache.update(keys, values)
        if last:
            return hidden_states
        size = max(1, TOKENS // len(hidden_states))
        parts = zip(hidden_states.split(size, 1), attended.split(size, 1), strict=True)
        return torch.cat([checkpoint(finish, *part, use_reentrant=False) for part in parts], 1)


@contextlib.contextmanager
def _passed_by(module: nn.Module) -> Iterator[None]:
    """Inside, a module gives back what it is given."""
    module.forward = lambda given: given
    try:
        yield
    finally:
        del module.forward
