"""Benchmarks that are data: a description says all, and :class:`Described` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.api.benchmark import Baseline, Benchmark, Figures, Questions, ScoringRule, Task
from harness.api.config import StrictConfig
from harness.benchmarks.description import Description, QuestionType, read_description
from harness.benchmarks.readings import READINGS
from harness.data.reader import read_dataset
from harness.data.sources import resolve_source
from harness.errors import UserError
from harness.vsibench.baselines import constant_answers, text_prior_answers
from harness.vsibench.prompts import Wording
from harness.vsibench.records import Record
from harness.vsibench.scorers import ItemScore, Scorer
from harness.vsibench.scoring import mean, task_scores, task_weights

_CACHE = Path("cache")
"""Where digests of videos are kept, as by default ``runtime.cache``."""

_AVERAGES = {
    "tasks": "the unweighted mean of the tasks, each the mean of its types",
    "questions": "the plain mean over the questions",
}


class DescribedConfig(StrictConfig):
    """Where its questions are."""

    file: str | None = Field(
        None,
        description="Its own questions, a prepared folder (FOLDER#SPLIT) or a file; without, those of data.benchmark.",
    )


class Described(Benchmark):
    """A benchmark whose rules are a description's: types and metrics, tasks, mean, prompts, clusters.

    Attributes:
        description: The description; it fills all other attributes.
    """

    Config: ClassVar[type[StrictConfig]] = DescribedConfig
    description: ClassVar[Description]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if told := vars(cls).get("description"):
            cls._describe(told)

    @classmethod
    def _describe(cls, told: Description) -> None:
        cls.summary = told.summary
        rules = {name: READINGS[rule] for name, rule in told.scorers.items()}
        cls.scorers = {name: ScoringRule(rule.summary, rule.version) for name, rule in rules.items()}
        cls.tasks = tuple(_task(one.name, one.title, one.head, one.types) for one in told.tasks)
        cls.means = {name: one.head for name, one in told.means.items()}
        cls.average = told.average_words or _AVERAGES[told.average]
        cls.means_caption = told.means_caption
        cls.cluster = told.cluster
        cls.types = told.types
        cls.corrects = told.corrects
        cls.budget = told.budget

    def questions(self) -> Questions | None:
        """Those of the option ``file``; the digest covers the videos."""
        return None if self.config.file is None else self._questions

    @cached_property
    def _questions(self) -> Questions:
        from harness.data.contents import content_digest
        from harness.data.video.cache import FrameCache
        from harness.data.video.frames import VideoSettings

        root, split = resolve_source(self.config.file, _CACHE)
        data = read_dataset(root, split, types=self.types)
        media = {record.key: data.video_path(record) for record in data.records}
        cache = FrameCache(_CACHE / "frames", VideoSettings(min_pixels=28 * 28, max_pixels=28 * 28))
        digest = content_digest(data, cache)
        return Questions(data.records, media, digest, self.config.file)

    def wording(self, record: Record) -> Wording:
        return self.description.wording(record)

    def title(self, records: Sequence[Record], source: str = "") -> str:
        """Its name, with the number of questions where these are not all that were published."""
        told = self.description
        published = told.publication.questions if told.publication else None
        if published is None or published == len(records):
            return told.title
        return f"{told.title} ({len(records):,} of its {published:,} questions)"

    def score(self, answer: str, record: Record, scorer: str) -> ItemScore:
        """What the answer is worth by the metric of its type, as one of :attr:`scorers` reads it.

        Raises:
            UserError: The record is of no type of the benchmark, or needs a number as its truth.
        """
        kind, rule = self._type(record), self._rule(record, scorer)
        if record.is_numeric:
            found = rule.read(answer, record)
            return ItemScore(kind.worth(found, record), found is not None)
        parsed = rule.parse(answer, record)
        return ItemScore(kind.worth(parsed, record), parsed is not None)

    def read(self, answer: str, record: Record, scorer: str) -> float | str | None:
        """As the same rules read it; a subclass with a score of its own reads what that one does."""
        if type(self).score is not Described.score:
            return super().read(answer, record, scorer)
        return self._rule(record, scorer).read(answer, record)

    def figures(self, types: Sequence[str], scores: Sequence[float]) -> Figures:
        """The overall score, the tasks and the further means, as the description averages them."""
        if self.description.average == "tasks":
            return self.figures_of(task_scores(types, scores, self.description.members))
        plain = super().figures(types, scores)
        tasks = [self.task_of(kind) for kind in types]
        means = {
            name: 100 * mean(score for task, score in zip(tasks, scores, strict=True) if task in one.tasks)
            for name, one in self.description.means.items()
        }
        return plain._replace(means=means)

    def figures_of(self, tasks: Mapping[str, float]) -> Figures:
        """The overall score and further means of task scores, where the overall score is the mean of the tasks."""
        means = {
            name: mean(value for task, value in tasks.items() if task in one.tasks)
            for name, one in self.description.means.items()
        }
        return Figures(mean(tasks.values()), tasks, means)

    def weights(self, counts: Mapping[str, int]) -> tuple[list[str], NDArray[np.float64]]:
        """By the description's average: of types in tasks in the overall score, or of questions."""
        if self.description.average == "tasks":
            return task_weights(list(counts), self.description.members)
        return super().weights(counts)

    def baselines(self, records: Sequence[Record], train: Sequence[Record] | None) -> Sequence[Baseline]:
        """A constant answer for each type, and the best answers from the words of the question alone."""
        if train is None:
            label = "Constant answer, best on this benchmark"
            return (Baseline("constant", label, constant_answers(records, records)),)
        return (
            Baseline("constant", "Constant answer", constant_answers(train, records)),
            Baseline("text-prior", "Text only, no video", text_prior_answers(train, records)),
        )

    def _type(self, record: Record) -> QuestionType:
        self.task_of(record.question_type)  # which names the nearest
        if record.question_type not in self.description.types:
            raise UserError(f"record {record.key}: {self.description.name} has no type {record.question_type}")
        return self.description.types[record.question_type]

    def _rule(self, record: Record, scorer: str) -> Scorer:
        kind = self.description.types.get(record.question_type)
        return READINGS[self.description.scorers[scorer]].in_unit(kind.unit if kind else None)


def from_file(path: Path) -> type[Described]:
    """The benchmark of a description's file.

    Raises:
        UserError: As :func:`harness.benchmarks.description.read_description`.
    """
    told = read_description(path)
    return type(_class_name(told.name), (Described,), {"description": told, "name": told.name, "__doc__": told.summary})


def _task(name: str, title: str, head: str, types: tuple[str, ...]) -> Task:
    title = title or name.replace("_", " ").capitalize()
    return Task(name, title, head or title, types)


def _class_name(name: str) -> str:
    return "".join(map(str.capitalize, name.split("-")))
