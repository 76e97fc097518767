"""Gathering a run directory into tables of scored answers; refuses to mix what must not be compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harness.api.benchmark import Benchmark, check_ids
from harness.config.study import BASE, StudyConfig
from harness.data.reader import Dataset
from harness.errors import UserError, first_few
from harness.io import read_as
from harness.plugins import registry
from harness.study.asked import MANIFEST, SAMPLES, EvaluationManifest, digest_of_questions
from harness.study.evaluation import OWN_WORDS, read_samples
from harness.study.matrix import (
    AGAIN,
    CELLS,
    COMPUTE_FILE,
    MATRIX_FILE,
    STUDY_FILE,
    Matrix,
    MatrixRow,
    read_consumption,
    read_matrix,
)
from harness.study.setup import ENVIRONMENT_FILE, Environment, load_data
from harness.study.status import read_status
from harness.train.meter import Consumption
from harness.vsibench.prompts import answer_in
from harness.vsibench.records import Record

MODE_KEYS = ("prompts", "decoding")
"""Parts of an evaluation's identity that a variant's prompt mode and token limit decide."""

SECOND_TURN = "\n\n[asked for the answer alone]\n"
"""Between the two raw answers of an evaluation in two turns, where they are shown."""

STEP_FOLDER = re.compile(r"step-\d{6,}")


@dataclass(frozen=True)
class CellResult:
    """The outcome of one cell.

    Attributes:
        cell: Its id.
        method: ``base`` or a method.
        seed: The repetition.
        state: Its status.
        reason: Why, when it is not done.
        identity: The evaluation's identity of its last checkpoint, or empty.
        consumed: What training consumed, or None.
        environment: Versions and machine, or None.
    """

    cell: str
    method: str
    seed: int
    state: str
    reason: str
    identity: dict[str, str]
    consumed: Consumption | None
    environment: Environment | None


@dataclass(frozen=True)
class Evaluated:
    """What a study's checkpoints answered to one benchmark.

    Attributes:
        benchmark: Its rules.
        records: Its questions.
        scorer: The scorer behind ``score``.
        answers: One row an answer: method, model, seed, step, question, type, cluster, score, parsed, truncated,
            prompt (its id), answer (raw text), read (the part that is scored: in a tag mode, the answer tag's content);
            ``last`` marks the reported checkpoint.
    """

    benchmark: Benchmark
    records: Sequence[Record]
    scorer: str
    answers: pd.DataFrame

    @property
    def reported(self) -> pd.DataFrame:
        """The answers of the reported checkpoint: the last, as declared beforehand."""
        return self.answers[self.answers["last"]]


@dataclass(frozen=True)
class Collected:
    """A study's results.

    Attributes:
        run_dir: The run directory.
        study: The resolved study.
        train: Its training records.
        test: Its evaluation records.
        cells: Every cell of the matrix, finished or not, in the matrix's order.
        headline: The headline benchmark's answers.
        additional: Those of additional benchmarks, by name; without those that no finished cell has answered.
    """

    run_dir: Path
    study: StudyConfig
    train: Dataset
    test: Dataset
    cells: list[CellResult]
    headline: Evaluated
    additional: dict[str, Evaluated] = field(default_factory=dict)


class Declared(NamedTuple):
    """Prompt mode, token limit and number of turns that a method is evaluated with."""

    mode: str
    tokens: int
    two_turns: bool


def collect(run_dir: Path) -> Collected:
    """Read every finished cell of a run directory.

    Raises:
        UserError: It is not a run directory, a document of it is damaged, no cell has finished, or two evaluations
            differ in anything but their weights (the differing part is named).
    """
    matrix = read_matrix(run_dir)
    study = read_as(StudyConfig, run_dir / STUDY_FILE, f"To restore it, {AGAIN}")
    _check_matrix(matrix, study, run_dir)
    train, test = load_data(study)
    assert train is not None
    section = study.evaluation
    entries = [(run_dir / CELLS / entry.id, entry) for entry in matrix.cells]
    cells = [_cell(folder, entry, section.benchmark) for folder, entry in entries]
    finished = [one for one, cell in zip(entries, cells, strict=True) if cell.identity]
    if not finished:
        states = "; ".join(f"{c.cell}: {c.state} {c.reason}".strip() for c in cells)
        raise UserError(f"`{run_dir}`: no cell has finished, so there is nothing to report ({states})")
    # Once a method: it asks the registry, which asks every installed package.
    declared = {method: _declared(study, method) for method in {cell.method for cell in cells}}

    def evaluated(name: str, options: dict[str, Any], scorer: str | None) -> Evaluated | None:
        benchmark: Benchmark = registry.create("benchmarks", name, options)
        own = benchmark.questions()
        records = own.records if own else test.records
        modes = {method: of.mode for method, of in declared.items()}
        if any(benchmark.words(record) for record in records):
            modes = dict.fromkeys(declared, OWN_WORDS)
        _refuse_unequal(finished, name, declared)
        scored = benchmark.scorer_named(scorer)

        def score(answers: Mapping[str, str]) -> pd.DataFrame:
            check_ids(records, answers)
            frame = pd.DataFrame(benchmark.question_scores(records, answers, scored))
            # A study may have a million answers.
            return frame.assign(type=pd.Categorical(frame["type"]), cluster=pd.Categorical(frame["cluster"]))

        _refuse_changed(finished, name, records)
        frames = [
            _answers(step, entry, modes[entry.method], score).assign(last=step == steps[-1])
            for folder, entry in finished
            for steps in [_evaluations(folder / name)]
            for step in steps
        ]
        if not frames:
            return None
        answers = pd.concat(frames, ignore_index=True)
        _refuse_other_prompts(answers, modes)
        return Evaluated(benchmark, records, scored, answers)

    headline = evaluated(section.benchmark, {}, section.scorer)
    assert headline is not None
    additional = {name: one for name, options in section.more.items() if (one := evaluated(name, options, None))}
    return Collected(run_dir, study, train, test, cells, headline, additional)


def _check_matrix(matrix: Matrix, study: StudyConfig, run_dir: Path) -> None:
    """Each cell of the study is there once: an answer that is counted twice would change every number."""
    seeds = range(study.first_seed, study.first_seed + study.seeds)
    planned = Counter([(BASE, 0), *((method, seed) for method in study.methods for seed in seeds)])
    found = Counter((one.method, one.seed) for one in matrix.cells)
    wrong = [f"method {method}, seed {seed}" for method, seed in [*(found - planned), *(planned - found)]]
    wrong += [f"cell {name}" for name, times in Counter(one.id for one in matrix.cells).items() if times > 1]
    if wrong:
        raise UserError(
            f"`{run_dir / MATRIX_FILE}`: its cells are not those of {STUDY_FILE}: {first_few(wrong, '; ')}. To restore "
            f"both, {AGAIN}"
        )


def _cell(folder: Path, entry: MatrixRow, benchmark: str) -> CellResult:
    status = read_status(folder)
    evaluations = _evaluations(folder / benchmark) if status.state == "done" else []
    ran_on = folder / ENVIRONMENT_FILE
    return CellResult(
        entry.id,
        entry.method,
        entry.seed,
        str(status.state),
        status.reason,
        EvaluationManifest.read(evaluations[-1]).identity if evaluations else {},
        read_consumption(folder) if (folder / COMPUTE_FILE).is_file() else None,
        read_as(Environment, ran_on, "Delete the file, which is only shown") if ran_on.is_file() else None,
    )


def _evaluations(folder: Path) -> list[Path]:
    """The complete evaluations of a cell's checkpoints on one benchmark, in the order of training."""
    return sorted(
        path.parent
        for path in folder.glob(f"*/{MANIFEST}")
        if STEP_FOLDER.fullmatch(path.parent.name) and EvaluationManifest.read(path.parent).complete
    )


def _answers(
    folder: Path, entry: MatrixRow, mode: str, score: Callable[[Mapping[str, str]], pd.DataFrame]
) -> pd.DataFrame:
    """The scored answers of one checkpoint, in the order of the questions."""
    samples = pd.DataFrame(read_samples(folder)).assign(question=lambda frame: frame["id"].astype(str))
    samples = samples.assign(read=[answer_in(text, mode) for text in samples["answer"]]).set_index("question")
    scored = score(dict(zip(samples.index, samples["read"], strict=True)))
    if lacking := [question for question in scored["question"] if question not in samples.index]:
        raise UserError(f"`{folder}`: {len(lacking)} questions have no answer, the first is {lacking[0]}")
    if "reasoning" in samples:
        samples["answer"] = samples["reasoning"] + SECOND_TURN + samples["answer"]
    kept = scored.join(samples[["truncated", "prompt", "answer", "read"]], on="question")
    return kept.assign(
        method=entry.method,
        model=entry.model,
        seed=entry.seed,
        step=int(folder.name.split("-")[1]),
    )


def _refuse_changed(finished: Sequence[tuple[Path, MatrixRow]], benchmark: str, records: Sequence[Record]) -> None:
    """Answers are scored only by the questions that were asked, with the right answers of then."""
    now = digest_of_questions(records)
    for folder, _ in finished:
        for step in _evaluations(folder / benchmark):
            asked = EvaluationManifest.read(step).asked
            if asked is not None and asked.questions != now:
                asked.of(records, step / SAMPLES)
                raise UserError(
                    f"{step / SAMPLES}: {len(asked.ids)} questions were asked and the benchmark {benchmark} has "
                    f"{len(records)} now. Run `harness compare` again to ask all"
                )


def _refuse_unequal(
    finished: Sequence[tuple[Path, MatrixRow]], benchmark: str, declared: Mapping[str, Declared]
) -> None:
    """Answers may be compared only if everything they depend on, except the weights, is equal.

    A variant of a method may be declared to answer in another prompt mode; then it may differ in that alone.
    """
    first: tuple[str, dict[str, str]] | None = None
    alike: dict[Declared, tuple[str, dict[str, str]]] = {}
    for folder, entry in finished:
        evaluations = _evaluations(folder / benchmark)
        if not evaluations:
            continue
        cell = entry.id, EvaluationManifest.read(evaluations[-1]).identity
        first = first or cell
        same_mode = alike.setdefault(declared[entry.method], cell)
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


def _declared(study: StudyConfig, method: str) -> Declared:
    own = study if method == BASE else study.for_method(method)
    return Declared(own.prompt.evaluation, own.evaluation.max_new_tokens, own.evaluation.two_turns)
