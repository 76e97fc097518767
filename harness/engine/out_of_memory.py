"""Going on in smaller parts when memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from harness.errors import UserError

T = TypeVar("T")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an accelerator's or the CPU's allocator found no memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Parts:
    """Does work in parts of at most ``size``, which halves for good each time memory runs out.

    Args:
        what: The phase, for the message.
        size: Parts to begin with.
    """

    def __init__(self, what: str, size: int) -> None:
        self._what = what
        self.size = size

    def run(self, work: Callable[[int], T]) -> T:
        """Call ``work(size)``, again from the start with half the size as often as memory runs out.

        Raises:
            UserError: Memory runs out at size 1 too.
        """
        while True:
            try:
                return work(self.size)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.size == 1:
                    raise UserError(
                        f"out of memory in {self._what}, one completion at a time: lower data.frames or "
                        "data.max_pixels, or set model.gradient_checkpointing = true"
                    ) from error
            # Not inside the handler, where the traceback still holds the failed work's tensors.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logging.getLogger(__name__).warning(
                "Out of memory in %s: going on with %d completions at once instead of %d; the results are the same.",
                self._what,
                self.size // 2,
                self.size,
            )
            self.size //= 2
