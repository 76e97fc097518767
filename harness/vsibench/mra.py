"""Mean relative accuracy: VSI-Bench's score of a numeric answer."""

from __future__ import annotations

import math

from harness.errors import UserError
from harness.vsibench.records import Record

MRA_THRESHOLDS: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95)
"""The ten confidence thresholds of MRA: .50, .55, ... .95.

These are the doubles the official code (thinking-in-space) arrives at, so that every score equals
its score. It makes .90 by a sum and gets the double below; with 0.9 itself an error of one tenth
(9 for 10) would miss that threshold.
"""


def mean_relative_accuracy(predicted: float, truth: float) -> float:
    """The share of the ten thresholds t for which ``|predicted - truth| / truth <= 1 - t``.

    VSI-Bench (arXiv 2412.14171), equation 1, with ``<=`` as in the official code (the paper prints
    ``<``). A NaN or infinite prediction scores 0. A truth of zero, where the relative error is not
    defined, is met by zero alone.

    Returns:
        A number in [0, 1], a multiple of one tenth.
    """
    if truth == 0:
        return float(predicted == 0)
    error = abs(predicted - truth) / abs(truth)
    return sum(error <= 1 - threshold for threshold in MRA_THRESHOLDS) / len(MRA_THRESHOLDS)


def numeric_truth(record: Record) -> float:
    """The correct number of a numeric record.

    Raises:
        UserError: The record's ground truth is not a finite number.
    """
    try:
        truth = float(record.ground_truth)
    except ValueError:
        truth = math.nan
    if not math.isfinite(truth):
        raise UserError(
            f"record {record.key} ({record.question_type}): ground_truth must be a number, is "
            f"{record.ground_truth!r}; mend the data file"
        )
    return truth
