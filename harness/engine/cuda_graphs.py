"""Decoding steps as CUDA graphs: one launch a step, where thousands of small kernels would keep a GPU waiting."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.engine.attention import CachedPrefix, OwnCache

if TYPE_CHECKING:
    from harness.engine.policy import Policy

KEPT = 2
"""Captured shapes that are kept; each holds the keys and values of its prompts and rows."""

PREFIX_STEP, OWN_STEP = 128, 32
"""Columns are rounded up to multiples of these, so that few shapes, and so few graphs, are met."""


def advance(policy: Policy, embeddings: Tensor, positions: Tensor, prefix: CachedPrefix, own: OwnCache) -> Tensor:
    """(rows, vocabulary) logits after one more token a row; it joins the rows' own keys and values.

    Args:
        policy: The model.
        embeddings: (rows, 1, hidden) of the tokens.
        positions: (3, rows, 1).
        prefix: The trunks.
        own: The rows' own tokens.
    """
    own.open()
    hidden = policy.forward(embeddings, positions, own.mask, own, shared_prefix=prefix)
    own.column.add_(1)
    return policy.logits(hidden[:, -1])


class DecodingGraphs:
    """The graphs of a sampler, by shape: a graph is captured once and replayed in later calls of the same shape."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[tuple[Any, ...], DecodingGraph] = OrderedDict()
        self._weights: HalfWeights | None = None
        self._usable = True

    @staticmethod
    def for_device(device: torch.device) -> DecodingGraphs | None:
        """None where there are no graphs."""
        return DecodingGraphs() if device.type == "cuda" else None

    def __bool__(self) -> bool:
        return self._usable

    def of(self, policy: Policy, prefix: CachedPrefix, own: OwnCache) -> DecodingGraph | None:
        """A graph that goes on from these keys and values; None where capturing failed, which is said once."""
        weights = self._weights_of(policy)
        prefix, own = _with_room(prefix, own)
        key = (tuple(prefix.mask.shape), tuple(own.mask.shape), prefix.width, prefix.in_order)
        try:
            graph = self._graphs.pop(key, None) or DecodingGraph(policy, weights, prefix, own)
        except torch.OutOfMemoryError:
            self._graphs.clear()
            raise
        except RuntimeError as error:
            logging.getLogger(__name__).warning(
                "Decoding goes on without CUDA graphs, more slowly, since capturing one failed: %s", error
            )
            self._usable = False
            self._graphs.clear()
            return None
        self._graphs[key] = graph
        while len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        weights.refresh()
        graph.load(prefix, own)
        return graph

    def _weights_of(self, policy: Policy) -> HalfWeights:
        if self._weights is None or self._weights.addresses != addresses(policy):
            self._graphs.clear()
            self._weights = HalfWeights(policy)
        return self._weights


class DecodingGraph:
    """One captured decoding step and the memory it works on.

    Args:
        policy: The model.
        weights: What stands in for its weights.
        prefix: Trunks of the shape to capture.
        own: Own tokens of the shape to capture.
    """

    def __init__(self, policy: Policy, weights: HalfWeights, prefix: CachedPrefix, own: OwnCache) -> None:
        self._policy = policy
        dtype = torch.bfloat16 if policy.precision == "bf16" else None
        self._prefix = CachedPrefix(_like(prefix.layers, dtype), prefix.mask.clone(), prefix.slot.clone(), prefix.width)
        self._own = OwnCache(_like(own.layers, dtype), own.mask.clone(), own.column.clone())
        rows, device = len(own.mask), own.mask.device
        embedding = policy.base.get_input_embeddings().weight
        self._embeddings = torch.zeros(rows, 1, embedding.shape[1], dtype=embedding.dtype, device=device)
        self._positions = torch.zeros(3, rows, 1, dtype=torch.long, device=device)
        passes = policy.forward_passes
        # Without a cache of casts, which would be freed under the graph.
        with weights.in_place(), torch.autocast(device.type, enabled=False, cache_enabled=False):
            self._replay, self._logits = capture(self._run)
        policy.forward_passes = passes

    def _run(self) -> Tensor:
        return advance(self._policy, self._embeddings, self._positions, self._prefix, self._own)

    def load(self, prefix: CachedPrefix, own: OwnCache) -> None:
        """Begin with these keys and values."""
        for mine, given in ((self._prefix.layers, prefix.layers), (self._own.layers, own.layers)):
            torch._foreach_copy_(
                [part for layer in mine for part in layer], [part for layer in given for part in layer]
            )
        self._prefix.mask.copy_(prefix.mask)
        self._prefix.slot.copy_(prefix.slot)
        self._own.mask.copy_(own.mask)
        self._own.column.copy_(own.column)

    def step(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """As :func:`advance`; the logits stay valid until the next step."""
        self._embeddings.copy_(embeddings)
        self._positions.copy_(positions)
        self._replay()
        self._policy.forward_passes += 1
        return self._logits


def capture(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record what a function launches; return what launches it again, and where its result then stands."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # libraries set themselves up in a first call, which cannot be recorded
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


class HalfWeights:
    """bf16 copies of a language model's fp32 matrices, as autocast makes them anew for every use.

    A graph holds addresses, so the copies stay where they are and are refreshed before a prompt is answered.
    """

    def __init__(self, policy: Policy) -> None:
        self.addresses = addresses(policy)
        modules = [*policy.language_model.modules(), policy.base.lm_head]
        self._places = [
            (module, name, weight)
            for module in modules
            if isinstance(module, nn.Linear) and policy.precision == "bf16"
            for name, weight in module._parameters.items()
            if weight is not None and weight.dtype == torch.float32
        ]
        self._copies = [
            nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False) for *_, weight in self._places
        ]

    def refresh(self) -> None:
        """Take over what training has changed."""
        if self._copies:
            torch._foreach_copy_([copy.data for copy in self._copies], [weight.data for *_, weight in self._places])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model computes with the copies."""
        try:
            for (module, name, _), copy in zip(self._places, self._copies, strict=True):
                module._parameters[name] = copy
            yield
        finally:
            for module, name, weight in self._places:
                module._parameters[name] = weight


def addresses(policy: Policy) -> int:
    """What changes when a weight is moved, on which captured graphs would go on reading what was freed."""
    parameters = [*policy.language_model.parameters(), *policy.base.lm_head.parameters()]
    return hash(tuple(parameter.data_ptr() for parameter in parameters))


def _with_room(prefix: CachedPrefix, own: OwnCache) -> tuple[CachedPrefix, OwnCache]:
    """The same with closed columns at the end."""

    def grow(layers: list[tuple[Tensor, Tensor]], multiple: int) -> list[tuple[Tensor, Tensor]]:
        more = -layers[0][0].shape[2] % multiple
        return [(F.pad(keys, (0, 0, 0, more)), F.pad(values, (0, 0, 0, more))) for keys, values in layers]

    def closed(mask: Tensor, multiple: int) -> Tensor:
        return F.pad(mask, (0, -mask.shape[3] % multiple), value=-torch.inf)

    return (
        CachedPrefix(grow(prefix.layers, PREFIX_STEP), closed(prefix.mask, PREFIX_STEP), prefix.slot, prefix.width),
        OwnCache(grow(own.layers, OWN_STEP), closed(own.mask, OWN_STEP), own.column),
    )


def _like(layers: list[tuple[Tensor, Tensor]], dtype: torch.dtype | None) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.zeros_like(keys, dtype=dtype or keys.dtype), torch.zeros_like(values, dtype=dtype or values.dtype))
        for keys, values in layers
    ]
