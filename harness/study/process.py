"""A cell as a process of its own: how it is started, and how it ends with the process that started it."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torch.distributed and accelerate read from the environment: which process this is of how many."""

PARENT_VARIABLE = "HARNESS_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def command_line() -> str:
    """What was typed to start this process, as one line."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def cell_command(run_dir: Path, cell_id: str) -> list[str]:
    """The command line that computes one cell; exit code 0 done, 1 failed, 130 interrupted."""
    return [sys.executable, "-m", "harness.study.cell", str(run_dir), cell_id]


def visible_gpus(inherited: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; none where there are none."""
    named = inherited.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def cell_environment(threads: int, inherited: Mapping[str, str] = os.environ, gpu: str | None = None) -> dict[str, str]:
    """The environment of a cell.

    Args:
        threads: CPU threads; 0 leaves the choice to torch.
        inherited: The launcher's environment, kept otherwise (``HF_HUB_OFFLINE``).
        gpu: The only one that the cell sees; None leaves it those of the launcher.
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


def die_with_parent() -> None:
    """Ask Linux to kill this process when the launcher that started it dies; elsewhere do nothing.

    A cell calls it first thing. SIGKILL, because a cell loses nothing by it and an orphan that
    lingers would hold the cell against the next run. Linux ties it to the *thread* that
    started the process, so cells are started from the launcher's main thread.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if str(os.getppid()) != parent:
        os._exit(130)


def start_ranks(run_dir: Path, cell_id: str, size: int, failed: Callable[[int], None]) -> None:
    """Start the other processes that train a cell together with this one, which becomes the first of them.

    They end with this process; if one ends before it with an error, ``failed`` is called with its exit code, in a
    thread of its own, since this process may be waiting for the one that is gone.
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
