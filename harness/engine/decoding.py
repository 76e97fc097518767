"""Prefill and decoding: with one copy of each trunk's keys and values, or with a copy for every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.engine.attention import CachedPrefix, OwnCache
from harness.engine.cuda_graphs import DecodingGraphs, advance
from harness.engine.packing import Layers, PackedRows, pack
from harness.engine.policy import Policy
from harness.models.families import vision_inputs
from harness.models.prompt_state import PromptState

LOOK_EVERY = 8
"""Steps between two looks at whether every row has ended, where looking would keep a GPU waiting."""


class Decoder(Protocol):
    """Rows that grow by one token a step.

    Attributes:
        logits: (prompts, vocabulary) logits of the first token, from the prefill.
        look_every: After how many steps it pays to look which rows have ended.
    """

    logits: Tensor
    look_every: int

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        """Feed (rows,) tokens at (rows,) positions; return the next (rows, vocabulary) logits."""
        ...

    def keep(self, rows: Tensor) -> bool:
        """Go on with these rows only; False if all rows go on, since that costs nothing."""
        ...


class SharedDecoder:
    """What prompts share is run once and kept once; a row keeps only its own tokens.

    Args:
        policy: The model.
        states: Distinct prompts by id.
        keys: The prompts' ids in the order of the rows.
        n: Rows a prompt.
        steps: Most tokens a row will get.
        graphs: Captured steps of earlier calls, where the device has such.
    """

    def __init__(
        self,
        policy: Policy,
        states: Mapping[str, PromptState],
        keys: Sequence[str],
        n: int,
        steps: int,
        graphs: DecodingGraphs | None = None,
    ) -> None:
        self._policy = policy
        rows = pack(states, {}, 0, policy.embed)
        hidden, layers = _prefill(policy, rows)
        rests = {key: (trunk, start, end) for trunk, one in enumerate(rows.rests) for key, start, end in one}
        places = torch.tensor([rests[key] for key in keys], device=policy.device)
        self.logits = policy.logits(hidden[places[:, 0], places[:, 2] - 1].detach()).detach()
        self._own = _own_tokens(rows, layers, places.repeat_interleave(n, 0), steps)
        self._prefix = _prefix(rows, layers, places[:, 0].repeat_interleave(n))
        self._graph = graphs.of(policy, self._prefix, self._own) if graphs and steps > 1 else None
        self.look_every = LOOK_EVERY if self._graph else 1

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        embeddings = self._policy.embed(token[:, None])
        places = position[None, :, None].expand(3, -1, -1)
        if self._graph:
            return self._graph.step(embeddings, places)
        with torch.inference_mode():  # small operations are quicker on a CPU when nothing can ask for a gradient
            return advance(self._policy, embeddings, places, self._prefix, self._own)

    def keep(self, rows: Tensor) -> bool:
        if self._graph:
            return False
        self._prefix = self._prefix.keep(rows)
        self._own.keep(rows)
        return True


def _prefill(policy: Policy, rows: PackedRows) -> tuple[Tensor, Layers]:
    """(B, S, hidden) of the prompts' rests, and the keys and values of trunks and rests.

    Where gradients are on, the pass over the trunks is kept for the update.
    """
    kept = policy.kept if torch.is_grad_enabled() else None
    if kept and kept.lean(rows):
        cache = policy.filled(kept.add(rows, policy.trunks(rows)))
        with torch.no_grad():
            return policy.behind(rows, cache), _layers(cache)
    cache = policy.filled([])
    hidden = policy.whole(rows, cache)
    return hidden, kept.add(rows, _layers(cache)) if kept else _layers(cache)


def _layers(cache: Any) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _own_tokens(rows: PackedRows, layers: Layers, places: Tensor, steps: int) -> OwnCache:
    """The rests' keys and values, left-padded, one copy a row, and room for ``steps`` more tokens."""
    trunk, start, end = places.T
    longest = int((end - start).max())
    column = end[:, None] - longest + torch.arange(longest, device=end.device)
    real = column >= start[:, None]
    column = (rows.trunk + column).clamp(min=0)

    def part(of: Tensor) -> Tensor:
        return F.pad(of[trunk[:, None], :, column].transpose(1, 2), (0, 0, 0, steps))

    mask = torch.full((len(real), 1, 1, longest + steps), -torch.inf, dtype=rows.mask.dtype, device=end.device)
    mask[:, 0, 0, :longest].masked_fill_(real, 0.0)
    own = [(part(keys), part(values)) for keys, values in layers]
    return OwnCache(own, mask, torch.tensor([longest], device=end.device))


def _prefix(rows: PackedRows, layers: Layers, trunk: Tensor) -> CachedPrefix:
    """The trunks' part of a prefilled cache, and the place of each row in it."""
    number = (trunk[None] == trunk[:, None]).tril(-1).sum(1)
    width = int(number.max()) + 1
    mask = torch.zeros(rows.real.shape, dtype=rows.mask.dtype, device=trunk.device).masked_fill(~rows.real, -torch.inf)
    parts = [(keys[:, :, : rows.trunk], values[:, :, : rows.trunk]) for keys, values in layers]
    return CachedPrefix(parts, mask[:, None, None], trunk * width + number, width)


class RepeatedDecoder:
    """The plain way, kept as the oracle: each prompt is prefilled, its cache copied n times and grown by transformers.

    Left-padded, so that every row's next token stands in the same column. The arguments are those of
    :class:`SharedDecoder`.
    """

    look_every = 1

    def __init__(
        self, policy: Policy, states: Mapping[str, PromptState], keys: Sequence[str], n: int, steps: int
    ) -> None:
        from transformers import DynamicCache

        rows = [states[key] for key in keys]
        length = max(len(row.ids) for row in rows)
        first = rows[0].embeddings
        embeddings = first.new_zeros(len(rows), length, first.shape[1])
        positions = torch.zeros(3, len(rows), length, dtype=torch.long, device=policy.device)
        mask = torch.zeros(len(rows), length, dtype=torch.long, device=policy.device)
        starts = [length - len(row.ids) for row in rows]
        for index, (row, at) in enumerate(zip(rows, starts, strict=True)):
            embeddings[index, at:] = row.embeddings
            positions[:, index, at:] = row.positions
            mask[index, at:] = 1
        cache = DynamicCache(config=policy.base.config.text_config)
        hidden = policy.forward(embeddings, positions, mask, cache, **vision_inputs(rows, starts, length))
        self.logits = policy.logits(hidden[:, -1])
        cache.batch_repeat_interleave(n)
        self._policy = policy
        self._cache: Any = cache
        self._mask = mask.repeat_interleave(n, 0)

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        embeddings = self._policy.embed(token[:, None])
        places = position[None, :, None].expand(3, -1, -1)
        hidden = self._policy.forward(embeddings, places, self._mask, self._cache)
        return self._policy.logits(hidden[:, -1])

    def keep(self, rows: Tensor) -> bool:
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]
        return True
