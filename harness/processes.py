"""Running a function over many items in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

_JOBS_WORTH_A_PROCESS = 4
"""Starting a process takes as long as decoding or rendering a few videos."""


def usable_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Results of a picklable function in the order of its jobs; computed in this process when there are few jobs."""
    workers = min(workers, len(jobs) // _JOBS_WORTH_A_PROCESS)
    if workers < 2:
        yield from map(work, jobs)
        return
    with process_pool(workers) as pool:
        try:
            yield from pool.map(work, jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end with this one; spawned, because a fork of a process with running torch threads can hang."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed: a pool's workers would wait forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
