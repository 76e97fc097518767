"""VSI-Bench's figures: from scores of single questions to the eight task scores and their mean.

The overall score is the unweighted mean of eight task means; the direction task is the mean of its
three levels (arXiv 2412.14171, section 4.1, and the official code, thinking-in-space). On a subset
without some tasks or levels it is the mean of those that are there. Sums are exact (``math.fsum``),
so the order of the questions cannot change the last digit of a table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError, unknown_name
from harness.vsibench.types import NUMERIC_TYPES, QUESTION_TYPES, TASKS, task_of


class Means(NamedTuple):
    """Means over tasks, on the scale of the tasks; NaN where there is no task of the kind.

    Attributes:
        overall: Mean of all tasks, the benchmark's headline.
        numeric_mean: Mean of the numeric tasks.
        choice_mean: Mean of the lettered tasks.
        overall_without_counting: Mean of all tasks but object counting, where a constant "2" does well.
    """

    overall: float
    numeric_mean: float
    choice_mean: float
    overall_without_counting: float


def task_means(by_type: Mapping[str, float]) -> dict[str, float]:
    """Task scores from the scores of the raw question types, in VSI-Bench's order.

    Args:
        by_type: Mean score by raw question type, on any scale.

    Returns:
        Score by task on the same scale; tasks without a type are left out.

    Raises:
        UserError: An unknown question type.
    """
    _check_types(by_type)
    levels: dict[str, list[float]] = {task: [] for task in TASKS}
    for kind in QUESTION_TYPES:
        if kind in by_type:
            levels[task_of(kind)].append(by_type[kind])
    return {task: mean(values) for task, values in levels.items() if values}


def means_of_tasks(tasks: Mapping[str, float]) -> Means:
    """The overall score and its companions from the scores of the tasks."""
    return Means(
        mean(tasks.values()),
        mean(value for task, value in tasks.items() if task in NUMERIC_TYPES),
        mean(value for task, value in tasks.items() if task not in NUMERIC_TYPES),
        mean(value for task, value in tasks.items() if task != "object_counting"),
    )


def overall_of_types(by_type: Mapping[str, float]) -> float:
    """The overall score from the scores of the raw question types, on their scale.

    Raises:
        UserError: An unknown question type.
    """
    return means_of_tasks(task_means(by_type)).overall


def task_scores(question_types: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """Task scores in points (0-100) from the scores of single questions (0-1).

    Args:
        question_types: Raw type of each question.
        scores: Score of each question.

    Raises:
        UserError: No questions, or an unknown question type.
    """
    if not len(question_types):
        raise UserError("no scored questions to aggregate; check the benchmark file and the filters")
    groups: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(question_types, scores, strict=True):
        groups[kind].append(score)
    tasks = task_means({kind: mean(values) for kind, values in groups.items()})
    return {task: 100 * value for task, value in tasks.items()}


def task_weights(types: Sequence[str]) -> tuple[list[str], NDArray[np.float64]]:
    """The same rule as a matrix, for statistics on the means of the raw types.

    Args:
        types: The t distinct raw question types present.

    Returns:
        The tasks present in VSI-Bench's order, and weights of shape (1 + tasks, t): first the overall
        score, then each task. Every row sums to 1.

    Raises:
        UserError: An unknown question type.
    """
    _check_types(types)
    present = {task_of(kind) for kind in types}
    tasks = [task for task in TASKS if task in present]
    member = np.array([[task_of(kind) == task for kind in types] for task in tasks], dtype=float)
    per_task = member / member.sum(axis=1, keepdims=True)
    return tasks, np.vstack([per_task.mean(axis=0), per_task])


def _check_types(types: Iterable[str]) -> None:
    for kind in types:
        if kind not in QUESTION_TYPES:
            raise unknown_name(f"question_type {kind}", kind, QUESTION_TYPES)


def mean(values: Iterable[float]) -> float:
    """Mean; NaN when there is no value."""
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan
