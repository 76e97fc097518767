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

from harness.engine.packing import Layers

TOKENS = 1024
"""Tokens whose MLP is computed again at once."""

_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"
"""PyTorch's kernel on CPUs; where another is taken, attention is computed again too."""


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    kept = str(operation).startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_keep_attention = partial(create_selective_checkpoint_contexts, _policy)


class Recomputed:
    """Given to the language model in place of a cache: a pass whose layers keep little.

    Args:
        depth: Layers of the model.
        trunks: Keys and values of what was run before, (B, kv heads, P, head size) in every layer. Without, the pass is
            one over trunks, of which nothing but keys and values is wanted.

    Attributes:
        layers: A trunks' pass's keys and values, with their graph.
    """

    is_compileable = False

    def __init__(self, depth: int, trunks: Layers | None = None) -> None:
        self.depth = depth
        self.trunks = trunks
        self.layers: Layers = []

    def get_seq_length(self, *_: Any) -> int:
        return 0


class _LayerCache:
    """What the attention of one layer calls on: its keys and values stand behind those before them."""

    def __init__(self, before: tuple[Tensor, Tensor] | None) -> None:
        self._before = before
        self.made: tuple[Tensor, Tensor]

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.made = keys, values
        if self._before is None:
            return self.made
        return torch.cat([self._before[0], keys], 2), torch.cat([self._before[1], values], 2)


class RecomputedLayer:
    """Mixed into decoder layers, for passes that are given :class:`Recomputed`."""

    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module
    self_attn: Any
    mlp: nn.Module

    def forward(self, hidden_states: Tensor, *args: Any, **inputs: Any) -> Tensor:
        run = inputs.get("past_key_values")
        if args or not isinstance(run, Recomputed):
            output: Tensor = super().forward(hidden_states, *args, **inputs)  # type: ignore[misc]
            return output
        # What is computed again must not hold what collects the keys: they lead to it, and nothing would free either.
        del inputs["past_key_values"]
        index = self.self_attn.layer_idx
        before = run.trunks[index] if run.trunks else None
        keys_alone = before is None and index == run.depth - 1
        if keys_alone:
            inputs["shared_prefix"] = replace(inputs["shared_prefix"], suffix_only=True)

        def attend(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            cache = _LayerCache(before)
            with _passed_by(self.self_attn.o_proj):
                normed = self.input_layernorm(hidden)
                attended, _ = self.self_attn(hidden_states=normed, past_key_values=cache, **inputs)
            return attended, *cache.made

        def finish(hidden: Tensor, attended: Tensor) -> Tensor:
            hidden = hidden + self.self_attn.o_proj(attended)
            return hidden + self.mlp(self.post_attention_layernorm(hidden))

        attended, keys, values = _again(attend, hidden_states, context_fn=_keep_attention)
        if before is None:
            run.layers.append((keys, values))
        if keys_alone:
            return hidden_states
        size = max(1, TOKENS // len(hidden_states))
        parts = zip(hidden_states.split(size, 1), attended.split(size, 1), strict=True)
        return torch.cat([_again(finish, *part) for part in parts], 1)


_again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # such passes have no dropout


@contextlib.contextmanager
def _passed_by(module: nn.Module) -> Iterator[None]:
    """Inside, a module gives back what it is given."""
    module.forward = lambda given: given
    try:
        yield
    finally:
        del module.forward
