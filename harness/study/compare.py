"""A study from its data to its report: plan it, compute the missing cells, report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from harness.config.evaluation import DEVELOPMENT
from harness.config.study import StudyConfig
from harness.console import Console, Text
from harness.data.contents import content_digest
from harness.data.reader import Dataset
from harness.data.sources import is_ready, world_split
from harness.data.video.predecode import predecode
from harness.errors import UserError, first_few
from harness.io import digest_of, remove_leftovers
from harness.locks import hold
from harness.memory import estimate as memory
from harness.models.conversation import conversation_notes
from harness.models.loading import check_model, model_config, model_digest
from harness.processes import usable_cores
from harness.study import matrix
from harness.study.declared import declare
from harness.study.description import describe, write_description
from harness.study.display import STYLES, MatrixDisplay, duration, progress_bar
from harness.study.effective import print_settings
from harness.study.evaluation import score_evaluation
from harness.study.finished import checked_status, read_finished
from harness.study.identity import question_digests
from harness.study.launch import run_cells
from harness.study.lookalikes import note_lookalikes
from harness.study.matrix import LOG_FILE, Cell, CellWork
from harness.study.report import load_report
from harness.study.scored import OWN_WORDS, Rules
from harness.study.setup import benchmark_source, checked_training, frame_cache, load_data, read_development
from harness.study.shared_training import reuse_training, training_rounds
from harness.study.sources import DEVELOPMENT_KEY, build_source, check_development
from harness.study.status import State, Status, read_status
from harness.study.threads import settle_threads
from harness.study.time_estimate import Estimate, estimate, makespan

OPENED_FIRST = ("index.html", "scores.md", "scores.tex", "scores.csv")
"""Files of a report whose paths are printed."""


@dataclass(frozen=True)
class Plan:
    """A study's cells and data, with the model and data found.

    Attributes:
        cells: In the order of the table.
        train: The training records.
        benchmark: The benchmark's records.
        questions: What identifies each benchmark's questions, the headline's first.
        development: The records that checkpoints are chosen by, where the study has some.
    """

    cells: list[Cell]
    train: Dataset
    benchmark: Dataset
    questions: Mapping[str, str]
    development: Dataset | None = None

    def rules(self, study: StudyConfig) -> list[Rules]:
        """The study's benchmarks at work, the headline first."""
        records = {DEVELOPMENT: self.development or self.benchmark}
        return [
            Rules.of(study, name, records.get(name, self.benchmark), digest) for name, digest in self.questions.items()
        ]


def make_plan(study: StudyConfig, console: Console, *, keep: bool = True) -> Plan:
    """Find the model, say what of its own defaults is not used, read or generate the data, list the cells.

    Args:
        study: The resolved study.
        console: For messages.
        keep: Keep in the cache the videos' digests and which are broken.

    Raises:
        UserError: The model or the data cannot be used.
    """
    weights = _checked_digest(study, console)
    build_source(benchmark_source(study.data), study, console)
    build_source(study.data.train, study, console, default="train")
    if chosen := study.evaluation.development:
        check_development(study, DEVELOPMENT_KEY, chosen, console, build=keep)
        build_source(chosen, study, console)
    train, benchmark = load_data(study, keep=keep)
    development = read_development(study, keep=keep)
    assert train is not None
    for skipped in filter(None, (one.skipped for one in (train, benchmark, development) if one is not None)):
        console.say(f"{len(skipped)} records are skipped:", style="yellow")
        console.say("  " + first_few(skipped, "\n  "))
    frames = frame_cache(study, model_config(study.model.name))
    with progress_bar("reading training videos", console) as show:
        trained = content_digest(train, frames, show, keep=keep)
    with progress_bar("reading benchmark videos", console) as show:
        content = content_digest(benchmark, frames, show, keep=keep)
    chosen_by = None
    if development is not None:
        with progress_bar("reading development videos", console) as show:
            chosen_by = development, content_digest(development, frames, show, keep=keep)
    questions = question_digests(study, benchmark, content, chosen_by)
    cells = matrix.cells_of(study, model_digest=weights, train_digest=trained, questions=questions)
    return Plan(cells, train, benchmark, questions, development)


def _checked_digest(study: StudyConfig, console: Console) -> str:
    """What identifies the model, which is checked first."""
    remarks = [f"{study.model.name}: {remark}" for remark in check_model(study.model)]
    for note in (*remarks, *conversation_notes(study.model.name)):
        console.say(note, style="yellow")
    return model_digest(study.model.name)


def compare(
    study: StudyConfig, run_dir: Path, *, dry_run: bool, console: Console, keys: Collection[str] | None = None
) -> int:
    """Compute the incomplete cells of a study and report on all cells.

    Args:
        study: The resolved study.
        run_dir: The run directory; its complete cells are reused.
        dry_run: Only print which cells are complete and what would be computed; write nothing.
        console: For messages.
        keys: The settings that the user made, printed first with those in which methods differ; None prints none.

    Returns:
        0 when all cells are done, 1 when some failed.

    Raises:
        UserError: Data or model cannot be used, or another process holds the run directory.
        KeyboardInterrupt: Stopped by the user; all results so far are kept.
    """
    if keys is not None:
        print_settings(study, keys, console)
    study = settle_threads(study, run_dir, console)
    if dry_run:
        print_dry_run(study, run_dir, console)
        return 0
    matrix.check_output(run_dir, study)
    load_report().check_output(run_dir, study)
    plan = make_plan(study, console)
    with hold(run_dir, "run directory", elsewhere=True) as taken:
        if taken:
            console.say(taken, style="yellow")
        matrix.write_matrix(
            run_dir, study, plan.cells, train_digest=plan.train.digest, benchmark_digest=plan.benchmark.digest
        )
        rules = describe_study(study, run_dir, plan, console)
        all_done = _compute(study, run_dir, plan, plan.cells, console)
        try:
            score_cells(study, run_dir, plan.cells, rules)
            write_report(run_dir, console)
        except UserError as error:
            if all_done:
                raise
            console.say(f"There is no comparison yet: {error}", style="yellow")
    return 0 if all_done else 1


def prepare_run(study: StudyConfig, run_dir: Path, console: Console) -> None:
    """Check a study and write what it declares, before it or another one computes anything.

    Raises:
        UserError: As :func:`compare`.
    """
    study = settle_threads(study, run_dir, console)
    matrix.check_output(run_dir, study)
    load_report().check_output(run_dir, study)
    plan = make_plan(study, console)
    with hold(run_dir, "run directory", elsewhere=True):
        declare_study(study, run_dir, plan, console)


def describe_study(study: StudyConfig, run_dir: Path, plan: Plan, console: Console) -> list[Rules]:
    """Write what a report is made from: the plan, or its amendments, and the description; return the benchmarks."""
    rules = declare_study(study, run_dir, plan, console)
    write_description(run_dir, describe(study, plan.train, plan.benchmark, rules))
    return rules


def declare_study(study: StudyConfig, run_dir: Path, plan: Plan, console: Console) -> list[Rules]:
    """Write what the study declares, or append what is different now; return its benchmarks."""
    rules = plan.rules(study)
    settled = load_report().settled(study, plan.benchmark)
    worked_out = {
        "report.pairs": [list(pair) for pair in settled.pairs or ()],
        "report.margin": settled.margin,
        "evaluation.scorer": rules[0].benchmark.scorer_named(study.evaluation.scorer),
        "digests.train": plan.train.digest,
        "digests.benchmark": plan.benchmark.digest,
        "version": version(matrix.PACKAGE),
    }
    worked_out |= {f"digests.scorers.{one.name}": one.digest for one in rules}
    for cell in plan.cells:
        worked_out["digests.model"] = cell.identity["model"]["digest"]
        if not cell.is_base:
            worked_out[f"digests.code.{cell.method}"] = digest_of(cell.identity["sources"])
    declare(run_dir, study, worked_out, console)
    return rules


def score_cells(study: StudyConfig, run_dir: Path, cells: Sequence[Cell], rules: Sequence[Rules]) -> None:
    """Score the answers of finished cells that were not scored by these rules yet, as after an edited scorer.

    Raises:
        UserError: Answers are not what their evaluation wrote, or cannot be scored.
    """
    for cell in cells:
        folder = cell.folder(run_dir)
        if checked_status(folder).state is State.DONE:
            finished = read_finished(folder)
            mode = (study if cell.is_base else study.for_method(cell.method)).prompt.evaluation
            for one in rules:
                for evaluation in finished.evaluations(folder, one.name):
                    score_evaluation(evaluation, one, OWN_WORDS if one.own_words else mode)


def train(study: StudyConfig, run_dir: Path, *, console: Console) -> int:
    """Compute the cells of a study's methods, without the base model and the report.

    Returns, raises: As :func:`compare`.
    """
    study = settle_threads(study, run_dir, console)
    matrix.check_cells(run_dir)
    plan = make_plan(study, console)
    cells = [cell for cell in plan.cells if not cell.is_base]
    with hold(run_dir, "run directory", elsewhere=True) as taken:
        if taken:
            console.say(taken, style="yellow")
        if not (run_dir / matrix.DECLARATION).exists():
            declare_study(study, run_dir, plan, console)
        all_done = _compute(study, run_dir, plan, cells, console)
    for cell in cells:
        console.say(str(cell.folder(run_dir)))
    return 0 if all_done else 1


def write_report(run_dir: Path, console: Console, *, with_published: bool = False, out: Path | None = None) -> None:
    """Rebuild the report from the run directory, print it and name its files.

    Args:
        run_dir: The run directory.
        console: For the tables.
        with_published: Show published results next to ours even if the study does not.
        out: Where the files go, by default a folder of the run directory.

    Raises:
        UserError: The folder is not a run directory, or no cell is complete.
    """
    matrix.read_matrix(run_dir)
    tell_files(load_report().write(run_dir, console, with_published=with_published, out=out), console)


def tell_files(paths: Sequence[Path], console: Console) -> None:
    """Print the paths of the report's main files and the folder of the others."""
    first = [path for path in paths if path.name in OPENED_FIRST] or list(paths[:1])
    for path in first:
        console.say(str(path))
    if len(paths) > len(first):
        console.say(f"and {len(paths) - len(first)} more files in {paths[0].parent}")


def print_dry_run(study: StudyConfig, run_dir: Path, console: Console) -> None:
    """Print the matrix, the status of each cell, the remaining work and its estimated time; write nothing."""
    sources = filter(None, (benchmark_source(study.data), study.data.train, study.evaluation.development))
    absent = [source for source in sources if not is_ready(source, study.runtime.cache)]
    if absent:
        # Without the data a cell has no identity, so no folder of the run directory can be its own.
        plan = None
        _check_ready(study, console)
        cells = matrix.cells_of(study, model_digest=_checked_digest(study, console))
        works = [CellWork(cell, Status(), cell.is_base, False) for cell in cells]
        console.say(f"Data to be generated first: {', '.join(absent)}")
    else:
        plan = make_plan(study, console, keep=False)
        works = matrix.remaining_work(run_dir, plan.cells)
    order = [w for w in matrix.launch_order(works) if not w.complete]
    questions = len(plan.benchmark.records) if plan else None
    estimates = {w.cell.id: estimate(w, study, run_dir, questions) for w in order}
    console.print(_plan_table(study, run_dir, works, estimates, named=plan is not None))
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


def _compute(study: StudyConfig, run_dir: Path, plan: Plan, cells: Sequence[Cell], console: Console) -> bool:
    """Run the incomplete cells; return whether all are complete."""
    works = matrix.remaining_work(run_dir, cells)
    todo = [work.cell for work in matrix.launch_order(works) if not work.complete]
    if not todo:
        console.say("Nothing to compute: every cell is done.")
        return True
    note_lookalikes(study, run_dir, plan.train, plan.benchmark, console)
    memory.print_summary(study, console)
    asked = [one for one in (plan.benchmark, plan.development, plan.train) if one is not None]
    _decode(study, [video for one in asked for video in one.distinct_videos()], console)
    for cell in todo:
        matrix.write_cell(run_dir, study, cell)
    workers = min(study.runtime.workers, len(todo))
    try:
        with MatrixDisplay(console, _title(study), works) as display:
            states: dict[str, State] = {}
            for cells in training_rounds(todo):
                for cell in cells:
                    reuse_training(run_dir, cell, plan.cells)
                threads = study.runtime.threads
                states |= run_cells(run_dir, cells, workers=workers, threads=threads, on_change=display.update)
    except KeyboardInterrupt:
        console.say("Interrupted. Run the same command to resume.", style="yellow")
        raise
    incomplete = [cell for cell in todo if states[cell.id] is not State.DONE]
    for cell in incomplete:
        status = read_status(cell.folder(run_dir))
        console.say((f"{status.state.value} ", STYLES[status.state]), f"{cell.id}: {status.reason}")
        console.say(f"  log: {cell.folder(run_dir) / LOG_FILE}")
    return not incomplete


def _decode(study: StudyConfig, videos: Sequence[Path], console: Console) -> None:
    """Decode the videos before the cells need them, with a progress bar."""
    frames = frame_cache(study, model_config(study.model.name))
    remove_leftovers(study.runtime.cache)
    remove_leftovers(frames.root, below=True)
    workers = study.runtime.decoders or usable_cores()
    with progress_bar("decoding videos", console) as show:
        decoded = predecode(frames, videos, workers, show)
    if decoded:
        console.say(f"{decoded} videos decoded by {workers} processes")


def _title(study: StudyConfig) -> str:
    budget = f"{study.budget.amount:g} {study.budget.kind}"
    return f"study {study.name} · model {study.model.name} · {budget} · {study.runtime.workers} at a time"


def _plan_table(
    study: StudyConfig, run_dir: Path, works: Sequence[CellWork], estimates: dict[str, Estimate], *, named: bool
) -> Table:
    table = Table(title=f"{_title(study)}\n{run_dir}", title_justify="left", box=None, padding=(0, 2, 0, 0))
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
