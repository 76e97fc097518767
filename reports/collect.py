"""Gathering a run directory into tables of scored answers; refuses to mix what must not be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.config.evaluation import DEVELOPMENT, EvaluationSection
from harness.config.study import BASE, StudyConfig
from harness.data.reader import Dataset
from harness.errors import UserError, first_few
from harness.io import read_as
from harness.study.asked import SAMPLES, EvaluationManifest
from harness.study.declared import Declaration, read_declaration
from harness.study.description import (
    DescribedBenchmark,
    DescribedTraining,
    Description,
    RecordedBenchmark,
    read_description,
)
from harness.study.evaluation import read_samples
from harness.study.finished import read_finished
from harness.study.looks import cells_until, look_reached
from harness.study.matrix import (
    AGAIN,
    CELLS,
    DESCRIPTION,
    MATRIX_FILE,
    STUDY_FILE,
    Matrix,
    MatrixRow,
    read_consumption,
    read_matrix,
)
from harness.study.scored import AGAIN as SCORE_AGAIN
from harness.study.scored import OWN_WORDS, SCORES, Points, Scored, read_scores, refuse_others
from harness.study.setup import ENVIRONMENT_FILE, Environment
from harness.study.status import State, read_status
from harness.train.meter import COMPUTE_FILE, Consumption
from harness.train.tracking import METRICS_FILE, Misses, misses, read_metrics
from harness.vsibench.prompts import answer_in
from reports.checkpoints import DoneCell, reported_steps, step_number

MODE_KEYS = ("prompts", "decoding")
"""Parts of an evaluation's identity that a variant's prompt mode and token limit decide."""

SECOND_TURN = "\n\n[asked for the answer alone]\n"
"""Between the two raw answers of an evaluation in two turns, where they are shown."""


@dataclass(frozen=True)
class CellResult:
    """The outcome of one cell.

    Attributes:
        cell: Its id.
        method: ``base`` or a method.
        seed: The repetition.
        state: Its status.
        reason: Why, when it is not done.
        identity: The evaluation's identity of its reported checkpoint, of the last of several; or empty.
        reported: The steps of its reported checkpoints: one, or those whose mean is reported.
        consumed: What training consumed, or None.
        environment: Versions and machine, or None.
        weights: What identifies the weights of each evaluated checkpoint, by its folder's name.
        misses: How many answers the scorer missed in training, None where none were sampled.
    """

    cell: str
    method: str
    seed: int
    state: str
    reason: str
    identity: dict[str, str]
    reported: tuple[int, ...]
    consumed: Consumption | None
    environment: Environment | None
    weights: Mapping[str, str] = field(default_factory=dict)
    misses: Misses | None = None


SCORED_BY = "score by "


def scored_by(scorer: str) -> str:
    """The column of the scores by a scorer that is not the headline's."""
    return f"{SCORED_BY}{scorer}"


@dataclass(frozen=True)
class Evaluated:
    """What a study's checkpoints answered to one benchmark.

    Attributes:
        benchmark: What is recorded of it.
        scorer: The scorer behind ``score``.
        answers: One row an answer: method, model, seed, step, question, type, cluster, score, parsed, truncated,
            prompt (its id), answer (raw text), read (the part that is scored: in a tag mode, the answer tag's content);
            ``reported`` marks the reported checkpoints; the other scorers' scores are in columns by
            :func:`scored_by`.
        points: The figures by every scorer, by (method, seed, step).
    """

    benchmark: RecordedBenchmark
    scorer: str
    answers: pd.DataFrame
    points: Mapping[tuple[str, int, int], Mapping[str, Points]]

    @property
    def reported(self) -> pd.DataFrame:
        """The answers of every run's reported checkpoint, one a question.

        Where the mean of several is reported: the answers of the last, with the means of score, parsed and truncated.
        """
        means, shown = self.answers[self.answers["reported"]], self.shown
        if len(means) == len(shown):
            return shown
        keys, averaged = ["method", "seed", "question"], ["score", "parsed", "truncated"]
        averaged += [name for name in map(str, means) if name.startswith(SCORED_BY)]
        found = means.astype({"parsed": float, "truncated": float}).groupby(keys, observed=True)[averaged].mean()
        return shown.drop(columns=averaged).join(found, on=keys)[list(shown)]

    @property
    def shown(self) -> pd.DataFrame:
        """The answers of the reported checkpoint, of the last where the mean of several is reported."""
        found = self.answers[self.answers["reported"]]
        return found[found["step"] == found.groupby(["method", "seed"])["step"].transform("max")]

    @property
    def overall(self) -> dict[tuple[str, int, int], float]:
        """The overall score of every checkpoint, by (method, seed, step)."""
        return {run: by[self.scorer].figures.overall for run, by in self.points.items()}

    def points_of(self, method: str, seed: int) -> Mapping[str, Points]:
        """A run's reported figures by every scorer: those of its reported checkpoint, or the mean of several."""
        run = self.answers[
            self.answers["reported"] & (self.answers["method"] == method) & (self.answers["seed"] == seed)
        ]
        found = [self.points[method, seed, step] for step in run["step"].unique()]
        return {scorer: Points.mean([one[scorer] for one in found]) for scorer in found[0]}


@dataclass(frozen=True)
class Collected:
    """A study's results.

    Attributes:
        run_dir: The run directory.
        study: The resolved study.
        declared: What it declared and when; ``study.report`` has its pairs and margin.
        description: What the run directory says of its methods and benchmarks.
        test: Its evaluation records.
        seeds: Seeds of each method: of the last declared look whose cells are all done, else of the first.
        begun: Of the further cells of the next look, those that are done and all, if any of them has begun.
        cells: The base model's and those of these seeds, finished or not, in the matrix's order.
        headline: The headline benchmark's answers.
        additional: Those of additional benchmarks, by name; without those that no finished cell has answered.
        development: Those to the records that checkpoints are chosen by, where the study has some.
    """

    run_dir: Path
    study: StudyConfig
    declared: Declaration
    description: Description
    test: Dataset
    seeds: int
    begun: tuple[int, int] | None
    cells: list[CellResult]
    headline: Evaluated
    additional: dict[str, Evaluated] = field(default_factory=dict)
    development: Evaluated | None = None

    @property
    def train(self) -> DescribedTraining:
        """What is known of the training records."""
        return self.description.train

    def label(self, method: str) -> str:
        """What tables call a method."""
        return self.description.methods[method].label


class Mode(NamedTuple):
    """Prompt mode, token limit and number of turns that a method is evaluated with."""

    mode: str
    tokens: int
    two_turns: bool


def collect(run_dir: Path) -> Collected:
    """Read every finished cell of a run directory, and nothing else: neither data nor plugins that it names.

    Raises:
        UserError: It is not a run directory, a document of it is damaged, no cell has finished, or two evaluations
            differ in anything but their weights (the differing part is named).
    """
    matrix = read_matrix(run_dir)
    study = read_as(StudyConfig, run_dir / STUDY_FILE, f"Delete it and {AGAIN}")
    _check_matrix(matrix, study, run_dir)
    description = read_description(run_dir, study)
    declared = read_declaration(run_dir)
    declared.check(study, run_dir)
    study = study.model_copy(update={"report": declared.tests(study.report)})
    seeds, begun = look_reached(study, run_dir, matrix.cells)
    rows = cells_until(study, matrix.cells, seeds)
    section = study.evaluation
    done = {entry.id: _done(run_dir / CELLS / entry.id, entry, section.benchmark) for entry in rows}
    finished = [one for one in done.values() if one]
    development = _evaluated(DEVELOPMENT, description, finished, {}) if DEVELOPMENT in section.asked else None
    reported = {
        one.entry.id: reported_steps(one, section, development.overall if development else {}) for one in finished
    }
    cells = [_cell(run_dir / CELLS / entry.id, entry, done[entry.id], reported, section) for entry in rows]
    if not finished:
        states = "; ".join(f"{c.cell}: {c.state} {c.reason}".strip() for c in cells)
        raise UserError(f"`{run_dir}`: no cell has finished, so there is nothing to report ({states})")
    found = {name: _evaluated(name, description, finished, reported) for name in (section.benchmark, *section.more)}
    headline = found.pop(section.benchmark)
    assert headline is not None
    additional = {name: one for name, one in found.items() if one is not None}
    test = description.benchmark.dataset
    return Collected(
        run_dir, study, declared, description, test, seeds, begun, cells, headline, additional, development
    )


def _evaluated(
    name: str, description: Description, finished: Sequence[DoneCell], reported: Mapping[str, Sequence[str]]
) -> Evaluated | None:
    """The scored answers to one benchmark, given each cell's reported checkpoints; None without any."""
    told = description.benchmarks[name]
    modes_of = {m: Mode(one.mode, one.tokens, one.two_turns) for m, one in description.methods.items()}
    modes = {method: OWN_WORDS if told.own_words else of.mode for method, of in modes_of.items()}
    _refuse_unequal(finished, name, modes_of)
    _refuse_changed(finished, name, told)
    # A study may have a million answers.
    questions = pd.DataFrame(
        {"question": told.questions, "type": pd.Categorical(told.types), "cluster": pd.Categorical(told.clusters)}
    )
    frames, points = [], {}
    for done in finished:
        entry = done.entry
        for step in done.evaluations(name):
            samples = _samples(step, modes[entry.method], told)
            scored = _scores(step, told)
            by = scored.by[told.scorer]
            frame = questions.assign(score=np.array(by.scores, dtype=float), parsed=[one == "1" for one in by.parsed])
            others = {scored_by(name): np.array(one.scores, dtype=float) for name, one in scored.by.items()}
            frame = frame.assign(**{name: of for name, of in others.items() if name != scored_by(told.scorer)})
            frame = frame.join(samples[["truncated", "prompt", "answer", "read"]], on="question")
            number = step_number(step.name)
            frame = frame.assign(method=entry.method, model=entry.model, seed=entry.seed, step=number)
            frames.append(frame.assign(reported=step.name in reported.get(entry.id, ())))
            points[entry.method, entry.seed, number] = {scorer: one.points for scorer, one in scored.by.items()}
    if not frames:
        return None
    answers = pd.concat(frames, ignore_index=True)
    _refuse_other_prompts(answers, modes)
    return Evaluated(RecordedBenchmark(name, told), told.scorer, answers, points)


def _check_matrix(matrix: Matrix, study: StudyConfig, run_dir: Path) -> None:
    """Each cell of the study is there once: an answer that is counted twice would change every number."""
    seeds = range(study.first_seed, study.first_seed + study.runs)
    planned = Counter([(BASE, 0), *((method, seed) for method in study.methods for seed in seeds)])
    found = Counter((one.method, one.seed) for one in matrix.cells)
    wrong = [f"method {method}, seed {seed}" for method, seed in [*(found - planned), *(planned - found)]]
    wrong += [f"cell {name}" for name, times in Counter(one.id for one in matrix.cells).items() if times > 1]
    if wrong:
        raise UserError(
            f"`{run_dir / MATRIX_FILE}`: its cells are not those of {STUDY_FILE}: {first_few(wrong, '; ')}. Delete "
            f"both and {AGAIN}"
        )


def _done(folder: Path, entry: MatrixRow, benchmark: str) -> DoneCell | None:
    """What a cell holds that is finished and has answered the benchmark."""
    done = DoneCell(folder, entry, read_finished(folder)) if read_status(folder).state is State.DONE else None
    if done and (done.holds.method, done.holds.seed) != (entry.method, entry.seed):
        raise UserError(
            f"`{folder.parent.parent / MATRIX_FILE}`: the cell {entry.id} is not method {entry.method}, seed "
            f"{entry.seed}. Delete it and {AGAIN}"
        )
    return done if done and done.evaluations(benchmark) else None


def _cell(
    folder: Path,
    entry: MatrixRow,
    done: DoneCell | None,
    reported: Mapping[str, Sequence[str]],
    section: EvaluationSection,
) -> CellResult:
    """What became of a cell, given what it holds and which of its checkpoints are reported."""
    status, ran_on = read_status(folder), folder / ENVIRONMENT_FILE
    steps = reported[entry.id] if done else []
    return CellResult(
        entry.id,
        entry.method,
        entry.seed,
        str(status.state),
        status.reason,
        EvaluationManifest.read(folder / section.benchmark / steps[-1]).identity if steps else {},
        tuple(map(step_number, steps)),
        read_consumption(folder) if (folder / COMPUTE_FILE).is_file() else None,
        read_as(Environment, ran_on, "Delete the file, which is only shown") if ran_on.is_file() else None,
        done.holds.weights if done else {},
        misses(read_metrics(folder / METRICS_FILE)) if done else None,
    )


def _scores(folder: Path, told: DescribedBenchmark) -> Scored:
    """The scores of one checkpoint, by the rules that are described."""
    scored = read_scores(folder, EvaluationManifest.read(folder).samples)
    if scored.rules != told.rules:
        raise UserError(f"`{folder / SCORES}`: scored by another version of the benchmark. {SCORE_AGAIN}")
    if set(scored.by) != set(told.scorers) or any(
        not len(one.scores) == len(one.parsed) == len(told.questions)
        or not told.means.keys() <= one.points.means.keys()
        for one in scored.by.values()
    ):
        raise UserError(f"`{folder / SCORES}`: not the scorers and questions of {DESCRIPTION}. {SCORE_AGAIN}")
    return scored


def _samples(folder: Path, mode: str, told: DescribedBenchmark) -> pd.DataFrame:
    """The answers of one checkpoint, by question."""
    answers = read_samples(folder)
    questions = [str(one.id) for one in answers]
    refuse_others(told.questions, questions, folder)
    shown = (one.answer if one.reasoning is None else one.reasoning + SECOND_TURN + one.answer for one in answers)
    columns = {
        "truncated": [one.truncated for one in answers],
        "prompt": [one.prompt for one in answers],
        "answer": list(shown),
        "read": [answer_in(one.answer, mode) for one in answers],
    }
    return pd.DataFrame(columns, index=pd.Index(questions, name="question"))


def _refuse_changed(finished: Sequence[DoneCell], benchmark: str, told: DescribedBenchmark) -> None:
    """Answers are shown only with the questions that were asked, and the right answers of then."""
    for done in finished:
        for step in done.evaluations(benchmark):
            asked = EvaluationManifest.read(step).asked
            if asked is not None and asked.questions != told.asked:
                raise UserError(
                    f"{step / SAMPLES}: other questions were asked than {DESCRIPTION} has of the benchmark {benchmark} "
                    f"({len(asked.ids)} then, {len(told.questions)} now). Run `harness compare` again to ask all"
                )


def _refuse_unequal(finished: Sequence[DoneCell], benchmark: str, modes: Mapping[str, Mode]) -> None:
    """Answers may be compared only if everything they depend on, except the weights, is equal.

    A variant of a method may be set to answer in another prompt mode; then it may differ in that alone.
    """
    first: tuple[str, dict[str, str]] | None = None
    alike: dict[Mode, tuple[str, dict[str, str]]] = {}
    for done in finished:
        entry, evaluations = done.entry, done.evaluations(benchmark)
        if not evaluations:
            continue
        cell = entry.id, EvaluationManifest.read(evaluations[-1]).identity
        first = first or cell
        same_mode = alike.setdefault(modes[entry.method], cell)
        for key in sorted(first[1].keys() | cell[1].keys()):
            other = same_mode if key in MODE_KEYS else first
            ours, theirs = other[1].get(key), cell[1].get(key)
            if key != "weights" and ours != theirs:
                raise UserError(
                    f"{other[0]} and {cell[0]} answered the benchmark {benchmark} differently and must not be "
                    f"compared: {key} is {ours!r} and {theirs!r}. Run `harness compare` again to evaluate both alike"
                )


def _refuse_other_prompts(answers: pd.DataFrame, mode_of: Mapping[str, str]) -> None:
    """One question must have been the same prompt, words and frames, for every checkpoint of one prompt mode."""
    prompts = (
        answers.assign(mode=answers["method"].map(dict(mode_of)))
        .groupby(["question", "mode"], sort=False)["prompt"]
        .nunique()
        .reset_index()
    )
    different = prompts.loc[prompts["prompt"] > 1, "question"]
    if len(different):
        raise UserError(
            f"question {different.iloc[0]} was not the same for all checkpoints: its video was changed between "
            "two evaluations. Run into another folder with --out, to evaluate all alike"
        )
