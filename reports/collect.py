"""Gathering a run directory into one table of answers; refuses to mix what must not be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from harness.config.study import BASE, StudyConfig
from harness.data.reader import Dataset
from harness.errors import UserError
from harness.io import read_json
from harness.study.evaluation import MANIFEST, read_samples
from harness.study.matrix import CELLS, read_matrix
from harness.study.setup import load_data
from harness.study.status import read_status
from harness.vsibench.prompts import answer_in
from harness.vsibench.scoring import score_answers

MODE_KEYS = ("prompts", "decoding")

SECOND_TURN = "\n\n[asked for the answer alone]\n"
"""Between the two raw answers of an evaluation in two turns, where they are shown."""
"""Parts of an evaluation's identity that a variant's prompt mode and token limit decide."""

STEP_FOLDER = re.compile(r"step-\d{6,}")


@dataclass(frozen=True)
class CellResult:
    """What one cell has to show.

    Attributes:
        cell: Its id.
        method: ``base`` or a method.
        seed: The repetition.
        state: Its status.
        reason: Why, when it is not done.
        identity: The evaluation's identity of its last checkpoint, or empty.
        consumed: What training consumed, or empty.
        environment: Versions and machine, or empty.
    """

    cell: str
    method: str
    seed: int
    state: str
    reason: str
    identity: dict[str, str]
    consumed: dict[str, float]
    environment: dict[str, Any]


@dataclass(frozen=True)
class Collected:
    """A study's results.

    Attributes:
        study: The resolved study.
        train: Its training records.
        benchmark: Its benchmark records.
        cells: Every cell of the matrix, finished or not, in the matrix's order.
        answers: One row an answer: method, model, seed, step, question, type, room, score, parsed, truncated,
            prompt (its id), answer (raw text), read (what of it is scored: in a tag mode, the answer tag's content);
            ``last`` marks the reported checkpoint.
    """

    study: StudyConfig
    train: Dataset
    benchmark: Dataset
    cells: list[CellResult]
    answers: pd.DataFrame

    @property
    def reported(self) -> pd.DataFrame:
        """The answers of the declared checkpoint: the last."""
        return self.answers[self.answers["last"]]


def collect(run_dir: Path) -> Collected:
    """Read every finished cell of a run directory.

    Raises:
        UserError: It is no run directory, no cell has finished, or two evaluations differ in anything but
            their weights (the differing part is named).
    """
    matrix = read_matrix(run_dir)
    study = StudyConfig(**read_json(run_dir / "study.json"))
    train, benchmark = load_data(study)
    assert train is not None
    # Once a method: it asks the registry, which asks every installed package.
    declared = {method: _declared(study, method) for method in {entry["method"] for entry in matrix["cells"]}}
    found, frames = [], []
    for entry in matrix["cells"]:
        folder = run_dir / CELLS / entry["id"]
        result, scored = _read_cell(folder, entry, study, benchmark, declared[entry["method"]].mode)
        found.append(result)
        frames += scored
    if not frames:
        states = "; ".join(f"{c.cell}: {c.state} {c.reason}".strip() for c in found)
        raise UserError(f"`{run_dir}`: no cell has finished, so there is nothing to report ({states})")
    _refuse_unequal(found, declared)
    answers = pd.concat(frames, ignore_index=True)
    _refuse_other_prompts(answers, declared)
    return Collected(study, train, benchmark, found, answers)


def _read_cell(
    folder: Path, entry: Mapping[str, Any], study: StudyConfig, benchmark: Dataset, mode: str
) -> tuple[CellResult, list[pd.DataFrame]]:
    status = read_status(folder)
    evaluations = sorted(
        path.parent
        for path in (folder / study.evaluation.benchmark).glob(f"*/{MANIFEST}")
        if STEP_FOLDER.fullmatch(path.parent.name) and read_json(path)["complete"]
    )
    done = status.state == "done" and bool(evaluations)
    identity = read_json(evaluations[-1] / MANIFEST)["identity"] if done else {}
    result = CellResult(
        entry["id"],
        entry["method"],
        int(entry["seed"]),
        str(status.state),
        status.reason,
        identity,
        _optional(folder / "compute.json"),
        _optional(folder / "env.json"),
    )
    if not done:
        return result, []
    scorer = study.evaluation.scorer
    return result, [
        _answers(one, entry, scorer, benchmark, mode).assign(last=one == evaluations[-1]) for one in evaluations
    ]


def _answers(folder: Path, entry: Mapping[str, Any], scorer: str, benchmark: Dataset, mode: str) -> pd.DataFrame:
    samples = pd.DataFrame(read_samples(folder)).assign(id=lambda frame: frame["id"].astype(str))
    samples["read"] = [answer_in(text, mode) for text in samples["answer"]]
    raw = dict(zip(samples["id"], samples["read"], strict=True))
    if "reasoning" in samples:
        samples["answer"] = samples["reasoning"] + SECOND_TURN + samples["answer"]
    scored = score_answers(benchmark.records, raw, [scorer])
    columns = ["id", "truncated", "prompt", "answer", "read"]
    merged = scored.merge(samples[columns], on="id", how="left", validate="one_to_one")
    if merged["missing"].any():
        lacking = merged.loc[merged["missing"], "id"]
        raise UserError(f"`{folder}`: {len(lacking)} questions have no answer, the first is {lacking.iloc[0]}")
    kept = merged.drop(columns=["scorer", "missing"])
    for column in ("question_type", "task", "room"):  # a study may have a million answers
        kept[column] = pd.Categorical(kept[column])
    return kept.rename(columns={"id": "question", "question_type": "type"}).assign(
        method=entry["method"],
        model=entry["model"],
        seed=int(entry["seed"]),
        step=int(folder.name.split("-")[1]),
    )


def _refuse_unequal(cells: list[CellResult], declared: Mapping[str, Declared]) -> None:
    """Answers may be compared only if all they depend on, but the weights, is equal.

    A variant of a method may be declared to answer in another prompt mode; then it differs in that, and only in that.
    """
    evaluated = [cell for cell in cells if cell.identity]
    first = evaluated[0]
    alike: dict[Declared, CellResult] = {}
    for cell in evaluated:
        same_mode = alike.setdefault(declared[cell.method], cell)
        for key in sorted(first.identity.keys() | cell.identity.keys()):
            other = same_mode if key in MODE_KEYS else first
            ours, theirs = other.identity.get(key), cell.identity.get(key)
            if key != "weights" and ours != theirs:
                raise UserError(
                    f"{other.cell} and {cell.cell} were evaluated differently and must not be compared: "
                    f"{key} is {ours!r} and {theirs!r}. Run `harness compare` again to evaluate both alike"
                )


def _refuse_other_prompts(answers: pd.DataFrame, declared: Mapping[str, Declared]) -> None:
    """One question must have been the same prompt, words and frames, for every checkpoint of one prompt mode."""
    modes = answers["method"].map({method: of.mode for method, of in declared.items()})
    prompts = answers.assign(mode=modes).groupby(["question", "mode"], sort=False)["prompt"].nunique().reset_index()
    different = prompts.loc[prompts["prompt"] > 1, "question"]
    if len(different):
        raise UserError(
            f"question {different.iloc[0]} was not the same for all checkpoints: its video was changed between "
            "two evaluations. Run into another folder with --out, to evaluate all alike"
        )


class Declared(NamedTuple):
    """Prompt mode, token limit and number of turns that a method is evaluated with."""

    mode: str
    tokens: int
    two_turns: bool


def _declared(study: StudyConfig, method: str) -> Declared:
    own = study if method == BASE else study.for_method(method)
    return Declared(own.prompt.evaluation, own.evaluation.max_new_tokens, own.evaluation.two_turns)


def _optional(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_json(path) if path.is_file() else {}
    return document


def methods_of(collected: Collected) -> list[str]:
    """Base first, then the study's methods in their order."""
    return [BASE, *collected.study.methods]
