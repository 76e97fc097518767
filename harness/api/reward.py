"""The contract of a reward, and the weighted sum of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from harness.api.config import Plugin
from harness.vsibench.records import Record


class Reward(Plugin, ABC):
    """Scores the text of one completion against its record."""

    plugin_group: ClassVar[str] = "rewards"

    @abstractmethod
    def score(self, text: str, record: Record, mode: str) -> float | None:
        """The reward, usually in [0, 1]; None if it does not apply to this record or prompt mode."""


class RewardScore(NamedTuple):
    """The weighted sum, and the unweighted rewards by name."""

    total: float
    parts: dict[str, float]


class WeightedRewards:
    """The weighted sum of several rewards; those that do not apply to a record are left out."""

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        self._rewards = dict(rewards)
        self._weights = dict(weights)

    def score(self, text: str, record: Record, mode: str) -> RewardScore:
        """Score the text of one completion against its record."""
        parts = {
            name: value
            for name, reward in self._rewards.items()
            if (value := reward.score(text, record, mode)) is not None
        }
        return RewardScore(sum(self._weights[name] * value for name, value in parts.items()), parts)
