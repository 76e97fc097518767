"""One study on several models: a run directory each, one after the other, then the report on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.study import StudyConfig
from harness.console import Console
from harness.errors import UserError
from harness.study.compare import compare, prepare_run, tell_files
from harness.study.matrix import CELLS, MATRIX_FILE, model_folder
from harness.study.report import load_report
from harness.study.status import State, read_status


@dataclass(frozen=True)
class ModelStudy:
    """The study of one model.

    Attributes:
        study: As for this model alone.
        keys: The settings that the user made.
    """

    study: StudyConfig
    keys: Sequence[str]


def run_folders(studies: Sequence[ModelStudy], out: Path) -> dict[Path, ModelStudy]:
    """The run directory of each model, a folder of ``out``.

    Raises:
        UserError: Two models have the same folder, or ``out`` is a run directory itself.
    """
    if (out / MATRIX_FILE).exists():
        raise UserError(
            f"`{out}`: it is a run directory, and several models have a folder each; name another with --out"
        )
    found: dict[Path, ModelStudy] = {}
    for one in studies:
        folder = out / model_folder(one.study.model.name)
        if folder in found:
            raise UserError(
                f"`--model`: {found[folder].study.model.name} and {one.study.model.name} would both be run in "
                f"{folder}; run one of them with an --out of its own"
            )
        found[folder] = one
    return found


def compare_models(studies: Sequence[ModelStudy], out: Path, *, dry_run: bool, console: Console) -> int:
    """Run the study of each model as :func:`harness.study.compare.compare` does, then report on all of them.

    Every study is checked and declares its plan before the first model trains: none is planned with the results of
    another at hand.

    Returns:
        0 when all cells of all models are done, 1 when some failed.

    Raises:
        UserError: As :func:`harness.study.compare.compare`, for any of the models; or two have the same folder.
        KeyboardInterrupt: Stopped by the user; the same command continues.
    """
    folders = run_folders(studies, out)
    if not dry_run:
        for folder, one in folders.items():
            prepare_run(one.study, folder, console)
    codes = []
    for number, (folder, one) in enumerate(folders.items(), 1):
        console.say(f"Model {number} of {len(folders)}: {one.study.model.name}", style="bold")
        codes.append(compare(one.study, folder, dry_run=dry_run, console=console, keys=one.keys))
        console.say("")
    if dry_run:
        return max(codes)
    done = [folder for folder in folders if _has_results(folder)]
    if len(done) < 2:
        console.say("There is no joint report yet: fewer than two models have results", style="yellow")
    else:
        tell_files(load_report().write_several(done, console, out=out / "report"), console)
    return max(codes)


def _has_results(folder: Path) -> bool:
    return any(read_status(cell).state is State.DONE for cell in (folder / CELLS).glob("*"))
