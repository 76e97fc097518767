"""Continuing with a smaller batch when memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from harness.errors import UserError

T = TypeVar("T")


class AdaptiveBatchSize:
    """The batch size of one phase, halved for good each time memory runs out.

    Why not ``accelerate.utils.find_executable_batch_size``: it collects garbage and empties the device's cache before
    every call, which would be twice a training step; after a failure it does so while the traceback still holds the
    failed batch's tensors; it says nothing of the new size, and its error at the smallest size names neither the phase
    nor a setting to change.

    Args:
        phase: Its name, for messages.
        size: Completions at once to begin with.
    """

    def __init__(self, phase: str, size: int) -> None:
        self._phase = phase
        self.size = size

    def run(self, work: Callable[[int], T]) -> T:
        """Call ``work(size)``; each time memory runs out, again from the start with half the size.

        Raises:
            UserError: Memory runs out at size 1 too.
        """
        while True:
            try:
                return work(self.size)
            except RuntimeError as error:
                # An accelerator's error has a type of its own, that of the CPU's allocator has not.
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                if self.size == 1:
                    raise UserError(
                        f"out of memory in {self._phase}, one completion at a time: lower data.frames or "
                        "data.max_pixels, or set model.gradient_checkpointing = true"
                    ) from error
            # Outside the handler, where the traceback would still hold the failed batch's tensors.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logging.getLogger(__name__).warning(
                "Out of memory in %s: continuing with %d completions at once instead of %d; the results are the same.",
                self._phase,
                self.size // 2,
                self.size,
            )
            self.size //= 2
