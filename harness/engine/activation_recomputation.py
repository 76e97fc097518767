"""Selective activation recomputation: decoder layers that keep only their input and what attention gave.

Everything else in a layer is cheap compared with attention, so the backward pass computes it again, the MLP for some
tokens at a time (gradient checkpointing, arXiv 1604.06174; selective as in arXiv 2205.05198).
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

from harness.engine.kv_cache import KeyValues

MLP_TOKENS = 1024
"""Tokens whose MLP is recomputed at once."""

_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"
"""PyTorch's kernel on CPUs; where another kernel is used, attention is recomputed too."""


def _save_or_recompute(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    attention = str(operation).startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if attention else CheckpointPolicy.PREFER_RECOMPUTE


_save_attention = partial(create_selective_checkpoint_contexts, _save_or_recompute)
_recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # such passes have no dropout


class RecomputingCache:
    """Passed to the language model as its KV cache: makes :class:`RecomputingLayer` recompute its activations.

    Args:
        depth: Layers of the model.
        prefixes: Keys and values of prefixes that were run before. Without, the pass is one over prefixes, of which
            only keys and values are used.

    Attributes:
        layers: Keys and values of a pass over prefixes, with their graph.
    """

    is_compileable = False

    def __init__(self, depth: int, prefixes: KeyValues | None = None) -> None:
        self.depth = depth
        self.prefixes = prefixes
        self.layers: KeyValues = []

    def get_seq_length(self, *_: Any) -> int:
        return 0


class _LayerCache:
    """The KV cache as the attention of one layer sees it: new keys and values follow those of the prefixes."""

    def __init__(self, prefixes: tuple[Tensor, Tensor] | None) -> None:
        self._prefixes = prefixes
        self.made: tuple[Tensor, Tensor]

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.made = keys, values
        if self._prefixes is None:
            return self.made
        return torch.cat([self._prefixes[0], keys], 2), torch.cat([self._prefixes[1], values], 2)


class RecomputingLayer:
    """Mixed into decoder layers, for passes with a :class:`RecomputingCache`."""

    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module
    self_attn: Any
    mlp: nn.Module

    def forward(self, hidden_states: Tensor, *args: Any, **inputs: Any) -> Tensor:
        cache = inputs.get("past_key_values")
        if args or not isinstance(cache, RecomputingCache):
            output: Tensor = super().forward(hidden_states, *args, **inputs)  # type: ignore[misc]
            return output
        # The recomputed functions must not refer to the cache: it collects keys whose graph refers to them, and the
        # cycle would never be freed.
        del inputs["past_key_values"]
        index = self.self_attn.layer_idx
        prefixes = cache.prefixes[index] if cache.prefixes else None
        # Nothing reads the last layer's output for prefix tokens.
        keys_only = prefixes is None and index == cache.depth - 1
        if keys_only:
            inputs["shared_prefix"] = replace(inputs["shared_prefix"], suffix_only=True)

        def attend(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            layer_cache = _LayerCache(prefixes)
            with _bypassed(self.self_attn.o_proj):  # it is applied in `finish`, so that its input is what is saved
                normed = self.input_layernorm(hidden)
                attended, _ = self.self_attn(hidden_states=normed, past_key_values=layer_cache, **inputs)
            return attended, *layer_cache.made

        def finish(hidden: Tensor, attended: Tensor) -> Tensor:
            hidden = hidden + self.self_attn.o_proj(attended)
            return hidden + self.mlp(self.post_attention_layernorm(hidden))

        attended, keys, values = _recomputed(attend, hidden_states, context_fn=_save_attention)
        if prefixes is None:
            cache.layers.append((keys, values))
        if keys_only:
            return hidden_states
        size = max(1, MLP_TOKENS // len(hidden_states))
        parts = zip(hidden_states.split(size, 1), attended.split(size, 1), strict=True)
        return torch.cat([_recomputed(finish, *part) for part in parts], 1)


@contextlib.contextmanager
def _bypassed(module: nn.Module) -> Iterator[None]:
    """Inside, a module returns its input."""
    module.forward = lambda given: given
    try:
        yield
    finally:
        del module.forward
