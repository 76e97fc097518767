"""One minus the relative error: the reward that Video-R1 gives a numeric answer."""

from __future__ import annotations

import math
from typing import ClassVar

from harness.api import Record, Reward, parse_answer
from harness.vsibench.mra import numeric_truth


class RelativeError(Reward):
    """``1 - min(1, |predicted - truth| / |truth|)``, the regression reward of Video-R1 (arXiv 2503.21776).

    0 for an answer that is no number, and for a truth of 0 unless it is met. Does not apply to other questions.
    """

    summary: ClassVar[str] = "numeric answers: one minus the relative error, as Video-R1 rewards them"

    def score(self, text: str, record: Record, mode: str) -> float | None:
        if not record.is_numeric:
            return None
        predicted, truth = parse_answer(text, record), numeric_truth(record)
        if not isinstance(predicted, float) or not math.isfinite(predicted):
            return 0.0
        if truth == 0:
            return float(predicted == 0)
        return max(0.0, 1.0 - abs(predicted - truth) / abs(truth))
