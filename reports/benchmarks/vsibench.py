"""VSI-Bench: from raw answers to the eight task scores and their mean.

The overall score is the unweighted mean of eight task means; the direction task is the mean of its
three levels (arXiv 2412.14171, section 4.1, and the official code, thinking-in-space). On a subset
without some tasks or levels it is the mean of those that are there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypedDict

import numpy as np
import pandas as pd

from harness.api.benchmark import Benchmark, EvaluationJob
from harness.errors import UserError, unknown_name
from harness.study.evaluation import answer_benchmark
from harness.vsibench.prompts import answer_in
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS, ItemScore
from harness.vsibench.types import CHOICE_TYPES, NUMERIC_TYPES, QUESTION_TYPES, TASKS, task_of
from reports.answerfiles import read_answers

NUMERIC_TASKS: tuple[str, ...] = NUMERIC_TYPES
CHOICE_TASKS: tuple[str, ...] = tuple(dict.fromkeys(task_of(kind) for kind in CHOICE_TYPES))


class HasRecords(Protocol):
    """A data set, as far as scoring needs it."""

    @property
    def records(self) -> Sequence[Record]: ...


class Aggregate(TypedDict):
    """Scores of one set of answers on the 0-100 scale; NaN where no question is of that kind.

    Keys:
        overall: Mean of the tasks.
        tasks: Per task, in VSI-Bench's order; tasks without questions are absent.
        numeric_mean: Mean of the numeric tasks.
        choice_mean: Mean of the lettered tasks.
        overall_without_counting: Mean of the tasks but object counting, which a constant "2" wins.
        n: Number of questions.
    """

    overall: float
    tasks: dict[str, float]
    numeric_mean: float
    choice_mean: float
    overall_without_counting: float
    n: int


class VSIBench(Benchmark):
    """The benchmark's protocol: answering it, and turning per-question scores into its figures."""

    summary: ClassVar[str] = "VSI-Bench: ten question types, eight tasks, overall = mean of the tasks"
    tasks: ClassVar[tuple[str, ...]] = TASKS
    scorers: ClassVar[tuple[str, ...]] = tuple(SCORERS)

    def evaluate(self, job: EvaluationJob) -> dict[str, float]:
        """Answer every question with a checkpoint, storing raw answers; return the headline score."""
        samples = answer_benchmark(job)
        answers = read_answers(samples, job.dataset.records)
        read = {key: answer_in(answer.text, job.mode) for key, answer in answers.items()}
        frame = score_answers(job.dataset.records, read, [job.settings.scorer])
        return {"overall": self.aggregate(frame)["overall"]}

    def score_file(
        self, answers: Path, benchmark: HasRecords, scorers: Sequence[str] = tuple(SCORERS)
    ) -> dict[str, Any]:
        """Score a file of answers; see :func:`score_file`."""
        return score_file(answers, benchmark, scorers)

    def weights(self, question_types: Sequence[str]) -> np.ndarray:
        """Per-question weights w, so that ``sum(w * scores)`` is the overall score.

        With all tasks present: 1 / (8 n) for a question of a type with n questions, 1 / (24 n) for
        one of a direction level. Else 1 / (tasks present x levels present x n).

        Args:
            question_types: Raw type of each of the n questions.

        Returns:
            Shape (n,), summing to 1.

        Raises:
            UserError: An unknown question type.
        """
        counts = Counter(question_types)
        _check_types(counts)
        levels = Counter(task_of(kind) for kind in counts)
        share = {kind: 1 / (len(levels) * levels[task_of(kind)] * n) for kind, n in counts.items()}
        return np.array([share[kind] for kind in question_types], dtype=float)

    def aggregate(self, frame: pd.DataFrame) -> Aggregate:
        """The benchmark's figures.

        Args:
            frame: One row a question, columns ``question_type`` and ``score`` (in [0, 1]).

        Raises:
            UserError: No rows, or an unknown question type.
        """
        if frame.empty:
            raise UserError("no scored questions to aggregate; check the benchmark file and the filters")
        # fsum is exact, so the order of the rows cannot change the last digit of a table.
        types = {str(kind): math.fsum(scores) / len(scores) for kind, scores in frame.groupby("question_type")["score"]}
        _check_types(types)
        tasks = {
            task: 100 * _mean(types[kind] for kind in QUESTION_TYPES if kind in types and task_of(kind) == task)
            for task in TASKS
            if any(task_of(kind) == task for kind in types)
        }
        return Aggregate(
            overall=_mean(tasks.values()),
            tasks=tasks,
            numeric_mean=_mean(value for task, value in tasks.items() if task in NUMERIC_TASKS),
            choice_mean=_mean(value for task, value in tasks.items() if task in CHOICE_TASKS),
            overall_without_counting=_mean(value for task, value in tasks.items() if task != "object_counting"),
            n=len(frame),
        )


def score_answers(
    records: Sequence[Record], answers: Mapping[str, str], scorers: Sequence[str] = tuple(SCORERS)
) -> pd.DataFrame:
    """Score raw answers by several rules.

    Args:
        records: The benchmark's records.
        answers: Raw answer by record id (as text). A record without an answer scores zero.
        scorers: Names of scorers.

    Returns:
        Long table, per scorer one row a record in the records' order: scorer, id, question_type,
        task, room, score (0-1), parsed, missing.

    Raises:
        UserError: An unknown scorer, an answer to an unknown id, an id twice among the records.
    """
    _check_ids([record.key for record in records], answers)
    rows = []
    for name in scorers:
        if name not in SCORERS:
            raise unknown_name(f"--scorer {name}", name, SCORERS)
        for record in records:
            answer = answers.get(record.key)
            item = ItemScore(0.0, False) if answer is None else SCORERS[name].score(answer, record)
            rows.append((name, record.key, record.question_type, record.task, record.room, *item, answer is None))
    columns = ["scorer", "id", "question_type", "task", "room", "score", "parsed", "missing"]
    return pd.DataFrame(rows, columns=columns)


def score_file(answers: Path, benchmark: HasRecords, scorers: Sequence[str] = tuple(SCORERS)) -> dict[str, Any]:
    """Score a file of answers against a benchmark, for ``harness score``.

    Args:
        answers: JSON lines, see :mod:`reports.answerfiles`.
        benchmark: Anything with ``records``.
        scorers: Names of scorers.

    Returns:
        Per scorer ``overall``, ``tasks`` (0-100), ``n`` (questions) and ``unparsable`` (questions
        without a readable answer, the unanswered ones included).

    Raises:
        UserError: As :func:`read_answers` and :func:`score_answers`.
    """
    raw = {key: answer.text for key, answer in read_answers(answers, benchmark.records).items()}
    frame = score_answers(benchmark.records, raw, scorers)
    result: dict[str, Any] = {}
    for name in scorers:
        rows = frame[frame["scorer"] == name]
        figures = VSIBench().aggregate(rows)
        result[name] = {
            "overall": figures["overall"],
            "tasks": figures["tasks"],
            "n": figures["n"],
            "unparsable": int((~rows["parsed"].astype(bool)).sum()),
        }
    return result


def _check_ids(keys: Sequence[str], answers: Mapping[str, str]) -> None:
    repeated = [key for key, n in Counter(keys).items() if n > 1]
    if repeated:
        raise UserError(f"{len(repeated)} ids occur more than once in the benchmark: {_some(repeated)}")
    unknown = sorted(set(answers) - set(keys))
    if unknown:
        raise UserError(
            f"{len(unknown)} answers are for ids that the benchmark does not have: {_some(unknown)}; "
            "score them against the file they were made for"
        )


def _check_types(types: Iterable[str]) -> None:
    for kind in types:
        if kind not in QUESTION_TYPES:
            raise unknown_name(f"question_type {kind}", kind, QUESTION_TYPES)


def _some(keys: Sequence[str], at_most: int = 5) -> str:
    return ", ".join(keys[:at_most]) + (", ..." if len(keys) > at_most else "")


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan
