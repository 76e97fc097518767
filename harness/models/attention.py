"""Attention over a prompt that several completions share, through transformers' attention registry.

Two layouts, both exact. Training and reference passes: a row is ``[prefix; s1; ...; sG]``; prefix rows attend
causally, a suffix row attends to the whole prefix and to its own suffix. Decoding: each group keeps one copy of its
prompt's keys and values, and a step's queries attend to that copy and to their own new tokens.

The idea is known for text (Hydragen, arXiv 2402.05099; prefix sharing for DPO; Prefix Grouper, arXiv 2506.05433).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "harness_shared_prefix"
"""The registered attention; without a shared prefix it is plain SDPA, so it can stay set."""


@dataclass(frozen=True)
class PackedPrefix:
    """The layout of packed rows.

    Attributes:
        length: Columns of the prefix part, padding included.
        mask: (B, 1, S, length + S) additive mask of the suffix rows.
    """

    length: int
    mask: Tensor


@dataclass(frozen=True)
class CachedPrefix:
    """The prompts' keys and values of a decoding step, one copy a group.

    Attributes:
        layers: For each layer, keys and values of (B, kv heads, P, head size).
        mask: (B, 1, 1, P) additive mask of the prompts' left padding.
        group: Completions a prompt.
    """

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor
    group: int


class SuffixCache:
    """Keys and values of the tokens decoded so far, preallocated; the prompt's stay in :class:`CachedPrefix`.

    Implements what transformers' attention layers call on a cache, ``update``, and nothing more.
    """

    is_compileable = False

    def __init__(self, prefix: CachedPrefix, steps: int) -> None:
        self._keys, self._values = (
            [
                layer[part].new_empty(
                    len(layer[part]) * prefix.group, layer[part].shape[1], steps, layer[part].shape[3]
                )
                for layer in prefix.layers
            ]
            for part in (0, 1)
        )
        self.length = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        at = self.length
        self._keys[layer][:, :, at : at + 1], self._values[layer][:, :, at : at + 1] = keys, values
        return self._keys[layer][:, :, : at + 1], self._values[layer][:, :, : at + 1]

    def get_seq_length(self, *_: Any) -> int:
        return self.length


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: PackedPrefix | CachedPrefix | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The registered attention function; shapes as transformers passes them, (B, heads, tokens, head size).

    Returns:
        (B, tokens, heads, head size), and None for the weights.
    """
    if shared_prefix is None:
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
        output: tuple[Tensor, None] = plain(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return output
    if isinstance(shared_prefix, CachedPrefix):
        return _decode(query, key, value, shared_prefix, module.layer_idx, scaling), None
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    at = shared_prefix.length
    parts = []
    if at:
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, :at], key[:, :, :at], value[:, :, :at], is_causal=True, dropout_p=dropout, scale=scaling
            )
        )
    mask = shared_prefix.mask.to(query.dtype)
    parts.append(
        F.scaled_dot_product_attention(query[:, :, at:], key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    )
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def _decode(
    query: Tensor, key: Tensor, value: Tensor, prefix: CachedPrefix, layer: int, scaling: float | None
) -> Tensor:
    """One new token a row: softmax over [prompt; own tokens] without copying the prompt's keys G times."""
    prompt_keys, prompt_values = prefix.layers[layer]
    rows, heads, _, size = query.shape
    groups, kv_heads, length, _ = prompt_keys.shape
    scaled = (query * (scaling or size**-0.5)).view(rows, kv_heads, heads // kv_heads, size)
    grouped = scaled.view(groups, prefix.group, kv_heads, -1, size).transpose(1, 2).reshape(groups, kv_heads, -1, size)
    to_prompt = torch.matmul(grouped, prompt_keys.transpose(2, 3)) + prefix.mask.to(query.dtype)
    to_prompt = to_prompt.view(groups, kv_heads, prefix.group, -1, length).transpose(1, 2)
    to_prompt = to_prompt.reshape(rows, kv_heads, -1, length)
    to_own = torch.matmul(scaled, key.transpose(2, 3))
    weights = torch.cat([to_prompt, to_own], -1).softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32))
    weights = weights.to(query.dtype)
    on_prompt = weights[..., :length].view(groups, prefix.group, kv_heads, -1, length).transpose(1, 2)
    from_prompt = torch.matmul(on_prompt.reshape(groups, kv_heads, -1, length), prompt_values)
    from_prompt = from_prompt.view(groups, kv_heads, prefix.group, -1, size).transpose(1, 2)
    output = from_prompt.reshape(rows, kv_heads, -1, size) + torch.matmul(weights[..., length:], value)
    return output.reshape(rows, 1, heads, size)


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
