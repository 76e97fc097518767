"""``--dry-run``: what is done, what would be computed, and about how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from harness.config.study import StudyConfig
from harness.console import Console, Text
from harness.data.sources import is_ready, world_split
from harness.errors import UserError
from harness.study import matrix
from harness.study.display import STYLES, duration
from harness.study.looks import cells_until, look_begun
from harness.study.matrix import CellWork
from harness.study.planning import checked_digest, make_plan
from harness.study.report import load_report
from harness.study.setup import benchmark_source, checked_training, load_data
from harness.study.sources import DEVELOPMENT_KEY, check_development
from harness.study.status import State, Status
from harness.study.time_estimate import Estimate, estimate, makespan


def print_dry_run(study: StudyConfig, run_dir: Path, console: Console) -> None:
    """Print the matrix, the status of each cell, the remaining work and its estimated time; write nothing."""
    sources = filter(None, (benchmark_source(study.data), study.data.train, study.evaluation.development))
    absent = [source for source in sources if not is_ready(source, study.runtime.cache)]
    if absent:
        # Without the data a cell has no identity, so no folder of the run directory can be its own.
        plan = None
        _check_ready(study, console)
        cells = matrix.cells_of(study, model_digest=checked_digest(study, console))
        works = [CellWork(cell, Status(), cell.is_base, False) for cell in cells]
        console.say(f"Data to be generated first: {', '.join(absent)}")
    else:
        plan = make_plan(study, console, keep=False)
        cells = plan.cells
        works = matrix.remaining_work(run_dir, cells)
    order = [w for w in matrix.launch_order(works) if not w.complete]
    questions = len(plan.benchmark.records) if plan else None
    estimates = {w.cell.id: estimate(w, study, run_dir, questions) for w in order}
    console.print(_plan_table(study, run_dir, works, estimates, named=plan is not None))
    if len(study.looks) > 1:
        look = look_begun(study, run_dir, cells)
        until = {cell.id for cell in cells_until(study, cells, look)}
        if until.isdisjoint(work.cell.id for work in order) and not load_report().undecided(run_dir):
            console.say(f"At {look} seeds every pair is decided, so nothing is computed; the report would be rebuilt.")
            return
        looks = ", ".join(map(str, study.looks))
        console.say(
            f"Looks at {looks} seeds: training stops at the first that decides every pair, so what is listed is the "
            f"most that is left. The next look is at {look} seeds."
        )
    for work in works:
        if work.status.state in (State.RUNNING, State.INTERRUPTED):
            console.say(f"{work.cell.id} {work.status.state.value}: {work.status.reason}")
    if not order:
        console.say("All cells are complete; the report would be rebuilt.")
        return
    total = makespan(estimates.values(), study.runtime.workers)
    unknown = sorted({part for one in estimates.values() for part in one.unknown})
    if unknown:
        known = f"about {duration(total)} and " if total else ""
        why = "no finished cell of the same method and model"
        console.say(f"Time: {known}an unknown time for {' and '.join(unknown)} ({why})")
    else:
        console.say(
            f"Time: about {duration(total)} with {study.runtime.workers} at a time, "
            "estimated from finished cells of the same method and model",
        )


def _check_ready(study: StudyConfig, console: Console) -> None:
    """Read and check what is there already of data that is incomplete as yet."""
    if chosen := study.evaluation.development:
        check_development(study, DEVELOPMENT_KEY, chosen, console, build=False)
    if is_ready(benchmark_source(study.data), study.runtime.cache):
        load_data(study, with_train=False, keep=False)
    elif is_ready(study.data.train, study.runtime.cache):
        checked_training(study, None, keep=False)
    rooms = world_split(study.data.train)
    if rooms is not None and rooms == world_split(study.data.benchmark) and not study.data.drop_leaking:
        raise UserError(
            f"`data.train` = {study.data.train} shows rooms of the benchmark, {study.data.benchmark}; train on other "
            "rooms, such as world:train"
        )


def study_title(study: StudyConfig) -> str:
    """What heads a study's tables."""
    budget = f"{study.budget.amount:g} {study.budget.kind}"
    return f"study {study.name} · model {study.model.name} · {budget} · {study.runtime.workers} at a time"


def _plan_table(
    study: StudyConfig, run_dir: Path, works: Sequence[CellWork], estimates: dict[str, Estimate], *, named: bool
) -> Table:
    table = Table(title=f"{study_title(study)}\n{run_dir}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("Method", "Seed", "Status", "To do", "About", "Cell"):
        table.add_column(name, justify="right" if name in ("Seed", "About") else "left", overflow="fold")
    for work in works:
        cell, guess = work.cell, estimates.get(work.cell.id)
        missing = [n for n, there in (("train", work.trained), ("evaluate", work.evaluated)) if not there]
        about = "" if guess is None else duration(guess.seconds) if not guess.unknown else "unknown"
        table.add_row(
            cell.method,
            "" if cell.is_base else str(cell.seed),
            Text(work.status.state.value, style=STYLES[work.status.state]),
            ", ".join(missing) or "nothing",
            about,
            Text(cell.id if named else "", style="dim"),
        )
    return table
