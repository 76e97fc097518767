"""What a method is: its needs, what it makes of experience, and its loss; or a foreign trainer with its own loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.types import Batch, Group, Needs, Sample

if TYPE_CHECKING:
    from harness.train.run import TrainingRun


class StrictConfig(BaseModel):
    """Base of every configuration: frozen, unknown keys are errors, NaN is refused.

    Give each field a default, a range and a ``description`` that says what it means and
    where the default comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Method(ABC):
    """What a study may name among its methods: hyper-parameters, and what it asks of the engine.

    Attributes:
        Config: The method's hyper-parameters, a :class:`StrictConfig`.
        title: What tables call it; its registered name in capitals if empty.
        summary: One line for ``harness list``.
    """

    Config: ClassVar[type[StrictConfig]] = StrictConfig
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What this method asks of the engine, given its configuration."""


class Algorithm(Method):
    """A training method: everything that differs between methods, and nothing else.

    The engine owns optimiser, schedule, data order, prompts, decoding, checkpoints and evaluation.

    Attributes:
        exempt_checks: Checks of the conformance suite that it breaks on purpose, each with the reason.
    """

    exempt_checks: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        """Turn scored groups into samples. Plain Python; groups may be dropped.

        Everything that looks across samples (baselines, normalisation, pairing, batch
        statistics) happens here, so that micro-batches cannot change the gradient.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The unreduced loss and numbers to log.

        Returns:
            Shape (n, L) when ``needs.reduce`` is ``token``, (n,) when ``sequence``,
            (number of units in the batch, in ascending order of unit) when ``unit``.
            The engine divides by counts known before the first micro-batch. Logged numbers
            are averaged over micro-batches, weighted by their samples.
        """


class GuestTrainer(Method):
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
    def train(self, run: TrainingRun) -> None:
        """Train to the end of the budget.

        Call ``run.begin()`` before the first step (it restores an interrupted run), take prompts from ``run.draw()``,
        do all work of a step inside ``run.meter.clock()``, count what it consumes in ``run.meter.consumed``, and call
        ``run.finish_step(numbers)`` after each step until ``run.meter.spent``; call ``run.end()`` in the end,
        whatever happened. :class:`~harness.train.run.TrainingError` says that training cannot go on.
        """
