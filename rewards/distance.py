"""The paper's reward for numeric answers, based on a relative distance."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from harness.api import Record, Reward, StrictConfig
from harness.vsibench.mra import numeric_truth


class DistanceConfig(StrictConfig):
    """How the distance is mapped to a reward, which the paper does not state."""

    mapping: Literal["linear", "negative", "inverse"] = Field(
        "linear",
        description="Reward of a distance d: linear = max(0, 1 - d); negative = max(floor, -d); "
        "inverse = 1 / (1 + d). The paper gives only d; linear is our choice, because like the other "
        "rewards it lies in [0, 1] and is 1 for a perfect answer.",
    )
    floor: float = Field(
        -5.0,
        lt=0,
        description="Lowest reward of the negative mapping: d = 5 is an answer six times too large. Ours.",
    )


class Distance(Reward):
    """A reward that falls with ``d = |truth - predicted| / min(truth, predicted)``.

    Source of d: arXiv 2504.00883, section 3.2. An answer that is not a positive number, for which d
    is not defined, gets the mapping's lowest value. Does not apply to non-numeric questions.
    """

    Config = DistanceConfig
    summary: ClassVar[str] = "numeric answers: the paper's relative distance, mapped to a reward"

    def score(self, text: str, record: Record, mode: str) -> float | None:
        if not record.is_numeric:
            return None
        return self._reward(relative_distance(self.read_number(text, record, mode), numeric_truth(record)))

    def _reward(self, distance: float) -> float:
        if self.config.mapping == "linear":
            return max(0.0, 1.0 - distance)
        if self.config.mapping == "negative":
            return max(self.config.floor, -distance)
        return 1.0 / (1.0 + distance)


def relative_distance(predicted: float, truth: float) -> float:
    """``|truth - predicted| / min(truth, predicted)``, infinite unless both are positive numbers."""
    if not (predicted > 0 and truth > 0):
        return math.inf
    return abs(truth - predicted) / min(truth, predicted)
