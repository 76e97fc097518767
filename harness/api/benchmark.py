"""What a benchmark is: which questions, how they are put, and how answers are scored and averaged.

A benchmark describes; the harness answers its questions with every checkpoint, stores the raw answers once, and scores
them any number of times (:mod:`harness.study.evaluation`, :mod:`reports`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.api.config import Plugin
from harness.benchmarks.description import QuestionType
from harness.errors import UserError, first_few, unknown_name
from harness.vsibench.letters import normalise
from harness.vsibench.prompts import OFFICIAL, Wording
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS, ItemScore
from harness.vsibench.scoring import mean
from harness.vsibench.types import LETTERS


class QuestionScore(NamedTuple):
    """The score of one question.

    Attributes:
        question: Its id, unique in the benchmark.
        type: What kind of question it is; see :class:`Task`.
        cluster: What it shares with other questions, such as a room or an image: they are not independent.
        score: In [0, 1].
        parsed: Whether the scorer could read an answer at all.
    """

    question: str
    type: str
    cluster: str
    score: float
    parsed: bool


class Task(NamedTuple):
    """A part of the benchmark with a score, and a column, of its own.

    Attributes:
        name: In files.
        title: In figures.
        head: Over its column; may hold a line break.
        types: The question types in it; a type of the task's own name when empty.
    """

    name: str
    title: str
    head: str
    types: tuple[str, ...] = ()


class ScoringRule(NamedTuple):
    """What captions say about a scorer."""

    summary: str
    version: str = "1"


class Figures(NamedTuple):
    """Scores of one set of answers, in points (0 to 100).

    Attributes:
        overall: The headline score.
        tasks: Score of every task that has questions.
        means: The benchmark's further means, by their names in ``Benchmark.means``.
    """

    overall: float
    tasks: Mapping[str, float]
    means: Mapping[str, float]


class Baseline(NamedTuple):
    """Answers that need no video: what a score is worth.

    Attributes:
        name: In files.
        label: In tables.
        answers: By question id; questions that are left out score 0.
    """

    name: str
    label: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Questions:
    """Questions that a benchmark brings along.

    Attributes:
        records: The questions.
        media: The image or video of each question, by ``record.key``.
        digest: SHA-256 of all that is asked, media included.
        source: Where they come from, for messages.
    """

    records: tuple[Record, ...]
    media: Mapping[str, Path]
    digest: str
    source: str

    def video_path(self, record: Record) -> Path:
        """The image or video of a question."""
        return self.media[record.key]


class Benchmark(Plugin, ABC):
    """A benchmark plugin. Only :meth:`score` must be written; all else has a default.

    Attributes:
        scorers: Scoring rules by name, the default first.
        tasks: Tasks in the order of tables; without any, every question type is a task.
        means: Heads of the columns of further means, by name; :meth:`figures` computes them.
        average: What the headline score is, in words.
        means_caption: What the further means are, in words.
        cluster: What questions of one cluster share, in one word such as "room".
        types: The question types that its records may have, and what their truths must be; None: VSI-Bench's.
        own_questions: Whether it always brings questions of its own, so that it cannot be the headline.
        published: Whether the published results of VSI-Bench are scores on such questions.
        corrects: The benchmark whose labels it corrects; empty for others.
        budget: The name of the data set whose truths hold for a number of frames, with ``{frames}`` for that number or
            ``all``; empty where truths do not depend on it.
    """

    plugin_group: ClassVar[str] = "benchmarks"
    scorers: ClassVar[Mapping[str, ScoringRule]] = {"default": ScoringRule("the benchmark's own rule")}
    tasks: ClassVar[tuple[Task, ...]] = ()
    means: ClassVar[Mapping[str, str]] = {}
    average: ClassVar[str] = "the plain mean over the questions"
    means_caption: ClassVar[str] = ""
    cluster: ClassVar[str] = "cluster"
    types: ClassVar[Mapping[str, QuestionType] | None] = None
    own_questions: ClassVar[bool] = False
    published: ClassVar[bool] = False
    corrects: ClassVar[str] = ""
    budget: ClassVar[str] = ""

    # ------------------------------------------------------------------ what is asked, and how

    def questions(self) -> Questions | None:
        """Questions of its own; None for those of the study's ``data.benchmark``.

        Raises:
            UserError: They cannot be read.
        """
        return None

    def words(self, record: Record) -> str | None:
        """The words after the image or video, the same for every method; None for those of the study's prompt mode."""
        return None

    def wording(self, record: Record) -> Wording:
        """Its own words around a question, in the prompt modes official and cot; VSI-Bench's by default."""
        return OFFICIAL

    def pixels(self) -> tuple[int, int] | None:
        """Least and most pixels (height x width) if the media are still images; None for the study's videos."""
        return None

    def title(self, records: Sequence[Record], source: str = "") -> str:
        """What tables call it when these records, read from a source, are asked."""
        return type(self).__name__

    # ------------------------------------------------------------------ how it is scored

    @abstractmethod
    def score(self, answer: str, record: Record, scorer: str) -> ItemScore:
        """Score one answer, as the model gave it, by one of :attr:`scorers`."""

    def read(self, answer: str, record: Record, scorer: str) -> float | str | None:
        """What one of :attr:`scorers` takes for the answer, None where it takes nothing; rewards go by it.

        By default the option, the words or the number (as one of VSI-Bench's scorers reads it) to which :meth:`score`
        would give full marks if it were the truth.

        Returns:
            As :meth:`harness.api.Reward.read`.
        """
        if record.is_numeric:
            possible = [rule.read(answer, record) for rule in SCORERS.values()]
        else:
            possible = list(LETTERS[: len(record.options)] if record.options else [record.ground_truth])
        for truth in possible:
            asked = record.model_copy(update={"ground_truth": str(truth)})
            if truth is not None and self.score(answer, asked, scorer).score >= 1:
                return truth if record.is_numeric or record.options else normalise(record.ground_truth)
        words = "" if record.is_numeric or record.options else normalise(answer)
        return words if words and words != normalise(record.ground_truth) else None

    def question_scores(
        self, records: Sequence[Record], answers: Mapping[str, str], scorer: str
    ) -> Sequence[QuestionScore]:
        """The score of every question, in the order of the records.

        Args:
            records: The questions.
            answers: By ``record.key``; a question without one scores 0.
            scorer: One of :attr:`scorers`.
        """
        return [
            QuestionScore(record.key, record.question_type, record.room, *self._item(answers, record, scorer))
            for record in records
        ]

    def figures(self, types: Sequence[str], scores: Sequence[float]) -> Figures:
        """Average the scores (0 to 1) of questions of these types.

        Every figure must be a weighted mean of question scores whose weights depend on the types alone; the weights
        behind every interval and test are read off this method. By default all are plain means over questions.
        """
        members: dict[str, list[float]] = {task.name: [] for task in self.tasks_of(types)}
        names = {kind: self.task_of(kind) for kind in set(types)}
        for kind, score in zip(types, scores, strict=True):
            members[names[kind]].append(score)
        return Figures(100 * mean(scores), {task: 100 * mean(found) for task, found in members.items()}, {})

    def weights(self, counts: Mapping[str, int]) -> tuple[list[str], NDArray[np.float64]]:
        """The weight of every question type's mean score in the overall score and in each task.

        Args:
            counts: Number of questions by type.

        Returns:
            The tasks present, and an array of shape (1 + tasks, types): first the overall score, then the tasks.
        """
        types = [kind for kind, n in counts.items() for _ in range(n)]
        columns = [self.figures(types, [float(one == kind) for one in types]) for kind in counts]
        rows = [[column.overall, *column.tasks.values()] for column in columns]
        return list(columns[0].tasks), np.array(rows).T / 100

    def baselines(self, records: Sequence[Record], train: Sequence[Record] | None) -> Sequence[Baseline]:
        """Answers that need no video, fitted on the training records if there are any."""
        return ()

    # ------------------------------------------------------------------ derived

    def check_budget(self, records: Sequence[Record], frames: int) -> None:
        """Refuse questions whose truths hold for another number of frames than is shown.

        Raises:
            UserError: They do; the message names the numbers.
        """
        if not self.budget:
            return
        form = re.compile(re.escape(self.budget).replace(re.escape("{frames}"), r"(\w+)"))
        named = {record.dataset: form.fullmatch(record.dataset) for record in records}
        if strange := [dataset for dataset, found in named.items() if found is None]:
            raise UserError(
                f"{self.title(records)}: its questions are about {first_few(strange)}, which does not say for how many "
                f"frames their truths hold; prepare it again, or name the data set {self.budget}"
            )
        told = {found[1] for found in named.values() if found}
        if wrong := sorted(told - {str(frames), "all"}):
            raise UserError(
                f"{self.title(records)}: its truths hold for {' and '.join(wrong)} frames, and {frames} are shown "
                f"(data.frames); name the split for {frames} frames or the one for all (FOLDER#all_frame), or show as "
                "many frames"
            )

    @property
    def default_scorer(self) -> str:
        """The first of :attr:`scorers`."""
        return next(iter(self.scorers))

    def scorer_named(self, name: str | None, asked: str = "--scorer") -> str:
        """A scorer's name; the default's for None.

        Raises:
            UserError: There is none of this name.
        """
        if name is not None and name not in self.scorers:
            raise unknown_name(f"{asked} {name}", name, self.scorers)
        return name or self.default_scorer

    def task_of(self, question_type: str) -> str:
        """The name of the task that a question type belongs to.

        Raises:
            UserError: The benchmark declares its tasks, and no task has this type; or the name is reserved.
        """
        if not self.tasks:
            if question_type == "overall":
                raise UserError("a question type cannot be called `overall`, as the headline score is; rename it")
            return question_type
        known = {kind: task.name for task in self.tasks for kind in task.types or (task.name,)}
        if question_type not in known:
            raise unknown_name(f"question_type {question_type}", question_type, known)
        return known[question_type]

    def tasks_of(self, types: Iterable[str]) -> list[Task]:
        """The tasks of these question types, in the order of tables."""
        present = {self.task_of(kind) for kind in set(types)}
        declared = [task for task in self.tasks if task.name in present]
        return declared or [Task(name, name, name) for name in sorted(present)]

    def ordered_types(self, types: Iterable[str]) -> list[str]:
        """Distinct question types in the order of tables."""
        declared = [kind for task in self.tasks for kind in task.types or (task.name,)]
        return sorted(set(types), key=lambda kind: (declared.index(kind) if kind in declared else len(declared), kind))

    def _item(self, answers: Mapping[str, str], record: Record, scorer: str) -> ItemScore:
        answer = answers.get(record.key)
        return ItemScore(0.0, False) if answer is None else self.score(answer, record, scorer)


def check_ids(records: Sequence[Record], answers: Mapping[str, object]) -> None:
    """Refuse answers that are not about these records.

    Raises:
        UserError: An id occurs twice among the records, or an answer is for an unknown id.
    """
    repeated = [key for key, n in Counter(record.key for record in records).items() if n > 1]
    if repeated:
        raise UserError(f"{len(repeated)} ids occur more than once in the benchmark: {first_few(repeated)}")
    unknown = sorted(answers.keys() - {record.key for record in records})
    if unknown:
        raise UserError(
            f"{len(unknown)} answers are for ids that the benchmark does not have: {first_few(unknown)}; "
            "score them against the file they were made for"
        )
