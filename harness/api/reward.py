"""Rewards: what one is, and how a study weighs several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from harness.api.config import StrictConfig
from harness.vsibench.records import Record


class Reward(ABC):
    """Scores the text of one completion against its record.

    Attributes:
        plugin_group: Where plugins of this kind are registered.
        Config: The reward's options.
        summary: One line for ``harness list``.
    """

    plugin_group: ClassVar[str] = "rewards"
    Config: ClassVar[type[StrictConfig]] = StrictConfig
    summary: ClassVar[str] = ""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    @abstractmethod
    def score(self, text: str, record: Record, mode: str) -> float | None:
        """The reward, usually in [0, 1]; None when it does not apply to this record or prompt mode."""


class RewardScore(NamedTuple):
    """A weighted sum and the unweighted parts it was made of."""

    total: float
    parts: dict[str, float]


class WeightedRewards:
    """The weighted sum of several rewards; those that do not apply to a record are left out."""

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        self._rewards = dict(rewards)
        self._weights = dict(weights)

    def score(self, text: str, record: Record, mode: str) -> RewardScore:
        """Score one completion's text against its record."""
        parts = {
            name: value
            for name, reward in self._rewards.items()
            if (value := reward.score(text, record, mode)) is not None
        }
        return RewardScore(sum(self._weights[name] * value for name, value in parts.items()), parts)
