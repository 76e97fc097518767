"""Decode steps as CUDA graphs: one launch per step instead of thousands of small kernels."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.engine.kv_cache import KeyValues, PrefixCache, SuffixCache
from harness.engine.model_runner import ModelRunner

MAX_GRAPHS = 2
"""Captured graphs that are kept; each holds the keys and values of its prompts and rows."""

PREFIX_MULTIPLE, SUFFIX_MULTIPLE = 128, 32
"""Columns are padded to multiples of these, so that there are few shapes and so few graphs."""


class DecodingGraphs:
    """The graphs of a sampler, by shape: a graph is captured once and replayed in later calls of the same shape."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[tuple[Any, ...], DecodingGraph] = OrderedDict()
        self._weights: BFloat16Weights | None = None
        self._usable = True

    @staticmethod
    def for_device(device: torch.device) -> DecodingGraphs | None:
        """None on a device without CUDA graphs."""
        return DecodingGraphs() if device.type == "cuda" else None

    def __bool__(self) -> bool:
        return self._usable

    def of(self, policy: ModelRunner, prefix: PrefixCache, suffix: SuffixCache) -> DecodingGraph | None:
        """A graph that continues from these KV caches; None, after one warning, where capturing failed."""
        weights = self._weights_of(policy)
        prefix, suffix = _pad_columns(prefix, suffix)
        key = (tuple(prefix.mask.shape), tuple(suffix.mask.shape), prefix.width, prefix.in_order)
        try:
            graph = self._graphs.pop(key, None) or DecodingGraph(policy, weights, prefix, suffix)
        except torch.OutOfMemoryError:
            self._graphs.clear()
            raise
        except RuntimeError as error:
            logging.getLogger(__name__).warning(
                "Decoding continues without CUDA graphs, more slowly, since capturing one failed: %s", error
            )
            self._usable = False
            self._graphs.clear()
            return None
        self._graphs[key] = graph
        while len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        weights.refresh()
        graph.load(prefix, suffix)
        return graph

    def _weights_of(self, policy: ModelRunner) -> BFloat16Weights:
        if self._weights is None or self._weights.addresses != weight_addresses(policy):
            self._graphs.clear()
            self._weights = BFloat16Weights(policy)
        return self._weights


class DecodingGraph:
    """One captured decode step and the memory it works on.

    Args:
        policy: The model.
        weights: Its weights in the type that the step computes in.
        prefix: KV cache of the prefixes, of the shape to capture.
        suffix: KV cache of the rows' own tokens, of the shape to capture.
    """

    def __init__(self, policy: ModelRunner, weights: BFloat16Weights, prefix: PrefixCache, suffix: SuffixCache) -> None:
        self._policy = policy
        dtype = torch.bfloat16 if policy.precision == "bf16" else None
        self._prefix = PrefixCache(_like(prefix.layers, dtype), prefix.mask.clone(), prefix.slot.clone(), prefix.width)
        self._suffix = SuffixCache(_like(suffix.layers, dtype), suffix.mask.clone(), suffix.column.clone())
        rows, device = len(suffix.mask), suffix.mask.device
        embedding = policy.base.get_input_embeddings().weight
        self._embeddings = torch.zeros(rows, 1, embedding.shape[1], dtype=embedding.dtype, device=device)
        self._positions = torch.zeros(3, rows, 1, dtype=torch.long, device=device)
        passes = policy.forward_passes
        # Without autocast's cache of casts: it is freed after the step, and the graph would read freed memory.
        with weights.in_place(), torch.autocast(device.type, enabled=False, cache_enabled=False):
            self._replay, self._logits = capture(self._run)
        policy.forward_passes = passes

    def _run(self) -> Tensor:
        return self._policy.decode_step(self._embeddings, self._positions, self._prefix, self._suffix)

    def load(self, prefix: PrefixCache, suffix: SuffixCache) -> None:
        """Copy these KV caches into the graph's memory."""
        for mine, given in ((self._prefix.layers, prefix.layers), (self._suffix.layers, suffix.layers)):
            torch._foreach_copy_(
                [part for layer in mine for part in layer], [part for layer in given for part in layer]
            )
        self._prefix.mask.copy_(prefix.mask)
        self._prefix.slot.copy_(prefix.slot)
        self._suffix.mask.copy_(suffix.mask)
        self._suffix.column.copy_(suffix.column)

    def step(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """As :meth:`ModelRunner.decode_step`; the logits stay valid until the next step."""
        self._embeddings.copy_(embeddings)
        self._positions.copy_(positions)
        self._replay()
        self._policy.forward_passes += 1
        return self._logits


def capture(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Capture the kernels that a function launches; return what replays them, and the tensor with their result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # libraries initialise themselves in a first call, which cannot be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


class BFloat16Weights:
    """bf16 copies of a language model's fp32 matrices, which autocast would make again for every use.

    A graph holds addresses, so the copies stay in place and are refreshed before each decoding.
    """

    def __init__(self, policy: ModelRunner) -> None:
        self.addresses = weight_addresses(policy)
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
        """Copy the weights again, which training may have changed."""
        if self._copies:
            torch._foreach_copy_([copy.data for copy in self._copies], [weight.data for *_, weight in self._places])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model uses the copies."""
        try:
            for (module, name, _), copy in zip(self._places, self._copies, strict=True):
                module._parameters[name] = copy
            yield
        finally:
            for module, name, weight in self._places:
                module._parameters[name] = weight


def weight_addresses(policy: ModelRunner) -> int:
    """Changes when any weight is moved: captured graphs would go on reading the freed memory."""
    parameters = [*policy.language_model.parameters(), *policy.base.lm_head.parameters()]
    return hash(tuple(parameter.data_ptr() for parameter in parameters))


def _pad_columns(prefix: PrefixCache, suffix: SuffixCache) -> tuple[PrefixCache, SuffixCache]:
    """The same with masked columns at the end."""

    def grow(layers: KeyValues, multiple: int) -> KeyValues:
        more = -layers[0][0].shape[2] % multiple
        return [(F.pad(keys, (0, 0, 0, more)), F.pad(values, (0, 0, 0, more))) for keys, values in layers]

    def masked(mask: Tensor, multiple: int) -> Tensor:
        return F.pad(mask, (0, -mask.shape[3] % multiple), value=-torch.inf)

    return (
        PrefixCache(
            grow(prefix.layers, PREFIX_MULTIPLE), masked(prefix.mask, PREFIX_MULTIPLE), prefix.slot, prefix.width
        ),
        SuffixCache(grow(suffix.layers, SUFFIX_MULTIPLE), masked(suffix.mask, SUFFIX_MULTIPLE), suffix.column),
    )


def _like(layers: KeyValues, dtype: torch.dtype | None) -> KeyValues:
    return [
        (torch.zeros_like(keys, dtype=dtype or keys.dtype), torch.zeros_like(values, dtype=dtype or values.dtype))
        for keys, values in layers
    ]
