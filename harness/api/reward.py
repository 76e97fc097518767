"""The contract of a reward, how rewards read answers, and the weighted sum of several."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from harness.api.config import Plugin
from harness.vsibench.answers import parse_answer
from harness.vsibench.letters import normalise
from harness.vsibench.prompts import answer_in
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS


@dataclass(frozen=True)
class Reading:
    """How the answer of a completion is read.

    Attributes:
        scorer: What the study's scorer reads in an answer: a number, an option letter or words, None where nothing.
        tolerant: Whether rewards read by the rules of the tolerant scorer instead.
    """

    scorer: Callable[[str, Record], float | str | None] = SCORERS["official"].read
    tolerant: bool = False

    def read(self, text: str, record: Record, mode: str) -> float | str | None:
        """The answer of a completion, for rewards."""
        return parse_answer(text, record) if self.tolerant else self.scorer(answer_in(text, mode), record)

    def missed(self, text: str, record: Record, mode: str) -> bool:
        """Whether the scorer does not read the answer of a completion, in which tolerant reading finds one."""
        found, read = parse_answer(text, record), self.scorer(answer_in(text, mode), record)
        in_words = not record.is_numeric and record.options is None
        return found is not None and (read is None or (in_words and normalise(str(read)) != found))


class Reward(Plugin, ABC):
    """Scores the text of one completion against its record."""

    plugin_group: ClassVar[str] = "rewards"
    _reading: Reading = Reading()  # until `WeightedRewards` sets a study's

    @abstractmethod
    def score(self, text: str, record: Record, mode: str) -> float | None:
        """The reward, usually in [0, 1]; None if it does not apply to this record or prompt mode."""

    def read(self, text: str, record: Record, mode: str) -> float | str | None:
        """The answer that a completion gives, as the study's scorer reads it.

        Returns:
            A number, an option letter or (for a question in free form) words, to be compared by
            :func:`harness.api.matches`; None where there is none.
        """
        return self._reading.read(text, record, mode)

    def read_number(self, text: str, record: Record, mode: str) -> float:
        """Likewise the number that is the answer to a numeric record; NaN when there is none."""
        found = self.read(text, record, mode)
        return found if isinstance(found, float) else math.nan


class RewardScore(NamedTuple):
    """The weighted sum, the unweighted rewards by name, and whether the scorer misses the answer."""

    total: float
    parts: dict[str, float]
    missed: bool = False


class WeightedRewards:
    """The weighted sum of several rewards; those that do not apply to a record are left out."""

    def __init__(
        self, rewards: Mapping[str, Reward], weights: Mapping[str, float], reading: Reading | None = None
    ) -> None:
        self._rewards = dict(rewards)
        self._weights = dict(weights)
        self._reading = reading or Reading()
        for reward in self._rewards.values():
            reward._reading = self._reading

    def score(self, text: str, record: Record, mode: str) -> RewardScore:
        """Score the text of one completion against its record."""
        parts = {
            name: value
            for name, reward in self._rewards.items()
            if (value := reward.score(text, record, mode)) is not None
        }
        total = sum(self._weights[name] * value for name, value in parts.items())
        return RewardScore(total, parts, self._reading.missed(text, record, mode))
