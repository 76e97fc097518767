"""One process at a time on a folder; a second one waits, or learns which process holds it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.io import read_json, refuse_special, remove_leftovers
from harness.processes import command_line

LOCK_FILE = ".harness.lock"
WAIT = 60.0
"""Seconds to wait for a process that is writing a report or another folder of results."""


@contextmanager
def hold(folder: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder; the operating system releases it when the process ends, however it ends.

    Args:
        folder: Made if it is missing; its file :data:`LOCK_FILE` is locked and names the holder. What killed processes
            left half written in it is removed.
        what: What is held, for the message: ``run directory``, ``cell``.
        wait: Seconds to wait for another process.

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
            f"`{folder}`: this {what} is in use by {_holder(file)}. "
            "Wait for it, stop it, or choose another folder with --out"
        ) from error
    except OSError as error:
        raise UserError(
            f"`{folder}`: cannot be written or locked: {error.strerror}. Choose another folder with --out"
        ) from error
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        remove_leftovers(folder)
        file.write_text(json.dumps(about | {"command": command_line()}) + "\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def command_of(folder: Path) -> str:
    """The command that last held a folder; empty where it is not known, since nothing depends on it."""
    try:
        return str(read_json(folder / LOCK_FILE)["command"])
    except (UserError, KeyError, TypeError):
        return ""


def _holder(file: Path) -> str:
    try:
        holder = read_json(file)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}: {holder['command']}"
    except (UserError, KeyError, TypeError):
        return "another process, which has not given its name"
