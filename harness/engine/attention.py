"""Attention over a prefix that several prompts or completions share, through transformers' attention registry.

Two layouts, both exact. In a packed row ``[prefix; suffixes]`` (training, reference passes, prefill) the prefix attends
causally and without a mask, and a suffix token to the whole prefix and to the suffix tokens that its mask shows. In a
decode step the rows' queries attend to the one copy of their prefix's keys and values and to their own tokens.

Known for text as Hydragen (arXiv 2402.05099), prefix sharing for DPO, and Prefix Grouper (arXiv 2506.05433).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.engine.kv_cache import PrefixCache

NAME = "harness_shared_prefix"
"""The registered attention; without a shared prefix it is plain SDPA, so it can stay set."""


def register() -> None:
    """Register the attention with transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@dataclass(frozen=True)
class PackedLayout:
    """The layout of packed rows; the attention mask is that of the suffix part, (B, 1, S, prefix_length + S), additive.

    Attributes:
        prefix_length: Columns of the prefix part, padding included; 0 where a KV cache holds the prefixes.
        suffix_only: Skip the outputs of the prefix part, where nothing reads them; its keys and values stay.
    """

    prefix_length: int
    suffix_only: bool = False


def shared_prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: PackedLayout | PrefixCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The registered attention function; shapes as transformers passes them, (B, heads, tokens, head size).

    Returns:
        (B, tokens, heads, head size), and None for the weights.
    """
    if shared_prefix is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return plain
    assert attention_mask is not None
    attention_mask = attention_mask.to(query.dtype)
    if isinstance(shared_prefix, PrefixCache):
        return _decode(query, key, value, attention_mask, shared_prefix, module.layer_idx, scaling), None
    length, parts = shared_prefix.prefix_length, []
    if length:
        # Causal attention without a mask takes the fast kernels; prefixes are right-padded, so padding is never seen.
        prefix, keys, values = (part[:, :, :length] for part in (query, key, value))
        causal = {"dropout_p": dropout, "scale": scaling, "is_causal": True}
        parts.append(torch.zeros_like(prefix) if shared_prefix.suffix_only else _sdpa(prefix, keys, values, **causal))
    if query.shape[2] > length:
        masked = {"dropout_p": dropout, "scale": scaling, "attn_mask": attention_mask}
        parts.append(_sdpa(query[:, :, length:], key, value, **masked))
    attended = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return attended.transpose(1, 2).contiguous(), None


def _sdpa(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """SDPA with grouped queries; the CPU kernel for full precision takes them without a copy of the keys for each."""
    repeat = query.shape[1] // key.shape[1]
    grouped = query.is_cpu and query.dtype.itemsize >= 4
    if repeat > 1 and not grouped:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=repeat > 1 and grouped, **options)


def _decode(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, prefix: PrefixCache, layer: int, scaling: float | None
) -> Tensor:
    """One new token a row: softmax over [prefix; own tokens] without copying the prefix's keys for each row."""
    keys, values = prefix.layers[layer]
    rows, heads, _, size = query.shape
    scaled = (query * (scaling or size**-0.5)).view(rows, key.shape[1], -1, size)
    to_prefix = prefix.scatter(torch.matmul(prefix.gather(scaled), keys.transpose(2, 3)) + prefix.mask.to(query.dtype))
    to_own = torch.matmul(scaled, key.transpose(2, 3)) + mask
    weights = torch.cat([to_prefix, to_own], -1).softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32))
    on_prefix, on_own = weights.to(query.dtype).split([keys.shape[2], key.shape[2]], -1)
    output = prefix.scatter(torch.matmul(prefix.gather(on_prefix), values)) + torch.matmul(on_own, value)
    return output.reshape(rows, 1, heads, size)
