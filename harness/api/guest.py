"""A foreign trainer with its own loop, as a contender in a study."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

from harness.api.algorithm import Method

Run = TypeVar("Run", contravariant=True)
"""What the engine hands over: :class:`harness.train.run.TrainingRun`, which a guest names as its parameter."""


class GuestTrainer(Method, Generic[Run]):
    """A foreign trainer with its own loop and its own loss, run in a study beside the methods.

    It takes from a :class:`~harness.train.run.TrainingRun` what is the same for every method: the model, records in
    their order, rewards, optimiser, budget meter, metrics, checkpoints and resumption. What it has of its own differs
    between it and the methods, and the fairness card says so.

    Attributes:
        remarks: What differs from the engine's loop, a phrase each, for the fairness card.
        counterpart: The method whose settings in a study are also this one's, unless it is given its own: the two
            are there to be compared.
    """

    remarks: ClassVar[Sequence[str]] = ()
    counterpart: ClassVar[str] = ""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """What its results depend on beside its configuration and its own file: part of a cell's identity.

        Raises:
            UserError: What it stands on is missing or of a version that it was not written for.
        """

    @abstractmethod
    def train(self, run: Run) -> None:
        """Train to the end of the budget.

        Call ``run.begin()`` before the first step (it restores an interrupted run), take prompts from ``run.draw()``,
        do all work of a step inside ``run.meter.clock()``, count what it consumes in ``run.meter.consumed``, and call
        ``run.finish_step(numbers)`` after each step until ``run.meter.spent``; call ``run.end()`` in the end,
        whatever happened. :class:`~harness.train.run.TrainingError` says that training cannot go on.
        """
