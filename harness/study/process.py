"""The process of a cell: its command, its environment, and its end with the process that started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from harness.processes import end_with_parent

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Read by torch.distributed and accelerate: the rank of this process and the number of processes."""

EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
"""Exit codes of a cell's process."""

PARENT_VARIABLE = "HARNESS_PARENT_PID"


def cell_command(run_dir: Path, cell_id: str) -> list[str]:
    """The command line that computes one cell, with the plugin files of this process."""
    from harness.plugins import registry  # a cell sets its signals before it imports much

    return [sys.executable, "-m", "harness.study.cell", str(run_dir), cell_id, *map(str, registry.added_files())]


def interrupt(number: int, frame: FrameType | None) -> None:
    """A handler of signals that ends a process as Ctrl-C does."""
    raise KeyboardInterrupt


def is_first_rank() -> bool:
    """Whether this process writes files: it is the only one, or the first of those that train together."""
    return os.environ.get("RANK", "0") == "0"


def visible_gpus(inherited: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = inherited.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def cell_environment(threads: int, inherited: Mapping[str, str] = os.environ, gpu: str | None = None) -> dict[str, str]:
    """The environment of a cell.

    Args:
        threads: CPU threads; 0: torch's default.
        inherited: The launcher's environment, of which the rest is kept (``HF_HUB_OFFLINE``).
        gpu: The only GPU that the cell sees; None: all that the launcher sees.
    """
    environment = {name: value for name, value in inherited.items() if name not in RANK_VARIABLES}
    environment |= {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        PARENT_VARIABLE: str(os.getpid()),
    }
    if threads > 0:
        environment["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def end_with_launcher() -> None:
    """End with the process that started this cell; a cell calls it first.

    A cell loses nothing by being killed, whereas an orphan would keep it locked. Cells and ranks are started from their
    parents' main threads.
    """
    if (launcher := os.environ.get(PARENT_VARIABLE)) is not None:
        end_with_parent(int(launcher))


def start_ranks(run_dir: Path, cell_id: str, size: int, failed: Callable[[int], None]) -> None:
    """Start the further processes that train a cell together with this one, which becomes rank 0.

    They end with this process. If one fails, ``failed`` is called with its exit code in a separate thread, since this
    process may be waiting for the failed one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ[PARENT_VARIABLE] = str(os.getpid())

    def environment_of(rank: int) -> dict[str, str]:
        values = (str(rank), str(rank), str(size), "127.0.0.1", str(port))
        return dict(zip(RANK_VARIABLES, values, strict=True))

    others = [
        subprocess.Popen(cell_command(run_dir, cell_id), env=os.environ | environment_of(rank))
        for rank in range(1, size)
    ]
    os.environ.update(environment_of(0))

    def watch(process: subprocess.Popen[bytes]) -> None:
        if code := process.wait():
            failed(code)

    for process in others:
        threading.Thread(target=watch, args=(process,), daemon=True).start()
