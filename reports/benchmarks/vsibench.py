"""VSI-Bench as a benchmark plugin; its rules are in :mod:`harness.vsibench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypedDict

import numpy as np
import pandas as pd

from harness.api.benchmark import Benchmark, EvaluationJob
from harness.study.evaluation import answer_benchmark
from harness.vsibench.prompts import answer_in
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.vsibench.scoring import means_of_tasks, question_weights, score_answers, task_scores
from harness.vsibench.types import TASKS
from reports.answerfiles import read_answers


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
        """Per-question weights of the overall score; see :func:`harness.vsibench.scoring.question_weights`."""
        return question_weights(question_types)

    def aggregate(self, frame: pd.DataFrame) -> Aggregate:
        """The benchmark's figures.

        Args:
            frame: One row a question, columns ``question_type`` and ``score`` (in [0, 1]).

        Raises:
            UserError: No rows, or an unknown question type.
        """
        tasks = task_scores(frame["question_type"].tolist(), frame["score"].tolist())
        found = means_of_tasks(tasks)
        return Aggregate(
            overall=found.overall,
            tasks=tasks,
            numeric_mean=found.numeric_mean,
            choice_mean=found.choice_mean,
            overall_without_counting=found.overall_without_counting,
            n=len(frame),
        )


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
