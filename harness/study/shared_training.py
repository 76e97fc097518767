"""Cells that differ only in their evaluation are trained once and evaluated in each prompt mode."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness.io import write_bytes
from harness.study.matrix import Cell, budget_spent
from harness.train.meter import COMPUTE_FILE
from harness.train.run import CHECKPOINTS
from harness.train.tracking import METRICS_FILE


def training_rounds(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells in one or two rounds, in their order; the second has those that share an earlier cell's training."""
    first: list[Cell] = []
    later: list[Cell] = []
    for cell in cells:
        known = {one.training for one in first}
        (later if not cell.is_base and cell.training in known else first).append(cell)
    return [cells for cells in (first, later) if cells]


def reuse_training(run_dir: Path, cell: Cell, others: Iterable[Cell]) -> bool:
    """Give a cell the checkpoints of a finished cell with the same training; return whether there was one.

    Files are hard-linked where the file system allows it, so that they take no space. A cell that has begun its own
    training keeps it.
    """
    folder = cell.folder(run_dir)
    if cell.is_base or (folder / CHECKPOINTS).exists():
        return False
    for other in others:
        source = other.folder(run_dir)
        if other.training == cell.training and other.id != cell.id and budget_spent(source, other):
            _link_tree(source / CHECKPOINTS, folder / CHECKPOINTS)
            for name in (METRICS_FILE, COMPUTE_FILE):  # the latter marks training as complete, so it comes last
                write_bytes(folder / name, (source / name).read_bytes())
            return True
    return False


def _link_tree(source: Path, target: Path) -> None:
    """Whole or absent: made under another name, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        whole = Path(folder) / target.name
        shutil.copytree(source, whole, copy_function=_link)
        whole.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
