"""Data-parallel training: each process takes a share of a step's prompts, and gradients are summed.

A rank samples, scores and trains on its own prompts. Groups go to all ranks, so that a method sees the whole step, and
denominators are those of the whole step, so that the sum of the gradients is what one process would have computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from harness.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train a model together.

    Attributes:
        rank: Its number; the first one writes files and evaluates.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def join() -> Ranks:
        """Join the process group that the environment describes; one rank if it describes none.

        Raises:
            UserError: There are fewer GPUs than processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return Ranks()
        rank, gpus = int(os.environ["RANK"]), torch.cuda.device_count()
        if 0 < gpus < size:
            raise UserError(f"`train.processes` = {size}: this machine shows {gpus} GPUs; each process needs its own")
        if gpus:
            torch.cuda.set_device(rank)
        if not dist.is_initialized():
            # Groups are sent as objects by gloo, gradients on GPUs by nccl.
            dist.init_process_group("cuda:nccl,cpu:gloo" if gpus else "gloo")
        return Ranks(rank, size)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items: every size-th."""
        return list(items[self.rank :: self.size])

    def gather(self, mine: list[T]) -> list[T]:
        """The items of all ranks, in their order before :meth:`share`."""
        if self.size == 1:
            return mine
        shares: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(shares, mine)
        return [share[place] for place in range(max(map(len, shares))) for share in shares if place < len(share)]

    def total(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number summed over the ranks; a name that a rank lacks counts as 0 there."""
        if self.size == 1:
            return dict(numbers)
        shares: list[Mapping[str, float]] = [{} for _ in range(self.size)]
        dist.all_gather_object(shares, dict(numbers))
        names = dict.fromkeys(name for share in shares for name in share)
        return {name: sum(share.get(name, 0.0) for share in shares) for name in names}

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # none of this rank's samples reached it
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def leave(self) -> None:
        """Leave the process group, once all ranks have got here."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
