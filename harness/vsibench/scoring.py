"""VSI-Bench's figures: from scores of single questions to the eight task scores and their mean.

Other benchmarks of its kind have other tasks and the same rule.

The overall score is the unweighted mean of eight task means; the direction task is the mean of its
three levels (arXiv 2412.14171, section 4.1, and the official code, thinking-in-space). On a subset
without some tasks or levels it is the mean of those that are there. Sums are exact (``math.fsum``),
so the order of the questions cannot change the last digit of a table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError, unknown_name
from harness.vsibench.types import TASK_TYPES


def task_means(by_type: Mapping[str, float], members: Mapping[str, Sequence[str]] = TASK_TYPES) -> dict[str, float]:
    """Task scores from the scores of the raw question types, in the order of the tasks.

    Args:
        by_type: Mean score by raw question type, on any scale.
        members: The types of each task; VSI-Bench's unless given.

    Returns:
        Score by task on the same scale; tasks without a type are left out.

    Raises:
        UserError: An unknown question type.
    """
    _check_types(by_type, members)
    levels = {task: [by_type[kind] for kind in kinds if kind in by_type] for task, kinds in members.items()}
    return {task: mean(values) for task, values in levels.items() if values}


def overall_of_types(by_type: Mapping[str, float]) -> float:
    """VSI-Bench's overall score from the scores of its raw question types, on their scale.

    Raises:
        UserError: An unknown question type.
    """
    return mean(task_means(by_type).values())


def task_scores(
    question_types: Sequence[str], scores: Sequence[float], members: Mapping[str, Sequence[str]] = TASK_TYPES
) -> dict[str, float]:
    """Task scores in points (0-100) from the scores of single questions (0-1).

    Args:
        question_types: Raw type of each question.
        scores: Score of each question.
        members: The types of each task; VSI-Bench's unless given.

    Raises:
        UserError: No questions, or an unknown question type.
    """
    if not len(question_types):
        raise UserError("no scored questions to aggregate; check the benchmark file and the filters")
    groups: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(question_types, scores, strict=True):
        groups[kind].append(score)
    tasks = task_means({kind: mean(values) for kind, values in groups.items()}, members)
    return {task: 100 * value for task, value in tasks.items()}


def task_weights(
    types: Sequence[str], members: Mapping[str, Sequence[str]] = TASK_TYPES
) -> tuple[list[str], NDArray[np.float64]]:
    """The same rule as a matrix, for statistics on the means of the raw types.

    Args:
        types: The t distinct raw question types present.
        members: The types of each task; VSI-Bench's unless given.

    Returns:
        The tasks present in their order, and weights of shape (1 + tasks, t): first the overall
        score, then each task. Every row sums to 1.

    Raises:
        UserError: An unknown question type.
    """
    _check_types(types, members)
    tasks = [task for task, kinds in members.items() if not set(kinds).isdisjoint(types)]
    member = np.array([[kind in members[task] for kind in types] for task in tasks], dtype=float)
    per_task = member / member.sum(axis=1, keepdims=True)
    return tasks, np.vstack([per_task.mean(axis=0), per_task])


def _check_types(types: Iterable[str], members: Mapping[str, Sequence[str]]) -> None:
    known = [kind for kinds in members.values() for kind in kinds]
    for kind in types:
        if kind not in known:
            raise unknown_name(f"question_type {kind}", kind, known)


def mean(values: Iterable[float]) -> float:
    """Mean; NaN when there is no value."""
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan
