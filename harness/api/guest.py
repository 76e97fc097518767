"""The contract of a guest: another library's trainer as a method of a study."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from harness.api.algorithm import Method

Run = TypeVar("Run", contravariant=True)
"""Always :class:`harness.train.run.TrainingRun`, which guests name; this package may not import it."""


class GuestTrainer(Method, Generic[Run]):
    """Another library's trainer, with its own loop and loss, compared with the methods of a study.

    What all methods share comes from a :class:`~harness.train.run.TrainingRun`: the model, the order of records,
    rewards, optimiser, budget meter, metrics, checkpoints and resumption. The fairness card lists what differs.

    Attributes:
        remarks: Differences from the harness's own loop, a phrase each, for the fairness card.
        counterpart: The method to compare it with, whose settings in a study it takes unless it has its own.
    """

    remarks: ClassVar[Sequence[str]] = ()
    counterpart: ClassVar[str] = ""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Versions of what its results depend on beyond its configuration and source: part of a cell's identity.

        Raises:
            UserError: A package it needs is missing or has an unsupported version.
        """

    @abstractmethod
    def train(self, run: Run) -> None:
        """Train to the end of the budget.

        Call ``run.begin()`` before the first step (it restores an interrupted run). In each step take prompts from
        ``run.draw()``, work inside ``run.meter.clock()``, add to ``run.meter.consumed``, then call
        ``run.finish_step(numbers)``, until ``run.meter.spent``. Always call ``run.end()`` at the end.

        Raises:
            TrainingError: Training cannot continue; of :mod:`harness.train.run`.
        """
