"""The process of one cell. What takes long to import comes after its signals are set."""

from __future__ import annotations

import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from harness.console import Console
from harness.errors import UserError
from harness.locks import hold
from harness.study.process import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, end_with_launcher, interrupt, is_first_rank
from harness.visible import own_streams


def main(arguments: list[str]) -> int:
    """``python -m harness.study.cell RUN_DIR CELL_ID [PLUGIN.py ...]``: run one cell and record how it ended.

    The cell's own document names plugin files too, but only those that the launcher names are run.

    Returns:
        The exit code.
    """
    end_with_launcher()
    own_streams()
    signal.signal(signal.SIGTERM, interrupt)
    cell_dir, plugins = Path(arguments[0]) / "cells" / arguments[1], arguments[2:]
    if not is_first_rank():
        return _train_as_further_rank(cell_dir, plugins)
    try:
        with hold(cell_dir, "cell"):
            return _run_and_record(cell_dir, plugins)
    except UserError as error:  # another process holds the cell and writes its status
        Console(stderr=True).say(f"failed: {error}")
        return EXIT_FAILED


def _train_as_further_rank(cell_dir: Path, plugins: list[str]) -> int:
    """Train on a share of each step's prompts; the first rank writes statuses and checkpoints, and evaluates."""
    try:
        from harness.study.work import train_share

        _register(plugins)
        train_share(cell_dir)
        return EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _register(plugins: list[str]) -> None:
    from harness.plugins import registry

    for file in plugins:
        registry.add_file(file)


def _run_and_record(cell_dir: Path, plugins: list[str]) -> int:
    from harness.study.status import State, record_state

    try:
        from harness.study.work import run_cell

        _register(plugins)
        run_cell(cell_dir)
        record_state(cell_dir, State.DONE)
        return EXIT_DONE
    except KeyboardInterrupt:
        record_state(cell_dir, State.INTERRUPTED, "stopped by the user; run the same command to resume")
        return EXIT_INTERRUPTED
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        Console(stderr=True).say(f"failed: {reason}")
        with suppress(OSError):  # on a full disk the launcher finds the reason in the log
            record_state(cell_dir, State.FAILED, reason)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
