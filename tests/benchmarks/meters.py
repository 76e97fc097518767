"""What is measured of a step: its phases' time, and the bytes autograd keeps for the backward pass."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


class Clock:
    """Adds up wall and processor seconds by phase; on a GPU each phase waits for the device at both ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.wall: dict[str, float] = defaultdict(float)
        self.processor: dict[str, float] = defaultdict(float)

    def now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), time.process_time()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self.now()
        try:
            yield
        finally:
            self.add(name, start)

    def add(self, name: str, start: tuple[float, float]) -> None:
        end = self.now()
        self.wall[name] += end[0] - start[0]
        self.processor[name] += end[1] - start[1]

    def take(self) -> tuple[dict[str, float], dict[str, float]]:
        """Seconds since the last call; what is neither sampling nor reference is the update and its bookkeeping."""
        taken = []
        for seconds in (self.wall, self.processor):
            rest = seconds["step"] - seconds["sampling"] - seconds["reference"]
            taken.append({key: seconds[key] for key in ("sampling", "reference")} | {"update": rest})
            taken[-1]["step"] = seconds["step"]
            seconds.clear()
        return taken[0], taken[1]


def timed(owner: Any, name: str, clock: Clock, phase: str) -> None:
    """Let every call of ``owner.name`` count as a phase."""
    stock = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        with clock.phase(phase):
            return stock(*args, **options)

    setattr(owner, name, call)


class SavedMemory:
    """Most bytes of distinct storages that autograd held at once for a backward pass, weights excepted.

    Counted with ``torch.autograd.graph.saved_tensors_hooks``, which sees every tensor an operation saves: it is the
    same on every device and blind to allocators, fragmentation and other processes. The count starts anew when the
    next forward pass saves its first tensor after a backward pass has read one. What checkpointed parts keep is their
    own affair and is not seen.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self._held: dict[int, int] = {}
        self._read = False
        self.peak = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        if self._read:
            self._held.clear()
            self._read = False
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._held[storage.data_ptr()] = storage.nbytes()
            self.peak = max(self.peak, sum(self._held.values()))
        return tensor.detach()

    def _unpack(self, tensor: Tensor) -> Tensor:
        self._read = True
        return tensor
