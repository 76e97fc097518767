"""The meter: everything that a method consumes in training is counted, and one of the counts is the budget.

A budget of examples or steps does not limit what rollouts, reference passes and updates cost; one of seconds does.
Evaluation is not counted.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field

from harness.config.study import BudgetSection

Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass
class Consumption:
    """What a method has consumed so far.

    Attributes:
        steps: Optimiser steps, or attempts at one when no sample was left to train on.
        examples: Prompts taken from the training data, those that the method then drops included.
        seconds: Device seconds of all steps: prompts, rollouts, rewards, reference passes and updates.
        tokens_sampled: Tokens of sampled completions.
        tokens_trained: Completion tokens in the loss.
        forward_passes: Calls of the language model or the vision tower.
        updates: Optimiser steps that changed weights.
        peak_memory: Bytes: resident on a CPU, allocated on a GPU.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    steps: Count = 0
    examples: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    tokens_sampled: Count = 0
    tokens_trained: Count = 0
    forward_passes: Count = 0
    updates: Count = 0
    peak_memory: Count = 0

    @property
    def tokens(self) -> int:
        """Completion tokens sampled, and those trained on."""
        return self.tokens_sampled + self.tokens_trained


COMPUTE_FILE = "compute.json"


class BudgetMeter:
    """Counts consumption and tells when the budget is spent.

    Args:
        budget: Which count ends training, and at what amount.
        consumed: What an interrupted run had consumed.
        device: Whose clock and memory count.
    """

    def __init__(self, budget: BudgetSection, device: torch.device, consumed: dict[str, Any] | None = None) -> None:
        self._budget = budget
        self._device = device
        self.consumed = Consumption(**(consumed or {}))

    @property
    def progress(self) -> float:
        """Share of the budget consumed; 1 and more when it is spent."""
        return float(getattr(self.consumed, self._budget.kind)) / self._budget.amount

    @property
    def spent(self) -> bool:
        return self.progress >= 1

    @property
    def remaining_examples(self) -> int | None:
        """Prompts left when examples are the budget, else None."""
        if self._budget.kind != "examples":
            return None
        return max(0, math.ceil(self._budget.amount) - self.consumed.examples)

    def expected_steps(self, prompts_per_step: int) -> int:
        """Steps that the budget allows, or 0 if that cannot be known beforehand."""
        if self._budget.kind == "seconds":
            return 0
        each = prompts_per_step if self._budget.kind == "examples" else 1
        return math.ceil(math.ceil(self._budget.amount) / each)

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        """Count the time inside as device seconds."""
        start = self._now()
        try:
            yield
        finally:
            self.consumed.seconds += self._now() - start
            self.consumed.peak_memory = max(self.consumed.peak_memory, peak_memory(self._device))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def state(self) -> dict[str, Any]:
        return asdict(self.consumed)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most allocated so far on a GPU, or the most resident so far in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
