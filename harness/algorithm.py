"""What a method is: its needs, what it makes of experience, and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.types import Batch, Group, Needs, Sample


class StrictConfig(BaseModel):
    """Base of every configuration: frozen, unknown keys are errors, NaN is refused.

    Give each field a default, a range and a ``description`` that says what it means and
    where the default comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Algorithm(ABC):
    """A training method: everything that differs between methods, and nothing else.

    The engine owns optimiser, schedule, data order, prompts, decoding, checkpoints and evaluation.

    Attributes:
        Config: The method's hyper-parameters, a :class:`StrictConfig`.
        title: What tables call it; its registered name in capitals if empty.
        summary: One line for ``harness list``.
        exempt_checks: Checks of the conformance suite that it breaks on purpose, each with the reason.
    """

    Config: ClassVar[type[StrictConfig]] = StrictConfig
    title: ClassVar[str] = ""
    exempt_checks: ClassVar[Mapping[str, str]] = {}
    summary: ClassVar[str] = ""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What this method asks of the engine, given its configuration."""

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
