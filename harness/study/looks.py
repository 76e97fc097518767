"""Declared looks: the cells that each needs, and the one that a run directory has reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from harness.config.study import BASE, StudyConfig
from harness.study.matrix import CELLS, Cell, MatrixRow
from harness.study.status import State, read_status

Row = TypeVar("Row", Cell, MatrixRow)


def cells_until(study: StudyConfig, cells: Iterable[Row], seeds: int, after: int = 0) -> list[Row]:
    """The base model's cell, and those of a study's repetitions from number ``after`` up to ``seeds``."""
    return [one for one in cells if one.method == BASE or after <= one.seed - study.first_seed < seeds]


def look_begun(study: StudyConfig, run_dir: Path, cells: Sequence[Cell]) -> int:
    """Seeds of the last look that a study's cells were prepared for; those of the first before that."""
    last = max([cell.seed for cell in cells if cell.folder(run_dir).is_dir()], default=0) - study.first_seed
    return next((look for look in study.looks if last < look), study.runs)


def look_reached(study: StudyConfig, run_dir: Path, rows: Sequence[MatrixRow]) -> tuple[int, tuple[int, int] | None]:
    """What a run directory's results allow to look at.

    Returns:
        Seeds of the last look whose cells are all done, else of the first; and of the further cells of the look after
        that, those that are done and all, if any of them has begun.
    """
    state = {one.id: read_status(run_dir / CELLS / one.id).state for one in rows}
    complete = [k for k in study.looks if all(state[one.id] is State.DONE for one in cells_until(study, rows, k))]
    seeds = complete[-1] if complete else study.looks[0]
    after = next((look for look in study.looks if look > seeds), seeds)
    further = [state[one.id] for one in cells_until(study, rows, after, seeds) if one.method != BASE]
    begun = any(one is not State.PENDING for one in further)
    return seeds, (further.count(State.DONE), len(further)) if begun else None
