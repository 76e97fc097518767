"""Estimated wall time of cells, from finished cells of the same method and model on this machine."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.config.study import StudyConfig
from harness.errors import UserError
from harness.io import read_json
from harness.study.launch import TIMING_FILE
from harness.study.matrix import CELLS, COMPUTE_FILE, CONFIG_FILE, CellWork
from harness.study.status import State, read_status


@dataclass(frozen=True)
class Estimate:
    """Estimated wall time of one cell's remaining work.

    Attributes:
        seconds: Sum of the known parts.
        unknown: Parts that could not be estimated: ``training``, ``evaluation``.
    """

    seconds: float
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Measured:
    start: float
    per_unit: float | None
    per_answer: float | None


def estimate(work: CellWork, study: StudyConfig, run_dir: Path, questions: int | None) -> Estimate:
    """Estimate the time of a cell's remaining work.

    Training time is assumed proportional to the budget, evaluation time to questions times checkpoints. The factors
    are medians over finished cells of the same method and model in this run directory and its siblings; cells with
    other settings make the estimate rough.
    """
    measured = [_measure(folder, study.budget.kind) for folder in finished(work, run_dir)]
    seconds, unknown = median(m.start for m in measured) if measured else 0.0, []
    if not work.trained:
        rates = [m.per_unit for m in measured if m.per_unit is not None]
        if study.budget.kind == "seconds":
            seconds += study.budget.amount
        elif rates:
            seconds += median(rates) * study.budget.amount
        else:
            unknown.append("training")
    if not work.evaluated:
        paces = [m.per_answer for m in measured if m.per_answer is not None]
        if paces and questions:
            checkpoints = 1 if work.cell.is_base else study.for_method(work.cell.method).train.checkpoints
            seconds += median(paces) * questions * checkpoints
        else:
            unknown.append("evaluation")
    return Estimate(seconds, tuple(unknown))


def makespan(estimates: Iterable[Estimate], workers: int) -> float:
    """Wall seconds of cells that start in this order, each when a worker is free."""
    free = [0.0] * workers
    for one in estimates:
        heapq.heapreplace(free, free[0] + one.seconds)
    return max(free)


def finished(work: CellWork, run_dir: Path) -> Sequence[Path]:
    """Folders of finished cells of the same method and model, in this run directory and its siblings."""
    pattern = f"*/{CELLS}/{work.cell.algorithm}-{work.cell.model}-s*/{TIMING_FILE}"
    folders = [path.parent for path in sorted(run_dir.absolute().parent.glob(pattern))]
    return [folder for folder in folders if read_status(folder).state is State.DONE]


def _measure(folder: Path, kind: str) -> _Measured:
    consumed: dict[str, Any] = {}
    try:
        timing, config = read_json(folder / TIMING_FILE), read_json(folder / CONFIG_FILE)
        if (folder / COMPUTE_FILE).exists():
            consumed = read_json(folder / COMPUTE_FILE)
    except UserError:
        return _Measured(0.0, None, None)
    answers = read_status(folder).numbers.get("of", 0.0)
    if consumed:
        answers *= config["study"]["train"]["checkpoints"]
    per_unit = _ratio(timing.get("train"), consumed.get(kind))
    return _Measured(timing.get("start", 0.0), per_unit, _ratio(timing.get("evaluate"), answers))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part and whole else None
