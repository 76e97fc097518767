"""Attention over a prompt that several completions share, through transformers' attention registry.

Two layouts, both exact. A packed row ``[trunk; suffixes]`` (training, reference passes, prefill): the trunk attends
causally and without a mask, a suffix token to the whole trunk and to what its mask shows of the suffixes. Decoding:
each trunk keeps one copy of its keys and values, and a step's queries attend to that copy and to their own tokens.

The idea is known for text (Hydragen, arXiv 2402.05099; prefix sharing for DPO; Prefix Grouper, arXiv 2506.05433).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "harness_shared_prefix"
"""The registered attention; without a shared prefix it is plain SDPA, so it can stay set."""


def register() -> bool:
    """Make the attention known to transformers; False where this transformers has no attention registry."""
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError:
        return False
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return True


@dataclass(frozen=True)
class PackedPrefix:
    """The layout of packed rows; the attention mask is that of the suffix part, (B, 1, S, length + S), additive.

    Attributes:
        length: Columns of the trunk part, padding included; 0 where a cache holds the trunks.
        suffix_only: Leave the trunk's own rows out, where nothing reads them; its keys and values stay.
    """

    length: int
    suffix_only: bool = False


@dataclass
class CachedPrefix:
    """The trunks' keys and values in decoding; the attention mask is that of the rows' own tokens, (rows, 1, 1, own).

    Attributes:
        layers: For each layer, keys and values of (T, kv heads, P, head size), one copy a trunk.
        mask: (T, 1, 1, P) additive mask of the trunks' padding.
        slot: (rows,) where a row stands among T x ``width`` places: its trunk times ``width``, plus its number there.
        width: Most rows of one trunk.
        in_order: Whether every place is taken, by the rows as they stand; then none has to be moved.
    """

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor
    slot: Tensor
    width: int
    in_order: bool = field(init=False)

    def __post_init__(self) -> None:
        self.in_order = self.slot.equal(torch.arange(len(self.mask) * self.width, device=self.slot.device))

    def gather(self, rows: Tensor) -> Tensor:
        """(rows, kv heads, q, x) to (T, kv heads, width * q, x): what is asked of each trunk, together."""
        if not self.in_order:
            rows = rows.new_zeros(len(self.mask) * self.width, *rows.shape[1:]).index_copy(0, self.slot, rows)
        return rows.view(len(self.mask), self.width, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)

    def scatter(self, asked: Tensor) -> Tensor:
        """The inverse of :meth:`gather`."""
        placed = asked.unflatten(2, (self.width, -1)).transpose(1, 2).flatten(0, 1)
        return placed if self.in_order else placed.index_select(0, self.slot)

    def keep(self, rows: Tensor) -> CachedPrefix:
        """Only these rows, and only the trunks they stand on."""
        trunk, place = self.slot[rows] // self.width, self.slot[rows] % self.width
        kept, trunk = torch.unique(trunk, return_inverse=True)
        if len(kept) == len(self.mask):
            return CachedPrefix(self.layers, self.mask, self.slot[rows], self.width)
        layers = [(keys[kept], values[kept]) for keys, values in self.layers]
        return CachedPrefix(layers, self.mask[kept], trunk * self.width + place, self.width)


class OwnCache:
    """Keys and values of the rows' own tokens; the trunks' stay in :class:`CachedPrefix`.

    Memory and shapes stay the same from step to step, and the column to write is a tensor, so that a step can be
    captured in a CUDA graph. Implements what transformers' attention layers call on a cache, and nothing more.

    Args:
        layers: For each layer, keys and values of (rows, kv heads, columns, head size).
        mask: (rows, 1, 1, columns) additive mask; columns to come are closed.
        column: (1,) the column of the next token.
    """

    is_compileable = False

    def __init__(self, layers: list[tuple[Tensor, Tensor]], mask: Tensor, column: Tensor) -> None:
        self.layers = layers
        self.mask = mask
        self.column = column

    def open(self) -> None:
        """Let every row see the column that is about to be written."""
        self.mask.index_fill_(3, self.column, 0.0)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        own_keys, own_values = self.layers[layer]
        own_keys.index_copy_(2, self.column, keys.to(own_keys.dtype))
        own_values.index_copy_(2, self.column, values.to(own_values.dtype))
        return own_keys, own_values

    def get_seq_length(self, *_: Any) -> int:
        return self.mask.shape[3]

    def keep(self, rows: Tensor) -> None:
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        self.mask = self.mask[rows]


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
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return plain
    assert attention_mask is not None
    attention_mask = attention_mask.to(query.dtype)
    if isinstance(shared_prefix, CachedPrefix):
        return _decode(query, key, value, attention_mask, shared_prefix, module.layer_idx, scaling), None
    at, parts = shared_prefix.length, []
    if at:
        trunk, keys, values = (part[:, :, :at] for part in (query, key, value))
        causal = {"dropout_p": dropout, "scale": scaling, "is_causal": True}
        parts.append(torch.zeros_like(trunk) if shared_prefix.suffix_only else _attend(trunk, keys, values, **causal))
    if query.shape[2] > at:
        seen = {"dropout_p": dropout, "scale": scaling, "attn_mask": attention_mask}
        parts.append(_attend(query[:, :, at:], key, value, **seen))
    attended = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return attended.transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
    """SDPA for grouped queries; the kernel that CPUs take in full precision needs no copy of the keys for each."""
    repeat = query.shape[1] // key.shape[1]
    grouped = query.is_cpu and query.dtype.itemsize >= 4
    if repeat > 1 and not grouped:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=repeat > 1 and grouped, **how)


def _decode(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, prefix: CachedPrefix, layer: int, scaling: float | None
) -> Tensor:
    """One new token a row: softmax over [trunk; own tokens] without copying the trunk's keys for each row."""
    keys, values = prefix.layers[layer]
    rows, heads, _, size = query.shape
    scaled = (query * (scaling or size**-0.5)).view(rows, key.shape[1], -1, size)
    to_trunk = prefix.scatter(torch.matmul(prefix.gather(scaled), keys.transpose(2, 3)) + prefix.mask.to(query.dtype))
    to_own = torch.matmul(scaled, key.transpose(2, 3)) + mask
    weights = torch.cat([to_trunk, to_own], -1).softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32))
    on_trunk, on_own = weights.to(query.dtype).split([keys.shape[2], key.shape[2]], -1)
    output = prefix.scatter(torch.matmul(prefix.gather(on_trunk), values)) + torch.matmul(on_own, value)
    return output.reshape(rows, 1, heads, size)
