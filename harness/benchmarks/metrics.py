"""What an answer is worth once it is read, by the metrics that a description may name.

``mra`` is VSI-Bench's mean relative accuracy (arXiv 2412.14171, equation 1), ``choice`` the right option, ``exact`` the
right number or words. ``chance`` is chance-adjusted accuracy, ``(x - 1/n) / (1 - 1/n)`` for n options: 1 for the right
option, 0 on average for a guess, below 0 for a wrong one. SITE (arXiv 2505.05456) divides the sums over all questions
instead; both agree where questions have equally many options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.vsibench.answers import matches
from harness.vsibench.mra import MRA_THRESHOLDS, mean_relative_accuracy, numeric_truth
from harness.vsibench.records import Record

Metric = Literal["mra", "choice", "exact", "chance"]

THRESHOLDS: dict[str, tuple[float, ...]] = {"vsi-bench": MRA_THRESHOLDS}
"""The thresholds of relative accuracy that have a name."""

Read = float | str | None
"""What a rule reads in an answer: a number, an option's letter, words, or nothing."""


def worth(metric: Metric, found: Read, record: Record, thresholds: Sequence[float], zero: float | None) -> float:
    """The score of what was read, by a metric: at most 1, and at least 0 but for ``chance``.

    ``thresholds`` and ``zero`` are those of :func:`~harness.vsibench.mra.mean_relative_accuracy`.

    Raises:
        UserError: The record needs a number as its truth and has none.
    """
    if metric == "mra":
        truth = numeric_truth(record)
        return mean_relative_accuracy(found, truth, thresholds, zero) if isinstance(found, float) else 0.0
    if metric == "exact" and record.is_numeric:
        return float(isinstance(found, float) and math.isclose(found, numeric_truth(record)))
    right = float(matches(found, record))
    if metric == "chance" and record.options:
        by_guessing = 1 / len(record.options)
        return (right - by_guessing) / (1 - by_guessing)
    return right
