"""Estimated wall time and disk space of cells, from finished cells of the same method and model on this machine."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydantic import BaseModel, Field

from harness.config.sections import MANY
from harness.config.study import StudyConfig
from harness.errors import UserError
from harness.io import read_as
from harness.study.launch import TIMING_FILE, read_timing
from harness.study.matrix import CELLS, CONFIG_FILE, CellWork, read_consumption
from harness.study.status import State, read_status
from harness.train.meter import COMPUTE_FILE


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of one cell's remaining work.

    Attributes:
        seconds: Wall time, the sum of the known parts.
        unknown: Parts that could not be estimated: ``training``, ``evaluation``.
        size: Bytes on disk of a finished cell of this kind; 0 if unknown.
    """

    seconds: float
    unknown: tuple[str, ...] = ()
    size: float = 0.0


def estimate(work: CellWork, study: StudyConfig, run_dir: Path, questions: int | None) -> Estimate:
    """Estimate the cost of a cell's remaining work.

    Training time is assumed proportional to the budget, evaluation time to questions times checkpoints. The factors
    are medians over finished cells of the same method and model in this run directory and its siblings; cells with
    other settings make the estimate rough.
    """
    measured = [_measure(folder, study.budget.kind) for folder in _finished(work, run_dir)]

    def typical(part: str) -> float:
        values = [one[part] for one in measured if part in one]
        return median(values) if values else 0.0

    seconds, unknown = typical("start"), []
    if not work.trained:
        pace = 1.0 if study.budget.kind == "seconds" else typical("train")
        seconds += pace * study.budget.amount
        unknown += [] if pace else ["training"]
    if not work.evaluated:
        checkpoints = 1 if work.cell.is_base else study.for_method(work.cell.method).train.checkpoints
        pace = typical("evaluate") * (questions or 0)
        seconds += pace * checkpoints
        unknown += [] if pace else ["evaluation"]
    return Estimate(seconds, tuple(unknown), typical("size"))


def makespan(estimates: Iterable[Estimate], workers: int) -> float:
    """Wall seconds of cells that start in this order, each when a worker is free."""
    free = [0.0] * workers
    for one in estimates:
        heapq.heapreplace(free, free[0] + one.seconds)
    return max(free)


def _finished(work: CellWork, run_dir: Path) -> Sequence[Path]:
    """Folders of finished cells of the same method and model, in this run directory and its siblings."""
    pattern = f"*/{CELLS}/{work.cell.algorithm}-{work.cell.model}-s*/{TIMING_FILE}"
    folders = [path.parent for path in sorted(run_dir.absolute().parent.glob(pattern))]
    return [folder for folder in folders if read_status(folder).state is State.DONE]


_MOST = 1e9
"""Seconds, thirty years: more was not measured."""


class _Train(BaseModel):
    checkpoints: int = Field(ge=1, le=MANY)


class _Study(BaseModel):
    train: _Train


class _Planned(BaseModel):
    """What is read of a cell's ``config.json``, of any version."""

    study: _Study


def _measure(folder: Path, kind: str) -> dict[str, float]:
    """Seconds of the start, per unit of the budget and per answer, and bytes on disk; without what is not recorded."""
    try:
        timing = read_timing(folder)
        consumed = read_consumption(folder) if (folder / COMPUTE_FILE).exists() else None
        planned = read_as(_Planned, folder / CONFIG_FILE, "")
    except UserError:
        return {}
    checkpoints = planned.study.train.checkpoints if consumed else 1
    answers = read_status(folder).numbers.get("of", 0.0) * checkpoints
    units = {"start": 1.0, "train": getattr(consumed, kind, 0), "evaluate": answers}
    paces = {part: timing[part] / count for part, count in units.items() if count > 0 and timing.get(part)}
    measured = {part: pace for part, pace in paces.items() if pace < _MOST}
    return measured | {"size": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())}
