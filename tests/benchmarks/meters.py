"""Meters of a step: the time of its phases, and the bytes kept for the backward pass."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.memory.trace import LiveBytes


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


class HeldMemory:
    """Bytes kept for the backward pass: of all tensors made since the first forward pass with a graph, those alive when
    a backward pass begins.

    Counted by when tensors are made and freed, so it is the same on every device, independent of allocators and other
    processes, and includes what checkpointed parts keep. Weights, the pass's inputs and parameters' gradients do not
    count; a KV cache that decoding still holds does.

    Args:
        model: The trained model.
        language_model: The part of it whose first pass with a graph starts the count.

    Attributes:
        held: The most at the beginning of a backward pass, of which a step may take several.
        peak: The most alive at once until the last of them ended, gradients and recomputed activations included.
    """

    def __init__(self, model: nn.Module, language_model: nn.Module) -> None:
        self._model = model
        self._language_model = language_model
        self.held = self.peak = 0

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        live, stock = LiveBytes(), torch.autograd.backward
        with contextlib.ExitStack() as stack:

            def start(*_: Any) -> None:
                if torch.is_grad_enabled():
                    hook.remove()
                    stack.enter_context(live)

            def backward(*args: Any, **options: Any) -> None:
                gradients = sum(one.grad.nbytes for one in self._model.parameters() if one.grad is not None)
                self.held = max(self.held, live.now - gradients)
                stock(*args, **options)
                self.peak = max(self.peak, live.peak)

            hook = self._language_model.register_forward_pre_hook(start)
            torch.autograd.backward = backward
            try:
                yield
            finally:
                hook.remove()
                torch.autograd.backward = stock
