"""One process at a time on a folder; a second one waits, or learns which process holds it."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.io import read_as, refuse_special, remove_leftovers
from harness.life import PATIENCE, Writer, heartbeat, is_alive
from harness.processes import command_line

LOCK_FILE = ".harness.lock"
WAIT = 60.0
"""Seconds to wait for a process that is writing a report or another folder of results."""


@dataclass(frozen=True)
class _Holding:
    """The content of a lock."""

    holder: Writer
    since: str
    command: str
    held: bool

    def __str__(self) -> str:
        return f"{self.holder} since {self.since}: {self.command}"


@contextmanager
def hold(folder: Path, what: str, wait: float = 0.0, *, elsewhere: bool = False) -> Iterator[str]:
    """Hold the lock of a folder; the operating system releases it when the process ends, however it ends.

    While it is held, its file gives signs of life (:mod:`harness.life`).

    Args:
        folder: Made if it is missing; its file :data:`LOCK_FILE` is locked and names the holder. What killed processes
            left half written in it is removed.
        what: What is held, for the message: ``run directory``, ``cell``.
        wait: Seconds to wait for another process.
        elsewhere: Believe the signs of life of a holder on another host too, since not every file system tells hosts of
            each other's locks.

    Yields:
        What to say of a holder on another host that is dead and whose place is taken; otherwise empty.

    Raises:
        UserError: Another process holds it (the message says which, where, since when and its command line), or the
            folder cannot be written.
    """
    file = folder / LOCK_FILE
    lock = FileLock(file, timeout=wait)
    try:
        refuse_special(file)
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"`{folder}`: this {what} is in use by {_read(file) or 'another process, which has not given its name'}. "
            "Wait for it, stop it, or choose another folder with --out"
        ) from error
    except OSError as error:
        raise UserError(
            f"`{folder}`: cannot be written or locked: {error.strerror}. Choose another folder with --out"
        ) from error
    try:
        taken = _taken_over(folder, what) if elsewhere else ""
        remove_leftovers(folder)
        mine = _Holding(Writer.here(), time.strftime("%Y-%m-%d %H:%M:%S %z"), command_line(), held=True)
        _write(file, mine)
        with heartbeat(file):
            try:
                yield taken
            finally:
                with suppress(OSError):  # a full disk
                    _write(file, replace(mine, held=False))
    finally:
        lock.release()


def _taken_over(folder: Path, what: str) -> str:
    """What to say of a dead holder on another host; empty where there is none.

    Raises:
        UserError: It is alive.
    """
    file = folder / LOCK_FILE
    found = _read(file)
    if found is None or not found.held or found.holder.shares_kernel:  # else the system would have said so
        return ""
    with tempfile.TemporaryFile(dir=folder) as now:  # by the clock of the file system
        age = os.fstat(now.fileno()).st_mtime - file.stat().st_mtime
    alive, why = is_alive(found.holder, age)
    if not alive:
        return f"`{folder}`: {why}, so this {what} is taken over"
    raise UserError(
        f"`{folder}`: this {what} is in use by {found} (last sign of life {max(age, 0):.0f} s ago). Wait for it, stop "
        f"it there, or choose another folder with --out. If it was killed, try again in {PATIENCE / 60:.0f} minutes"
    )


def _write(file: Path, holding: _Holding) -> None:
    file.write_text(json.dumps(asdict(holding)) + "\n", encoding="utf-8")


def _read(file: Path) -> _Holding | None:
    """None where it is not known, since the operating system's lock decides."""
    try:
        return read_as(_Holding, file, "")
    except UserError:
        return None


def command_of(folder: Path) -> str:
    """The command that last held a folder; empty where it is not known, since nothing depends on it."""
    found = _read(folder / LOCK_FILE)
    return found.command if found else ""
