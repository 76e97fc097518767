"""Before any training: what a study could find, and the time and disk it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.text import Text

from harness import registry
from harness.config import StudyConfig
from harness.data.reader import Dataset
from harness.data.sources import is_ready
from harness.errors import UserError
from harness.study import matrix
from harness.study.display import duration
from harness.study.estimate import estimate, finished, makespan
from harness.study.matrix import Cell, Work
from harness.study.setup import benchmark_source, load_data
from harness.study.status import Status


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
            return "an unknown time and disk: no finished cell of the same kind to measure by"
        missing = f", without {', '.join(self.unmeasured)}, which were not measured" if self.unmeasured else ""
        return f"about {duration(self.seconds)} and {self.size / 1e9:.2g} GB of disk{missing}"


def foresee(study: StudyConfig, run_dir: Path, *, pilot: Path | None, console: Console) -> None:
    """Print what the study could find and what it costs; write nothing.

    Args:
        study: The resolved study.
        run_dir: Where it would go; finished cells there and in its neighbours are measured.
        pilot: A finished run directory whose spread of scores is taken instead of the defaults.
        console: Where the user looks.

    Raises:
        UserError: The pilot cannot be used.
    """
    benchmark = _benchmark(study, console)
    questions: int = registry.load("reports", "comparison")().plan(console, study, benchmark, pilot)
    cells = matrix.plan(study, model_digest="", train_digest="")
    one_more = [cell for cell in cells if not cell.is_base and cell.seed == study.first_seed]
    console.print()
    for what, some in (("The whole study takes", cells), ("One more seed a method takes", one_more)):
        console.print(Text(f"{what} {_cost(some, study, run_dir, questions)}."), soft_wrap=True)


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
    works = [Work(cell, Status(), cell.is_base, False) for cell in matrix.launch_order(cells)]
    times = [estimate(work, study, run_dir, questions) for work in works]
    sizes = {work.cell.id: _size(work, run_dir) for work in works}
    unmeasured = [w.cell.method for w, t in zip(works, times, strict=True) if t.unknown or not sizes[w.cell.id]]
    return Cost(
        makespan(times, min(study.runtime.workers, len(works))),
        sum(size or 0.0 for size in sizes.values()),
        tuple(dict.fromkeys(unmeasured)),
    )


def _size(work: Work, run_dir: Path) -> float | None:
    """Bytes that finished cells of this kind fill, the median; None when there are none."""
    sizes = [
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in finished(work, run_dir)
    ]
    return median(sizes) if sizes else None
