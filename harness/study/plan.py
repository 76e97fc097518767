"""``harness plan``: what a study could find, and the time and disk space it takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from harness.config.study import StudyConfig
from harness.console import Console
from harness.data.reader import Dataset
from harness.data.sources import is_ready, resolve_source
from harness.errors import UserError
from harness.memory.footprint import count_parameters, state_bytes
from harness.models.loading import model_sizes
from harness.study import matrix
from harness.study.display import duration
from harness.study.looks import cells_until
from harness.study.matrix import Cell, CellWork
from harness.study.report import load_report
from harness.study.setup import benchmark_source, load_data
from harness.study.status import Status
from harness.study.time_estimate import estimate, makespan


def print_plan(
    study: StudyConfig, run_dir: Path, *, pilot: Path | None, console: Console, keys: Collection[str] = ()
) -> None:
    """Print what the study could find and what it costs; write nothing.

    Args:
        study: The resolved study.
        run_dir: Its run directory; times are estimated from finished cells there and in its siblings.
        pilot: A finished run directory that provides the spread of scores, instead of the defaults, and the times.
        console: For the output.
        keys: The settings that the user made: data that was named must be there.

    Raises:
        UserError: The pilot, or the data that the user names, cannot be used.
    """
    if "data.train" in keys and is_ready(study.data.train, study.runtime.cache):
        resolve_source(study.data.train, study.runtime.cache)
    benchmark = _benchmark(study, console, named=not {"data.benchmark", "data.split"}.isdisjoint(keys))
    questions = load_report().plan(console, study, benchmark, pilot)
    cells = matrix.cells_of(study)
    one_more = [cell for cell in cells if not cell.is_base and cell.seed == study.first_seed]
    console.print()
    console.say(_work(study, cells, questions))
    console.say(_storage(study, cells))
    until = [(f"Up to the look at {k} seeds, the study takes", k) for k in study.looks[:-1]]
    steps = [(what, cells_until(study, cells, k)) for what, k in until]
    whole = "The whole study takes" if not steps else "Up to the last, the whole study takes"
    for what, some in (*steps, (whole, cells), ("One more seed per method takes", one_more)):
        console.say(f"{what} {_cost(some, study, pilot or run_dir, questions)}.")


def _work(study: StudyConfig, cells: Sequence[Cell], questions: int) -> str:
    """The work to be done, in units that do not depend on the machine."""
    budget, runs = study.budget, [cell for cell in cells if not cell.is_base]
    unit = {"examples": "examples", "steps": "optimiser steps", "seconds": "device seconds"}[budget.kind]
    sampling = {cell.method: cell.rollouts for cell in runs if cell.rollouts}
    sampled = ", ".join(f"{rollouts} by {study.label(method)}" for method, rollouts in sampling.items())
    checkpoints = sum(study.for_method(cell.method).train.checkpoints for cell in runs)
    return (
        f"Work: {len(runs)} training runs of {budget.amount:g} {unit} each"
        + (f", with completions sampled for every example ({sampled})" if sampled else "")
        + f"; {questions:,} questions answered by {checkpoints} checkpoints and the base model, "
        f"{questions * (checkpoints + 1):,} answers."
    )


def _storage(study: StudyConfig, cells: Sequence[Cell]) -> str:
    """The disk space of all checkpoints: trained weights, and for each run's last the optimiser's state."""
    try:
        sizes = count_parameters(model_sizes(study.model.name), study.model)
    except UserError as error:
        return f"Disk: unknown, because {str(error).split(chr(10))[0]}"
    # As the trainer saves them: fp32, the whole model with full tuning, else the trained weights.
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


def _benchmark(study: StudyConfig, console: Console, *, named: bool) -> Dataset | None:
    """The benchmark's records; where a preset's are not there yet, print that and return None."""
    source = benchmark_source(study.data)
    try:
        if is_ready(source, study.runtime.cache):
            return load_data(study, with_train=False, keep=False)[1]
        reason = f"{source} is not generated yet"
    except UserError as error:
        if named or Path(study.data.benchmark.partition("#")[0]).exists():
            raise
        reason = str(error).split(chr(10))[0]
    limit = study.data.benchmark_limit
    full = f"the full VSI-Bench, not for {limit} of its questions" if limit else "the full VSI-Bench"
    console.say(f"Planned for {full}, because {reason}", style="yellow")
    return None


def _cost(cells: Sequence[Cell], study: StudyConfig, run_dir: Path, questions: int) -> str:
    """Time and disk space of these cells from scratch, in words; from finished cells on this machine."""
    works = matrix.launch_order(CellWork(cell, Status(), cell.is_base, False) for cell in cells)
    costs = [estimate(work, study, run_dir, questions) for work in works]
    seconds, size = makespan(costs, min(study.runtime.workers, len(works))), sum(one.size for one in costs)
    if not seconds and not size:
        return "an unknown time: there is no finished cell of the same method and model on this machine"
    pairs = zip(works, costs, strict=True)
    unmeasured = dict.fromkeys(work.cell.method for work, one in pairs if one.unknown or not one.size)
    missing = f", without {', '.join(unmeasured)} (no finished cell)" if unmeasured else ""
    return f"about {duration(seconds)} and {_bytes(size)} of disk{missing}"
