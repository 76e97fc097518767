"""CPU threads: their number changes how sums are rounded, so a run directory keeps the number it began with."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, NonNegativeInt

from harness.config.study import StudyConfig
from harness.console import Console
from harness.errors import UserError
from harness.io import read_as
from harness.study.identity import threads_of
from harness.study.matrix import CELLS, CONFIG_FILE, STUDY_FILE


class _Runtime(BaseModel):
    threads: NonNegativeInt = 0


class _Study(BaseModel):
    """Of a recorded study, what is read here."""

    runtime: _Runtime


class _Cell(BaseModel):
    study: _Study


def settle_threads(study: StudyConfig, run_dir: Path, console: Console) -> StudyConfig:
    """The study with the number of threads that its cells use where models are computed on the CPU.

    ``runtime.threads = 0`` stands for the number that the run directory was computed with, on whatever machine, and for
    torch's default in a new one. On a GPU threads round nothing, and the study stays as it is.

    Args:
        study: The resolved study.
        run_dir: The run directory; it need not exist.
        console: Is told of a number that differs from the setting, or from the recorded one.
    """
    if threads_of(study) is None:
        return study
    recorded, default = recorded_threads(run_dir), torch.get_num_threads()
    threads = study.runtime.threads or recorded or default
    if recorded and threads != recorded:
        console.say(
            f"runtime.threads = {threads}: {run_dir} was computed with {recorded} CPU threads. Their number changes "
            f"rounding, so its cells are computed again; runtime.threads = {recorded} keeps them",
            style="yellow",
        )
    elif not study.runtime.threads and threads != default:
        console.say(f"{threads} CPU threads per cell, as {run_dir} was computed with (here the default is {default})")
    return study.model_copy(update={"runtime": study.runtime.model_copy(update={"threads": threads})})


def recorded_threads(run_dir: Path) -> int:
    """The number of threads that a run directory was last computed with; 0 if none is recorded."""
    for path in (run_dir / STUDY_FILE, *sorted(run_dir.glob(f"{CELLS}/*/{CONFIG_FILE}"))):
        try:
            found = read_as(_Study, path, "") if path.name == STUDY_FILE else read_as(_Cell, path, "").study
        except UserError:
            continue  # missing, or damaged: who needs it says so
        if found.runtime.threads:
            return found.runtime.threads
    return 0
