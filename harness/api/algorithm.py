"""The contract of a training method: its needs, its experience and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from harness.api.config import Plugin
from harness.api.types import Batch, Group, Needs, Sample


class Method(Plugin, ABC):
    """Anything that a study may list under ``methods``.

    Attributes:
        title: Its name in tables, which subclasses do not inherit; the registered name if empty.
    """

    plugin_group: ClassVar[str] = "algorithms"
    title: ClassVar[str] = ""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What this method asks of the engine, given its configuration."""


class Algorithm(Method):
    """A training method: everything that differs between methods, and nothing else.

    The engine owns optimiser, schedule, data order, prompts, decoding, checkpoints and evaluation.

    Attributes:
        exempt_checks: Checks of the conformance suite that the method breaks on purpose, with reasons.
    """

    exempt_checks: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        """Turn scored groups into weighted samples, in plain Python; groups may be dropped.

        Everything that looks across samples (baselines, normalisation, pairing, batch
        statistics) belongs here, so that micro-batches cannot change the gradient.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The unreduced loss of a micro-batch, and numbers to log.

        Returns:
            A loss of shape (n, L) if ``needs.reduce`` is ``token``, (n,) if ``sequence``, or
            (units,), in ascending order of ``batch.unit``, if ``unit``. The engine divides by
            counts known before the first micro-batch. Logged numbers are averaged over
            micro-batches, weighted by their numbers of samples.
        """
