"""Whether the process that wrote a file is alive, also as seen from another container, another host or later.

On the same machine its process is looked up. From elsewhere only its heartbeat shows: it sets the file's time of
modification, by the clock of the file system, every few seconds.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

BEAT = 10.0
"""Seconds between two signs of life."""
PATIENCE = 300.0
"""Seconds without one until a process elsewhere counts as dead: clocks differ, and file systems are slow to tell."""


@dataclass(frozen=True)
class Writer:
    """A process, named so that no other one anywhere is taken for it.

    Attributes:
        host: The name of its host or container.
        boot: Linux's id of this start of the machine, which containers share; elsewhere empty.
        namespace: Linux's number of its container's processes; elsewhere empty.
        pid: Its number there.
        began: When it started: clock ticks since the start of the machine, elsewhere Unix time.
    """

    host: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    began: float = 0.0

    @classmethod
    def here(cls) -> Writer:
        """This process."""
        return replace(_machine(), pid=os.getpid(), began=_began(os.getpid()))

    @property
    def shares_kernel(self) -> bool:
        """Whether it runs on the same start of the same machine, perhaps in another container."""
        mine = _machine()
        return self.boot == mine.boot if self.boot or mine.boot else self.host == mine.host

    @property
    def is_near(self) -> bool:
        """Whether its number means the same process here."""
        return self.shares_kernel and self.namespace == _machine().namespace

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host or 'an unknown host'}"


@functools.cache
def _machine() -> Writer:
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return Writer(socket.gethostname(), boot, namespace)


def _began(pid: int) -> float:
    """Since the start of the machine, where that is told: setting the clock changes the Unix time of a start."""
    with suppress(OSError):
        return float(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


@contextmanager
def heartbeat(file: Path) -> Iterator[None]:
    """Give a sign of life on a file as long as the block runs; it costs no writing and touches no numbers."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):
                os.utime(file)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def is_alive(writer: Writer, age: float) -> tuple[bool, str]:
    """Whether a process lives, and what there is to say about that.

    Args:
        writer: The process.
        age: Seconds since its last sign of life.
    """
    if not writer.is_near:
        if age > PATIENCE:
            return False, f"no sign of life from {writer} for {age / 60:,.0f} minutes"
        return True, f"{writer}, last sign of life {max(age, 0):.0f} s ago"
    try:
        state = psutil.Process(writer.pid).status()
        there = state != psutil.STATUS_ZOMBIE and _began(writer.pid) == writer.began
    except psutil.AccessDenied:  # of another user
        return True, f"process {writer.pid} is working on it"
    except (psutil.NoSuchProcess, ValueError):
        there = False
    if not there:
        return False, f"process {writer.pid} ended without recording a result"
    if state == psutil.STATUS_STOPPED:
        return True, f"process {writer.pid} is stopped; `kill -CONT {writer.pid}` lets it go on"
    return True, f"process {writer.pid} is working on it"


def age_of(*files: Path) -> float:
    """Seconds since the last sign of life on one of the files, by this machine's clock; infinite without a file."""
    times = [float("-inf")]
    for file in files:
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return time.time() - max(times)
