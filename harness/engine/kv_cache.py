"""KV caches for decoding: one copy of each shared prefix's keys and values, and every row's own suffix.

A row is one completion that grows by one token a decode step. Its keys and values are those of the prefix that its
prompt shares with others (:class:`PrefixCache`) and of what is its own: the prompt's suffix and the tokens sampled so
far (:class:`SuffixCache`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

KeyValues = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (B, kv heads, columns, head size)."""


def key_values(cache: Any) -> KeyValues:
    """What transformers' ``DynamicCache`` holds."""
    return [(layer.keys, layer.values) for layer in cache.layers]


@dataclass
class PrefixCache:
    """Keys and values of the shared prefixes, one copy each, read by all their rows.

    The queries of a prefix's rows are laid side by side, so that one matrix product serves them all.

    Attributes:
        layers: Keys and values of T prefixes.
        mask: (T, 1, 1, P) additive mask of the prefixes' padding.
        slot: (rows,) a row's place among T x ``width``: its prefix times ``width``, plus its number in that prefix.
        width: The most rows of any prefix.
        in_order: Whether the rows fill all places in their order, so that none has to be moved.
    """

    layers: KeyValues
    mask: Tensor
    slot: Tensor
    width: int
    in_order: bool = field(init=False)

    def __post_init__(self) -> None:
        self.in_order = self.slot.equal(torch.arange(len(self.mask) * self.width, device=self.slot.device))

    def gather(self, rows: Tensor) -> Tensor:
        """(rows, kv heads, q, x) to (T, kv heads, width * q, x): the queries of each prefix together."""
        if not self.in_order:
            rows = rows.new_zeros(len(self.mask) * self.width, *rows.shape[1:]).index_copy(0, self.slot, rows)
        return rows.view(len(self.mask), self.width, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)

    def scatter(self, gathered: Tensor) -> Tensor:
        """The inverse of :meth:`gather`."""
        placed = gathered.unflatten(2, (self.width, -1)).transpose(1, 2).flatten(0, 1)
        return placed if self.in_order else placed.index_select(0, self.slot)

    def keep_rows(self, rows: Tensor) -> PrefixCache:
        """The cache of these rows alone, without prefixes that none of them reads."""
        prefix, number = self.slot[rows] // self.width, self.slot[rows] % self.width
        used, prefix = torch.unique(prefix, return_inverse=True)
        if len(used) == len(self.mask):
            return PrefixCache(self.layers, self.mask, self.slot[rows], self.width)
        layers = [(keys[used], values[used]) for keys, values in self.layers]
        return PrefixCache(layers, self.mask[used], prefix * self.width + number, self.width)


class SuffixCache:
    """Keys and values of each row's own tokens; those of the prefixes are in :class:`PrefixCache`.

    Implements what transformers' attention layers call on a cache and nothing more. Memory and shapes stay the same
    from step to step, and the column to write is a tensor rather than a number, so that a decode step can be captured
    in a CUDA graph.

    Args:
        layers: Keys and values of the rows, with room for the tokens to come.
        mask: (rows, 1, 1, columns) additive mask; columns not written yet are masked.
        column: (1,) the column of the next token.
    """

    is_compileable = False

    def __init__(self, layers: KeyValues, mask: Tensor, column: Tensor) -> None:
        self.layers = layers
        self.mask = mask
        self.column = column

    def unmask_next(self) -> None:
        """Let every row attend to the column that is about to be written."""
        self.mask.index_fill_(3, self.column, 0.0)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        own_keys, own_values = self.layers[layer]
        own_keys.index_copy_(2, self.column, keys.to(own_keys.dtype))
        own_values.index_copy_(2, self.column, values.to(own_values.dtype))
        return own_keys, own_values

    def get_seq_length(self, *_: Any) -> int:
        return self.mask.shape[3]

    def keep_rows(self, rows: Tensor) -> None:
        self.layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        self.mask = self.mask[rows]
