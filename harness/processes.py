"""This process's command line, child processes that end with it, and a function over many items in several of them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from harness.errors import UserError
from harness.visible import own_streams

Job = TypeVar("Job")
Result = TypeVar("Result")

_JOBS_WORTH_A_PROCESS = 4
"""Starting a process takes as long as decoding or rendering a few videos."""
_PR_SET_PDEATHSIG = 1


def command_line() -> str:
    """The command line that started this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def usable_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies, in whatever way. Every child process calls it first.

    Linux sends SIGKILL at once, also to a process that is stopped or busy in native code, so that it writes nothing
    more; what it was writing stays under its temporary name. Linux ties this to the *thread* that started the process,
    so children are started by a thread that outlives them. Elsewhere a thread looks every second.

    Args:
        parent: The process that started this one. If it is dead already, this process ends here.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    else:
        threading.Thread(target=watch, daemon=True).start()
    if os.getppid() != parent:  # it died before
        os._exit(1)


def start_worker(number: int = 0) -> None:
    """Leave Ctrl-C to the parent, and end with it: the initialiser of every pool's processes."""
    own_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid)


def in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Results of a picklable function in the order of its jobs; computed in this process when there are few jobs.

    Raises:
        UserError: A process was killed.
    """
    workers = min(workers, len(jobs) // _JOBS_WORTH_A_PROCESS)
    if workers < 2:
        yield from map(work, jobs)
        return
    with process_pool(workers) as pool:
        yield from pool.map(work, jobs)


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one; spawned, because a fork of a process with running torch threads can hang.

    Raises:
        UserError: A process was killed.
    """
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker
    ) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {workers} worker processes was killed (for lack of memory, by hand, or it crashed on a "
                "damaged file). The same command goes on where it stopped; fewer processes need less memory"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
