"""Cells with the same training and another evaluation: trained once, evaluated in each prompt mode."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness.io import write_bytes
from harness.study.matrix import COMPUTE_FILE, Cell, budget_spent

CHECKPOINTS = "checkpoints"
METRICS_FILE = "metrics.jsonl"


def waves(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells in their order; those that train the same as an earlier one come in a second wave."""
    first: list[Cell] = []
    later: list[Cell] = []
    for cell in cells:
        known = {one.training for one in first}
        (later if not cell.is_base and cell.training in known else first).append(cell)
    return [wave for wave in (first, later) if wave]


def take_over(run_dir: Path, cell: Cell, others: Iterable[Cell]) -> bool:
    """Give a cell the checkpoints of a trained one that trains the same; say whether there was one.

    Files are linked where the file system can, so that they take no room. A cell that has begun to train by itself
    keeps what it has.
    """
    folder = cell.folder(run_dir)
    if cell.is_base or (folder / CHECKPOINTS).exists():
        return False
    for other in others:
        source = other.folder(run_dir)
        if other.training == cell.training and other.id != cell.id and budget_spent(source, other):
            _link_tree(source / CHECKPOINTS, folder / CHECKPOINTS)
            for name in (METRICS_FILE, COMPUTE_FILE):  # the latter says that training is complete, so it comes last
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
