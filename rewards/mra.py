"""Mean relative accuracy as a reward."""

from __future__ import annotations

from typing import ClassVar

from harness.api import Record, Reward
from harness.vsibench.mra import mean_relative_accuracy, numeric_truth


class MRA(Reward):
    """Mean relative accuracy of the number that the study's scorer reads; does not apply to other questions.

    The usual training reward of spatial post-training (SpaceR, SpatialLadder, 3D-RFT), and the
    benchmark's own score.
    """

    summary: ClassVar[str] = "numeric answers: mean relative accuracy, as VSI-Bench scores them"

    def score(self, text: str, record: Record, mode: str) -> float | None:
        if not record.is_numeric:
            return None
        return mean_relative_accuracy(self.read_number(text, record, mode), numeric_truth(record))
