"""One process at a time on a run directory or a cell; the second is told who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError
from harness.study.process import command_line

LOCK_FILE = ".lock"


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder; the operating system frees it when the process ends, however it ends.

    Args:
        path: The folder (its ``.lock`` is used; it is made if missing), or a lock file itself.
        what: What is held, for the message: ``run directory``, ``cell``.

    Raises:
        UserError: Another process holds it (the message says which, where, since when and
            its command line), or the file system offers no locks.
    """
    file = path if path.name == LOCK_FILE else path / LOCK_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"`{file.parent}`: cannot be written: {error.strerror}. Choose a place with --out") from error
    try:
        _acquire(handle, file, what)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_holder()).encode() + b"\n", 0)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, file: Path, what: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"`{file.parent}`: this {what} is in use by {_describe(file)}. "
            "Wait for it, stop it, or choose another place with --out"
        ) from error
    except OSError as error:
        raise UserError(
            f"`{file}`: this file system offers no locks ({error.strerror}). Choose a local disk with --out"
        ) from error


def _holder() -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command_line(),
    }


def _describe(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}: {holder['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process (its name is not known)"
