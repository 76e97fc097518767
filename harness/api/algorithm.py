"""What a training method is: its needs, what it makes of experience, and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from harness.api.config import StrictConfig
from harness.api.types import Batch, Group, Needs, Sample


class Method(ABC):
    """What a study may name among its methods: hyper-parameters, and what it asks of the engine.

    Attributes:
        plugin_group: Where plugins of this kind are registered.
        Config: The method's hyper-parameters, a :class:`StrictConfig`.
        title: What tables call it; its registered name in capitals if empty.
        summary: One line for ``harness list``.
    """

    plugin_group: ClassVar[str] = "algorithms"
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
