"""Mean relative accuracy: VSI-Bench's score of a numeric answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import UserError
from harness.vsibench.records import Record

MRA_THRESHOLDS: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.8999999999999999, 0.95)
"""The ten confidence thresholds of MRA: .50, .55, ... .95.

These are the doubles that the official code (thinking-in-space) computes, so that every score equals
its score. It reaches .90 by a sum and gets the double above; with 0.9 itself an error of one tenth
(9 for 10) would miss that threshold.
"""


def mean_relative_accuracy(
    predicted: float, truth: float, thresholds: Sequence[float] = MRA_THRESHOLDS, zero: float | None = None
) -> float:
    """The share of the thresholds t for which ``|predicted - truth| / truth <= 1 - t``.

    VSI-Bench (arXiv 2412.14171), equation 1, with ``<=`` as in the official code (the paper prints
    ``<``). A NaN or infinite prediction scores 0.

    Args:
        predicted: The answer.
        truth: The right number. Of zero, relative error is not defined.
        thresholds: VSI-Bench's ten unless given.
        zero: What counts as zero where the truth is zero: an answer below is right, and another is judged as if this
            were the truth (OSI-Bench, arXiv 2512.19683, as lmms-eval and VLMEvalKit have it). None: only 0 is right.

    Returns:
        A number in [0, 1], a multiple of one over the number of thresholds.
    """
    if truth == 0 and zero is not None:
        if predicted < zero:
            return 1.0
        truth = zero
    return int(thresholds_met(predicted, truth, thresholds)) / len(thresholds)


def thresholds_met(
    predicted: ArrayLike, truth: ArrayLike, thresholds: Sequence[float] = MRA_THRESHOLDS
) -> NDArray[np.int64]:
    """How many of the thresholds each prediction meets; :func:`mean_relative_accuracy` of arrays, times ten.

    Args:
        predicted: Numbers of any shape.
        truth: Numbers of a shape that broadcasts with it.
        thresholds: Confidence thresholds, VSI-Bench's ten unless given.

    Returns:
        Integers from 0 to their number, of the broadcast shape.
    """
    predicted, truth = np.asarray(predicted, dtype=float), np.asarray(truth, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(truth == 0, np.where(predicted == 0, 0.0, np.inf), abs(predicted - truth) / abs(truth))
    met: NDArray[np.int64] = (error[..., None] <= 1 - np.array(thresholds)).sum(axis=-1)
    return met


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
            f"{record.ground_truth!r}; fix the data file"
        )
    return truth
