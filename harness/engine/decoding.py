"""Decoding after a prefill: with one copy of each shared prefix's keys and values, or with a copy for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.engine.cuda_graphs import DecodingGraphs
from harness.engine.kv_cache import KeyValues, PrefixCache, SuffixCache
from harness.engine.model_runner import ModelRunner
from harness.engine.packing import PackedRows, pack
from harness.models.families import vision_inputs
from harness.models.prompt_state import PromptState

CHECK_EVERY = 8
"""Decode steps between two checks of which rows have ended, where a check would make a GPU wait."""


class Decoder(Protocol):
    """Rows that grow by one token a decode step.

    Attributes:
        logits: (prompts, vocabulary) logits of the first token, from the prefill.
        check_every: After how many steps it pays to check which rows have ended.
    """

    logits: Tensor
    check_every: int

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        """Feed (rows,) tokens at (rows,) positions; return the next (rows, vocabulary) logits."""
        ...

    def keep_rows(self, rows: Tensor) -> bool:
        """Continue with these rows only; False if all rows continue, since that costs nothing."""
        ...


class SharedPrefixDecoder:
    """A prefix that prompts share is run once and cached once; a row caches only its own tokens.

    Args:
        policy: The model.
        states: Distinct prompts by id.
        keys: The prompts' ids in the order of the rows.
        n: Rows for each prompt.
        steps: The most tokens a row will get.
        graphs: Decode steps captured in earlier calls, where the device has CUDA graphs.
    """

    def __init__(
        self,
        policy: ModelRunner,
        states: Mapping[str, PromptState],
        keys: Sequence[str],
        n: int,
        steps: int,
        graphs: DecodingGraphs | None = None,
    ) -> None:
        self._policy = policy
        rows = pack(states, {}, 0, policy.embed)
        hidden, layers = policy.prefill(rows)
        # (prompts, 3): the number of its prefix, and where its suffix begins and ends.
        where = {
            suffix.prompt_id: (prefix, suffix.start, suffix.end)
            for prefix, suffixes in enumerate(rows.prompt_suffixes)
            for suffix in suffixes
        }
        places = torch.tensor([where[key] for key in keys], device=policy.device)
        self.logits = policy.logits(hidden[places[:, 0], places[:, 2] - 1].detach()).detach()
        self._suffix = _suffix_cache(rows, layers, places.repeat_interleave(n, 0), steps)
        self._prefix = _prefix_cache(rows, layers, places[:, 0].repeat_interleave(n))
        self._graph = graphs.of(policy, self._prefix, self._suffix) if graphs and steps > 1 else None
        self.check_every = CHECK_EVERY if self._graph else 1

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        embeddings = self._policy.embed(token[:, None])
        positions = position[None, :, None].expand(3, -1, -1)
        if self._graph:
            return self._graph.step(embeddings, positions)
        with torch.inference_mode():  # saves a CPU some time in small operations
            return self._policy.decode_step(embeddings, positions, self._prefix, self._suffix)

    def keep_rows(self, rows: Tensor) -> bool:
        if self._graph:  # a graph's shapes are fixed
            return False
        self._prefix = self._prefix.keep_rows(rows)
        self._suffix.keep_rows(rows)
        return True


def _suffix_cache(rows: PackedRows, layers: KeyValues, places: Tensor, steps: int) -> SuffixCache:
    """The prompts' suffixes, left-padded, one copy for each row, and room for ``steps`` more tokens.

    Left-padded so that the next token of every row is written to the same column.
    """
    prefix, start, end = places.T
    longest = int((end - start).max())
    column = end[:, None] - longest + torch.arange(longest, device=end.device)
    real = column >= start[:, None]
    column = (rows.prefix_length + column).clamp(min=0)

    def part(of: Tensor) -> Tensor:
        return F.pad(of[prefix[:, None], :, column].transpose(1, 2), (0, 0, 0, steps))

    mask = torch.full((len(real), 1, 1, longest + steps), -torch.inf, dtype=rows.mask.dtype, device=end.device)
    mask[:, 0, 0, :longest].masked_fill_(real, 0.0)
    own = [(part(keys), part(values)) for keys, values in layers]
    return SuffixCache(own, mask, torch.tensor([longest], device=end.device))


def _prefix_cache(rows: PackedRows, layers: KeyValues, prefix: Tensor) -> PrefixCache:
    """The prefixes' part of a prefill's keys and values, for rows of these (rows,) prefixes."""
    # A row's number among the rows of its prefix: how many before it have the same one.
    number = (prefix[None] == prefix[:, None]).tril(-1).sum(1)
    width = int(number.max()) + 1
    mask = torch.zeros(rows.prefix_mask.shape, dtype=rows.mask.dtype, device=prefix.device)
    mask = mask.masked_fill(~rows.prefix_mask, -torch.inf)
    parts = [(keys[:, :, : rows.prefix_length], values[:, :, : rows.prefix_length]) for keys, values in layers]
    return PrefixCache(parts, mask[:, None, None], prefix * width + number, width)


class NaiveDecoder:
    """Each prompt is prefilled, and its KV cache copied n times and grown by transformers: the tests' reference.

    Left-padded, so that every row's next token is in the same column. The arguments are those of
    :class:`SharedPrefixDecoder`.
    """

    check_every = 1

    def __init__(
        self, policy: ModelRunner, states: Mapping[str, PromptState], keys: Sequence[str], n: int, steps: int
    ) -> None:
        rows = [states[key] for key in keys]
        left = partial(pad_sequence, batch_first=True, padding_side="left")
        embeddings = left([row.embeddings for row in rows])
        positions = left([row.positions.T for row in rows]).permute(2, 0, 1)
        mask = left([torch.ones_like(row.positions[0]) for row in rows])
        length = mask.shape[1]
        starts = [length - len(row.ids) for row in rows]
        cache = policy.kv_cache([])
        hidden = policy.forward(embeddings, positions, mask, cache, **vision_inputs(rows, starts, length))
        self.logits = policy.logits(hidden[:, -1])
        cache.batch_repeat_interleave(n)
        self._policy = policy
        self._cache: Any = cache
        self._mask = mask.repeat_interleave(n, 0)

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        embeddings = self._policy.embed(token[:, None])
        positions = position[None, :, None].expand(3, -1, -1)
        hidden = self._policy.forward(embeddings, positions, self._mask, self._cache)
        return self._policy.logits(hidden[:, -1])

    def keep_rows(self, rows: Tensor) -> bool:
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
        return True
