"""Before any training: what a study could find, and the time and disk it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.text import Text

from harness.config.study import StudyConfig
from harness.data.reader import Dataset
from harness.data.sources import is_ready
from harness.errors import UserError
from harness.memory.footprint import count_parameters, state_bytes
from harness.models.loading import model_sizes
from harness.plugins import registry
from harness.study import matrix
from harness.study.display import duration
from harness.study.matrix import Cell, CellWork
from harness.study.setup import benchmark_source, load_data
from harness.study.status import Status
from harness.study.time_estimate import estimate, finished, makespan


@dataclass(frozen=True)
class Cost:
    """Wall time and disk of some cells, as far as cells of the same kind were measured on this machine.

    Attributes:
        seconds: Wall time of the known parts, with the study's number of workers.
        size: Bytes of the known cells.
        unmeasured: Methods of which no finished cell tells the time and the disk.
    """

    seconds: float
    size: float
    unmeasured: tuple[str, ...]

    def __str__(self) -> str:
        if not self.seconds and not self.size:
            return "an unknown time: no finished cell of the same kind on this machine to measure by"
        missing = f", without {', '.join(self.unmeasured)}, which were not measured" if self.unmeasured else ""
        return f"about {duration(self.seconds)} and {_bytes(self.size)} of disk{missing}"


def print_plan(study: StudyConfig, run_dir: Path, *, pilot: Path | None, console: Console) -> None:
    """Print what the study could find and what it costs; write nothing.

    Args:
        study: The resolved study.
        run_dir: Where it would go; finished cells there and in its neighbours are measured.
        pilot: A finished run directory whose spread of scores is taken instead of the defaults; it and its neighbours
            are measured then.
        console: Where the user looks.

    Raises:
        UserError: The pilot cannot be used.
    """
    benchmark = _benchmark(study, console)
    questions: int = registry.load("reports", "comparison")().plan(console, study, benchmark, pilot)
    cells = matrix.cells_of(study)
    one_more = [cell for cell in cells if not cell.is_base and cell.seed == study.first_seed]
    console.print()
    console.print(Text(_work(study, cells, questions)), soft_wrap=True)
    console.print(Text(_storage(study, cells)), soft_wrap=True)
    for what, some in (("The whole study takes", cells), ("One more seed a method takes", one_more)):
        console.print(Text(f"{what} {_cost(some, study, pilot or run_dir, questions)}."), soft_wrap=True)


def _work(study: StudyConfig, cells: Sequence[Cell], questions: int) -> str:
    """What is to be computed, in units that hold on any machine."""
    budget, runs = study.budget, [cell for cell in cells if not cell.is_base]
    unit = {"examples": "examples", "steps": "optimiser steps", "seconds": "device seconds"}[budget.kind]
    sampling = {cell.method: cell.rollouts for cell in runs if cell.rollouts}
    sampled = ", ".join(f"{rollouts} by {study.label(method)}" for method, rollouts in sampling.items())
    checkpoints = sum(study.for_method(cell.method).train.checkpoints for cell in runs)
    return (
        f"Work: {len(runs)} training runs of {budget.amount:g} {unit} each"
        + (f", with answers sampled to every example ({sampled})" if sampled else "")
        + f"; {questions:,} questions answered by {checkpoints} checkpoints and the base model, "
        f"{questions * (checkpoints + 1):,} answers."
    )


def _storage(study: StudyConfig, cells: Sequence[Cell]) -> str:
    """What the checkpoints fill: every checkpoint's trained weights, and the optimiser's state of each run's last."""
    try:
        sizes = count_parameters(model_sizes(study.model.name), study.model)
    except UserError as error:
        return f"Disk: unknown, because {str(error).splitlines()[0]}"
    # As the trainer saves them: fp32, the whole model or only what is trained beside a frozen one.
    each = 4.0 * (sizes.total if study.model.tuning == "full" else sizes.trained)
    total = 0.0
    for cell in cells:
        if not cell.is_base:
            train = study.for_method(cell.method).train
            total += train.checkpoints * each + sizes.trained * state_bytes(train.optimizer)
    last = "the optimiser's state of each run's last"
    return f"Disk: about {_bytes(total)} of checkpoints, {_bytes(each)} each and {last}."


def _bytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size >= 1e8 else f"{size / 1e6:.2g} MB"


def _benchmark(study: StudyConfig, console: Console) -> Dataset | None:
    """The benchmark's records; None, with the reason told, when they are not here yet."""
    source = benchmark_source(study.data)
    try:
        if is_ready(source, study.runtime.cache):
            return load_data(study, with_train=False)[1]
        reason = f"{source} is not generated yet"
    except UserError as error:
        reason = str(error).splitlines()[0]
    console.print(Text(f"Planned for the full VSI-Bench, because {reason}", style="yellow"), soft_wrap=True)
    return None


def _cost(cells: Sequence[Cell], study: StudyConfig, run_dir: Path, questions: int) -> Cost:
    """What these cells take, all of their work still to be done."""
    works = [CellWork(cell, Status(), cell.is_base, False) for cell in matrix.launch_order(cells)]
    times = [estimate(work, study, run_dir, questions) for work in works]
    sizes = {work.cell.id: _size(work, run_dir) for work in works}
    unmeasured = [w.cell.method for w, t in zip(works, times, strict=True) if t.unknown or not sizes[w.cell.id]]
    return Cost(
        makespan(times, min(study.runtime.workers, len(works))),
        sum(size or 0.0 for size in sizes.values()),
        tuple(dict.fromkeys(unmeasured)),
    )


def _size(work: CellWork, run_dir: Path) -> float | None:
    """Bytes that finished cells of this kind fill, the median; None when there are none."""
    sizes = [
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in finished(work, run_dir)
    ]
    return median(sizes) if sizes else None
