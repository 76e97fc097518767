"""A study from its data to its report: plan it, compute the missing cells, report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path

from harness.config.study import StudyConfig
from harness.console import Console
from harness.data.video.predecode import predecode
from harness.errors import UserError
from harness.io import digest_of, remove_leftovers
from harness.locks import hold
from harness.memory import estimate as memory
from harness.models.loading import model_config
from harness.processes import usable_cores
from harness.study import matrix
from harness.study.declared import declare
from harness.study.description import describe, write_description
from harness.study.display import STYLES, MatrixDisplay, progress_bar
from harness.study.dry_run import print_dry_run, study_title
from harness.study.effective import print_settings
from harness.study.evaluation import score_evaluation
from harness.study.finished import checked_status, read_finished
from harness.study.launch import run_cells
from harness.study.lookalikes import note_lookalikes
from harness.study.looks import cells_until, look_begun
from harness.study.matrix import LOG_FILE, Cell
from harness.study.planning import Plan, make_plan
from harness.study.report import load_report
from harness.study.scored import OWN_WORDS, Rules
from harness.study.setup import frame_cache
from harness.study.shared_training import reuse_training, training_rounds
from harness.study.status import State, read_status
from harness.study.threads import settle_threads

OPENED_FIRST = ("index.html", "scores.md", "scores.tex", "scores.csv")
"""Files of a report whose paths are printed."""


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
        looks = study.looks
        for look in looks[looks.index(look_begun(study, run_dir, plan.cells)) :]:
            cells = cells_until(study, plan.cells, look)
            all_done = _compute(study, run_dir, plan, cells, console)
            try:
                score_cells(study, run_dir, cells, rules)
                write_report(run_dir, console)
            except UserError as error:
                if all_done:
                    raise
                console.say(f"There is no comparison yet: {error}", style="yellow")
            if not all_done or look == study.runs or not load_report().undecided(run_dir):
                break
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
        with MatrixDisplay(console, study_title(study), works) as display:
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
