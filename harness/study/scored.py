"""The scores of an evaluation's answers by every scorer: written by who has the benchmark's code, read without it.

Answers are scored where the study is computed; a report only reads. So a report imports no plugin, whatever a run
directory names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from harness.api.benchmark import Benchmark, Figures, QuestionScore
from harness.config.evaluation import DEVELOPMENT
from harness.config.study import StudyConfig
from harness.data.reader import Dataset
from harness.errors import UserError, first_few
from harness.io import digest_of, read_sealed, write_sealed
from harness.plugins import registry
from harness.plugins.source import source_digest
from harness.vsibench.prompts import answer_in
from harness.vsibench.records import Record

SCORES = "scores.json"
AGAIN = "To score the answers again, run `harness compare` again, with the run directory's study.toml"

OWN_WORDS = "official"
"""The prompt mode of questions with words of their own: no part of the answer is set apart by tags."""

Number = Annotated[float, Field(strict=True)]


class Recorded(BaseModel):
    """A part of what a run directory records for its report."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Points(Recorded):
    """The figures of one set of answers, as the benchmark averaged them; None where there is nothing to average.

    Attributes:
        overall: As in :class:`harness.api.benchmark.Figures`.
        tasks: Likewise.
        means: Likewise.
        unparsable: Percent of the answers that the scorer could not parse.
    """

    overall: Number | None
    tasks: dict[str, Number | None]
    means: dict[str, Number | None]
    unparsable: Number

    @staticmethod
    def of(benchmark: Benchmark, scores: Sequence[QuestionScore]) -> Points:
        """Average the scores of one set of answers."""
        found = benchmark.figures([one.type for one in scores], [one.score for one in scores])
        parsed = sum(bool(one.parsed) for one in scores) / len(scores)
        return Points(
            overall=_none(found.overall),
            tasks={name: _none(value) for name, value in found.tasks.items()},
            means={name: _none(value) for name, value in found.means.items()},
            unparsable=100 * (1 - parsed),
        )

    @staticmethod
    def mean(found: Sequence[Points]) -> Points:
        """The mean of the figures of several checkpoints; None where one of them has none."""

        def of(values: Sequence[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return math.fsum(known) / len(values) if len(known) == len(values) else None

        return Points(
            overall=of([one.overall for one in found]),
            tasks={name: of([one.tasks.get(name) for one in found]) for name in found[0].tasks},
            means={name: of([one.means.get(name) for one in found]) for name in found[0].means},
            unparsable=math.fsum(one.unparsable for one in found) / len(found),
        )

    @property
    def figures(self) -> Figures:
        """The figures, NaN where there is nothing to average."""
        tasks, means = ({name: _nan(value) for name, value in of.items()} for of in (self.tasks, self.means))
        return Figures(_nan(self.overall), tasks, means)


class Scores(Recorded):
    """The scores of one evaluation by one scorer, in the order of the benchmark's questions.

    Attributes:
        scores: Of each question, 0 to 1.
        parsed: A digit for each question: 1 if the scorer could read an answer.
        points: Their figures.
    """

    scores: tuple[Number, ...]
    parsed: str = Field(pattern="^[01]*$")
    points: Points


class Scored(Recorded):
    """``scores.json``, next to the answers.

    Attributes:
        samples: SHA-256 of the answers.
        rules: What they were scored by, :attr:`Rules.digest`.
        by: By scorer.
    """

    samples: str
    rules: str
    by: dict[str, Scores]


@dataclass(frozen=True)
class Rules:
    """A benchmark of a study at work.

    Attributes:
        name: Its registered name, or ``development`` for the headline's rules on the development records.
        benchmark: The benchmark.
        records: Its questions.
        digest: SHA-256 of its code, its options and its questions.
    """

    name: str
    benchmark: Benchmark
    records: Sequence[Record]
    digest: str

    @staticmethod
    def of(study: StudyConfig, name: str, dataset: Dataset, questions: str) -> Rules:
        """A benchmark of a study.

        Args:
            study: The study.
            name: One of :attr:`~harness.config.sections.EvaluationSection.asked`.
            dataset: The records of ``data.benchmark``, or the development records.
            questions: The digest of what the benchmark asks, see :func:`harness.study.identity.question_digests`.
        """
        options = study.evaluation.more.get(name, {})
        benchmark = benchmark_of(study, name)
        own = benchmark.questions()
        code = source_digest(type(benchmark), answer_in)
        return Rules(name, benchmark, own.records if own else dataset.records, digest_of([code, options, questions]))

    @property
    def own_words(self) -> bool:
        """Whether questions have words of their own."""
        return any(self.benchmark.words(record) for record in self.records)

    def score(self, answers: Mapping[str, str], where: Path) -> dict[str, Scores]:
        """Score the answers of one evaluation by every scorer.

        Args:
            answers: The part of each answer that is scored, by question.
            where: The evaluation, for messages.

        Raises:
            UserError: The answers are not those of the questions, or a score is no number.
        """
        refuse_others([record.key for record in self.records], answers, where)
        return {name: self._by(name, answers) for name in self.benchmark.scorers}

    def _by(self, scorer: str, answers: Mapping[str, str]) -> Scores:
        scored = self.benchmark.question_scores(self.records, answers, scorer)
        for one in scored:
            if not math.isfinite(one.score):
                raise UserError(f"benchmark {self.name}: the scorer {scorer} gives {one.score} for {one.question}")
        return Scores(
            scores=tuple(int(one.score) if one.score in (0, 1) else float(one.score) for one in scored),
            parsed="".join("1" if one.parsed else "0" for one in scored),
            points=Points.of(self.benchmark, scored),
        )


def benchmark_of(study: StudyConfig, name: str) -> Benchmark:
    """The benchmark behind one of a study's sets of questions: the development records have the headline's rules."""
    section = study.evaluation
    found: Benchmark = registry.create(
        "benchmarks", section.benchmark if name == DEVELOPMENT else name, section.more.get(name, {})
    )
    return found


def scorer_of(study: StudyConfig, name: str, benchmark: Benchmark) -> str:
    """The scorer behind the score on one of a study's sets of questions; the study names the headline's."""
    section = study.evaluation
    return benchmark.scorer_named(section.scorer if name in (section.benchmark, DEVELOPMENT) else None)


def refuse_others(questions: Sequence[str], answers: Iterable[str], where: Path) -> None:
    """Refuse answers that are not one to each of these questions.

    Raises:
        UserError: A question has no answer, or an answer no question.
    """
    answered = set(answers)
    if lacking := [question for question in questions if question not in answered]:
        raise UserError(f"`{where}`: {len(lacking)} questions have no answer, the first is {lacking[0]}")
    if unknown := answered - set(questions):
        raise UserError(f"`{where}`: {len(unknown)} answers are to unknown questions: {first_few(sorted(unknown))}")


def write_scores(folder: Path, scored: Scored) -> None:
    """Write an evaluation's scores."""
    write_sealed(folder / SCORES, scored.model_dump(mode="json"))


def read_scores(folder: Path, samples: str | None) -> Scored:
    """Read an evaluation's scores.

    Args:
        folder: The evaluation's.
        samples: SHA-256 of its answers.

    Raises:
        UserError: They are missing, damaged or edited, or those of other answers.
    """
    if not (folder / SCORES).is_file():
        raise UserError(f"`{folder / SCORES}`: the answers are not scored. {AGAIN}")
    found = read_sealed(Scored, folder / SCORES, AGAIN)
    if found.samples != samples:
        raise UserError(f"`{folder / SCORES}`: these are the scores of other answers. {AGAIN}")
    return found


def _none(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
