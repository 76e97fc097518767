"""What a run directory says about its study for a report: names, titles, weights and baselines, not code.

``harness compare`` writes it with the user's plugins at hand. :class:`RecordedBenchmark` stands for the benchmark where
only the description is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from harness.api.benchmark import Benchmark, Figures, ScoringRule, Task
from harness.api.guest import GuestTrainer
from harness.config.evaluation import DEVELOPMENT
from harness.config.study import BASE, StudyConfig
from harness.config.variants import SECTIONS, get, parse_variant
from harness.data.reader import Dataset
from harness.errors import UserError, first_few
from harness.io import digest_of, read_sealed, sealed_text
from harness.outputs import Outputs
from harness.study.asked import digest_of_questions
from harness.study.matrix import AGAIN, DESCRIPTION, STUDY_FILE
from harness.study.scored import Number, Points, Recorded, Rules, scorer_of
from harness.study.setup import benchmark_source
from harness.vsibench.records import Record
from harness.vsibench.scorers import ItemScore


class DescribedMethod(Recorded):
    """A method of a study, or the base model.

    Attributes:
        label: What tables call it.
        settings: Its hyper-parameters and the shared settings that it overrides, in words.
        mode: The prompt mode of its evaluation.
        tokens: The token limit of its answers.
        two_turns: Whether it answers in two turns.
        tuning: Where the values of its tuned keys are from, in words; empty where nothing is known of it.
        remarks: Of a guest: how its loop differs from the engine's.
    """

    label: str
    settings: str
    mode: str
    tokens: int
    two_turns: bool
    tuning: str = ""
    remarks: tuple[str, ...] = ()


class DescribedTraining(Recorded):
    """The training records: their number, digest, and what the report says of them."""

    n: int
    digest: str
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


class DescribedQuestions(Recorded):
    """The questions of ``data.benchmark``, as :class:`harness.data.reader.Dataset` has them."""

    root: Path
    split: str
    videos: Path | None
    records: tuple[Record, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.root, self.split, self.records, self.skipped, self.videos, self.notes)


class DescribedBaseline(Recorded):
    """Answers that need no video: their label, and their figures by scorer."""

    label: str
    points: dict[str, Points]


class DescribedBenchmark(Recorded):
    """A benchmark, with the attributes of :class:`harness.api.benchmark.Benchmark` under their names.

    Attributes:
        title: What tables call it.
        rules: What answers are scored by, :attr:`harness.study.scored.Rules.digest`.
        asked: Digest of its questions, :func:`harness.study.asked.digest_of_questions`.
        own_words: Whether its questions have words of their own.
        published: As the benchmark has it.
        corrects: Likewise.
        scorer: The scorer behind every table.
        questions: Their ids, in order.
        types: The type of each.
        clusters: The cluster of each.
        kinds: The distinct types, in the order of the weights' columns.
        weighed: The tasks of the weights' rows after the first, which is the overall score.
        weights: As :meth:`harness.api.benchmark.Benchmark.weights` gives them.
        baselines: By name.
    """

    title: str
    rules: str
    asked: str
    own_words: bool
    scorers: dict[str, ScoringRule]
    scorer: str
    tasks: tuple[Task, ...]
    means: dict[str, str]
    average: str
    means_caption: str
    cluster: str
    published: bool = False
    corrects: str = ""
    questions: tuple[str, ...] = Field(min_length=1)
    types: tuple[str, ...]
    clusters: tuple[str, ...]
    kinds: tuple[str, ...]
    weighed: tuple[str, ...]
    weights: tuple[tuple[Number, ...], ...]
    baselines: dict[str, DescribedBaseline]

    @model_validator(mode="after")
    def _fits_together(self) -> DescribedBenchmark:
        n = len(self.questions)
        shape = [len(self.kinds)] * (1 + len(self.weighed))
        if not n == len(set(self.questions)) == len(self.types) == len(self.clusters):
            raise ValueError("each question has one id, one type and one cluster")
        if set(self.types) != set(self.kinds) or [len(row) for row in self.weights] != shape:
            raise ValueError("the weights are not those of the types")
        if self.scorer not in self.scorers:
            raise ValueError("the scorer is not among the scorers")
        if any(set(one.points) != set(self.scorers) for one in self.baselines.values()):
            raise ValueError("the baselines are not scored by the scorers")
        return self


class Description(Recorded):
    """``description.json`` of a run directory.

    Attributes:
        study: Digest of the study.
        methods: The base model and the study's methods, in order.
        train: The training records.
        benchmark: The questions of ``data.benchmark``.
        benchmarks: By name, the headline first; the development records under ``development``.
    """

    study: str
    methods: dict[str, DescribedMethod]
    train: DescribedTraining
    benchmark: DescribedQuestions
    benchmarks: dict[str, DescribedBenchmark]


class RecordedBenchmark(Benchmark):
    """A benchmark whose code is not at hand: it names, groups and weighs questions, and scores nothing.

    Attributes:
        name: Its registered name.
        described: What is known of it.
    """

    def __init__(self, name: str, described: DescribedBenchmark) -> None:
        super().__init__()
        self.name, self.described = name, described
        copied = ("scorers", "tasks", "means", "average", "means_caption", "cluster", "published", "corrects")
        vars(self).update({key: getattr(described, key) for key in copied})

    def title(self, records: Sequence[Record], source: str = "") -> str:
        return self.described.title

    def score(self, answer: str, record: Record, scorer: str) -> ItemScore:
        raise TypeError(f"{self.name}: its answers were scored where its code was")

    def figures(self, types: Sequence[str], scores: Sequence[float]) -> Figures:
        raise TypeError(f"{self.name}: its scores were averaged where its code was")

    def weights(self, counts: Mapping[str, int]) -> tuple[list[str], NDArray[np.float64]]:
        """The recorded weights, of exactly the recorded questions."""
        told = self.described
        if dict(counts) != {kind: told.types.count(kind) for kind in told.kinds}:
            raise UserError(f"{self.name}: the answers are not to the {len(told.questions)} questions of {DESCRIPTION}")
        columns = np.array(told.weights)[:, [told.kinds.index(kind) for kind in counts]]
        # In memory as the benchmark itself lays them out: products of matrices round alike.
        return list(told.weighed), np.ascontiguousarray(columns)


def describe(study: StudyConfig, train: Dataset, benchmark: Dataset, rules: Sequence[Rules]) -> Description:
    """Describe a study.

    Args:
        study: The study.
        train: Its training records.
        benchmark: The records of ``data.benchmark``.
        rules: Its benchmarks, the headline first.
    """
    videos = None if benchmark.videos is None else benchmark.videos.resolve()
    return Description(
        study=_digest(study),
        methods={method: _method(study, method) for method in (BASE, *study.methods)},
        train=DescribedTraining(n=len(train.records), digest=train.digest, skipped=train.skipped, notes=train.notes),
        benchmark=DescribedQuestions(
            root=benchmark.root.resolve(),
            split=benchmark.split,
            videos=videos,
            records=benchmark.records,
            skipped=benchmark.skipped,
            notes=benchmark.notes,
        ),
        benchmarks={one.name: _benchmark(study, one, train) for one in rules},
    )


def write_description(run_dir: Path, description: Description) -> None:
    """Write a run directory's description."""
    Outputs(run_dir).write(DESCRIPTION, sealed_text(description.model_dump(mode="json")).encode())


def read_description(run_dir: Path, study: StudyConfig) -> Description:
    """Read a run directory's description.

    Raises:
        UserError: It is missing, damaged, edited, or not of this study.
    """
    path, fix = run_dir / DESCRIPTION, f"Delete it and {AGAIN}"
    if not path.is_file():
        raise UserError(f"`{run_dir}`: it has no {DESCRIPTION}, which a report is made from. To make it, {AGAIN}")
    found = read_sealed(Description, path, fix)
    section = study.evaluation
    _refuse_other(path, "methods", found.methods, (BASE, *study.methods), fix)
    _refuse_other(path, "benchmarks", found.benchmarks, section.asked, fix)
    if found.study != _digest(study):
        raise UserError(
            f"`{run_dir / STUDY_FILE}`: edited, or another study than {DESCRIPTION} describes. Delete both and {AGAIN}"
        )
    return found


def _digest(study: StudyConfig) -> str:
    return digest_of(study.model_dump(mode="json"))


def _refuse_other(path: Path, what: str, found: Collection[str], asked: Collection[str], fix: str) -> None:
    if other := set(found) ^ set(asked):
        raise UserError(f"`{path}`: its {what} are not those of the study: {first_few(sorted(other))}. {fix}")


def _method(study: StudyConfig, method: str) -> DescribedMethod:
    own = study if method == BASE else study.for_method(method)
    told = {
        "mode": own.prompt.evaluation,
        "tokens": own.evaluation.max_new_tokens,
        "two_turns": own.evaluation.two_turns,
    }
    if method == BASE:
        return DescribedMethod(label=study.model.name, settings="", **told)
    algorithm = study.algorithm(method)
    changed = {
        f"{section}.{key}": value
        for section in SECTIONS
        for key, value in getattr(own, section).model_dump().items()
        if value != getattr(getattr(study, section), key)
    }
    settings = algorithm.config.model_dump() | changed
    return DescribedMethod(
        label=study.label(method),
        settings=", ".join(f"{key} = {value}" for key, value in settings.items()) or "none",
        tuning=_tuning(study, method, getattr(algorithm, "counterpart", ""), algorithm.config.model_dump()),
        remarks=tuple(algorithm.remarks) if isinstance(algorithm, GuestTrainer) else (),
        **told,
    )


def _tuning(study: StudyConfig, method: str, counterpart: str, options: Mapping[str, Any]) -> str:
    """Whether a method runs with the values that tuning chose for it, or for the method that it is a guest's twin of.

    Args:
        study: The study.
        method: The method or variant.
        counterpart: A guest's twin among the methods, or empty.
        options: The method's own hyper-parameters.
    """
    own = study.for_method(method)
    used = {**options, **{section: getattr(own, section).model_dump() for section in SECTIONS}}
    tuned = next((name for name in (parse_variant(method).method, counterpart) if name in study.tune.done), None)
    if tuned is None:
        return ""
    done = study.tune.done[tuned]
    if any(get(used, key) != value for key, value in done.chosen.items()):
        return "set by hand"
    trials = f"{done.trials} {'trial' if done.trials == 1 else 'trials'}"
    return trials if method == tuned else f"values chosen for {tuned} in {trials}"


def _benchmark(study: StudyConfig, rules: Rules, train: Dataset) -> DescribedBenchmark:
    benchmark, records = rules.benchmark, rules.records
    development = study.evaluation.development if rules.name == DEVELOPMENT else None
    source = development or benchmark_source(study.data)
    asked = benchmark.question_scores(records, {}, benchmark.default_scorer)
    types = [one.type for one in asked]
    kinds = benchmark.ordered_types(types)
    weighed, weights = benchmark.weights({kind: types.count(kind) for kind in kinds})
    return DescribedBenchmark(
        title=benchmark.title(records, source),
        rules=rules.digest,
        asked=digest_of_questions(records),
        own_words=rules.own_words,
        scorers=dict(benchmark.scorers),
        scorer=scorer_of(study, rules.name, benchmark),
        tasks=tuple(benchmark.tasks),
        means=dict(benchmark.means),
        average=benchmark.average,
        means_caption=benchmark.means_caption,
        cluster=benchmark.cluster,
        published=benchmark.published,
        corrects=benchmark.corrects,
        questions=tuple(one.question for one in asked),
        types=tuple(types),
        clusters=tuple(one.cluster for one in asked),
        kinds=tuple(kinds),
        weighed=tuple(weighed),
        weights=tuple(tuple(map(float, row)) for row in weights),
        baselines={
            name: DescribedBaseline(label=label, points=points_by_scorer(benchmark, records, answers))
            for name, label, answers in benchmark.baselines(records, train.records)
        },
    )


def points_by_scorer(benchmark: Benchmark, records: Sequence[Record], answers: Mapping[str, str]) -> dict[str, Points]:
    """The figures of one set of answers by every scorer."""
    return {name: Points.of(benchmark, benchmark.question_scores(records, answers, name)) for name in benchmark.scorers}
