"""One minus the relative error: Video-R1's reward for numeric answers."""

from __future__ import annotations

from typing import ClassVar

from harness.api import Record, Reward
from harness.vsibench.mra import numeric_truth


class RelativeError(Reward):
    """``1 - min(1, |predicted - truth| / |truth|)``, the regression reward of Video-R1 (arXiv 2503.21776).

    0 for an answer without a number, and for a truth of 0 unless the answer is 0. Does not apply to other questions.
    """

    summary: ClassVar[str] = "numeric answers: one minus the relative error, as Video-R1 rewards them"

    def score(self, text: str, record: Record, mode: str) -> float | None:
        if not record.is_numeric:
            return None
        predicted, truth = self.read_number(text, record, mode), numeric_truth(record)
        if truth == 0:
            return float(predicted == 0)
        error = abs(predicted - truth) / abs(truth)
        return 1.0 - error if error < 1 else 0.0  # an answer without a number has the error NaN
