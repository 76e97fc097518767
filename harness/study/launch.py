"""Running cells as separate processes, several at a time; a failed cell does not affect the others."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import NonNegativeFloat

from harness.errors import UserError
from harness.io import read_as, write_json
from harness.study.matrix import LOG_FILE, Cell
from harness.study.process import EXIT_INTERRUPTED, cell_command, cell_environment, interrupt, visible_gpus
from harness.study.status import State, Status, record_state, recorded_status

TIMING_FILE = "timing.json"

OnChange = Callable[[Cell, Status], None]
Command = Callable[[Path, str], list[str]]


@dataclass
class _Running:
    cell: Cell
    folder: Path
    process: subprocess.Popen[bytes]
    seen: Status
    looked: float
    gpu: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def run_cells(
    run_dir: Path,
    cells: Sequence[Cell],
    *,
    workers: int,
    on_change: OnChange = lambda cell, status: None,
    threads: int = 0,
    command: Command = cell_command,
    poll: float = 0.1,
    grace: float = 20.0,
) -> dict[str, State]:
    """Run cells in the given order, each as a process whose output goes to its ``log.txt``.

    A cell that fails, or is killed before it can record why, is recorded as ``failed`` with a reason, and the others
    continue. With several GPUs, each cell gets the one with the fewest cells.

    Args:
        run_dir: The run directory, with the cells' folders prepared.
        cells: In the order in which they start.
        workers: Number of processes at the same time.
        on_change: Called in this thread whenever the status of a cell changes.
        threads: CPU threads per cell; 0: torch's default.
        command: Returns the command line of a cell.
        poll: Seconds between two checks of the processes.
        grace: Seconds until cells are killed after an interruption.

    Returns:
        The final state of each cell by its id.

    Raises:
        KeyboardInterrupt: After Ctrl-C, SIGTERM or SIGHUP, once all cells have stopped and are recorded.
    """
    waiting = list(cells)
    running: list[_Running] = []
    gpus = visible_gpus()
    final: dict[str, State] = {}
    with _signals_as_interrupt():
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    cell = waiting.pop(0)
                    try:
                        started = _start(run_dir, cell, threads, _gpu_for(cell, gpus, running), command)
                    except OSError as error:
                        folder, why = cell.folder(run_dir), f"cannot be started: {error}"
                        on_change(cell, _record(folder, State.FAILED, why))
                        final[cell.id] = State.FAILED
                        continue
                    running.append(started)
                    on_change(cell, started.seen)
                for item in list(running):
                    if item.process.poll() is None:
                        _watch(item, on_change)
                    else:
                        running.remove(item)
                        final[item.cell.id] = _finish(item, on_change).state
                if running:
                    time.sleep(poll)
        except BaseException:
            _stop(running, grace, on_change)
            raise
    return final


def _gpu_for(cell: Cell, gpus: list[str], running: list[_Running]) -> str | None:
    """The GPU with the fewest cells; None: the cell sees all, the only one or those that its processes share."""
    if len(gpus) < 2 or cell.identity.get("train", {}).get("processes", 1) > 1:
        return None
    taken = [item.gpu for item in running]
    return min(gpus, key=taken.count)


def _start(run_dir: Path, cell: Cell, threads: int, gpu: str | None, command: Command) -> _Running:
    folder = cell.folder(run_dir)
    # Before the start: from then on the cell writes the file.
    status = record_state(folder, State.RUNNING)
    with (folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            command(run_dir, cell.id),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=cell_environment(threads, gpu=gpu),
            start_new_session=True,
        )
    return _Running(cell, folder, process, status, time.monotonic(), gpu)


def _watch(item: _Running, on_change: OnChange) -> None:
    status = recorded_status(item.folder)
    now, phase = time.monotonic(), status.phase or "start"
    item.seconds[phase] = item.seconds.get(phase, 0.0) + now - item.looked
    item.looked = now
    if status != item.seen:
        item.seen = status
        on_change(item.cell, status)


def _finish(item: _Running, on_change: OnChange, *, stopped: bool = False) -> Status:
    """Read how a process ended, or record it if the process did not."""
    status = recorded_status(item.folder)
    code = item.process.returncode
    if status.state not in (State.DONE, State.FAILED, State.INTERRUPTED):
        if stopped or code in (EXIT_INTERRUPTED, -signal.SIGINT):
            status = _record(item.folder, State.INTERRUPTED, "stopped by the user")
        else:
            words = _last_words(item.folder) if code > 0 else ""
            reason = f"{_how_it_ended(code)}; {LOG_FILE} ends with: {words}" if words else _how_it_ended(code)
            status = _record(item.folder, State.FAILED, reason)
    _add_timing(item)
    on_change(item.cell, status)
    return status


def _add_timing(item: _Running) -> None:
    """Record the wall time of each phase over all attempts, for later estimates."""
    path = item.folder / TIMING_FILE
    with suppress(OSError, UserError):
        total = read_timing(item.folder) if path.exists() else {}
        write_json(path, {p: round(total.get(p, 0.0) + item.seconds.get(p, 0.0), 1) for p in total | item.seconds})


def read_timing(folder: Path) -> dict[str, float]:
    """A cell's wall seconds by phase.

    Raises:
        UserError: They are not recorded, or the file is damaged.
    """
    return read_as(dict[str, NonNegativeFloat], folder / TIMING_FILE, "Delete the file, which only serves estimates")


def _last_words(folder: Path) -> str:
    with suppress(OSError):
        lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code} and recorded no result"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = " (out of memory, or killed by hand)" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}"


def _record(folder: Path, state: State, reason: str) -> Status:
    with suppress(OSError):
        return record_state(folder, state, reason)
    # On a full disk the state is still returned; the stale file reads as `interrupted` later.
    return recorded_status(folder).model_copy(update={"state": state, "reason": reason})


def _stop(running: list[_Running], grace: float, on_change: OnChange) -> None:
    """Ask the cells to stop, wait, then kill them (at once after a second Ctrl-C); record each."""
    for item in running:
        with suppress(ProcessLookupError):
            item.process.terminate()
            item.process.send_signal(signal.SIGCONT)  # it may be stopped
    deadline = time.monotonic() + grace
    with suppress(KeyboardInterrupt):
        while time.monotonic() < deadline and any(item.process.poll() is None for item in running):
            time.sleep(0.05)
    for item in running:
        # The whole session, since a cell may have started further processes.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(item.process.pid, signal.SIGKILL)
        item.process.wait()
        _finish(item, on_change, stopped=True)


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """SIGTERM (a scheduler) and SIGHUP (a closed terminal) end a study as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
