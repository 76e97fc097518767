"""Progress of a study: a live table of its cells or, without a terminal, one line per change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import rich.console
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from harness.console import Console, Text
from harness.study.matrix import Cell, CellWork
from harness.study.status import State, Status
from harness.train.tracking import MISSED
from harness.visible import clean, visible

STYLES: dict[State, str] = {
    State.RUNNING: "cyan",
    State.FAILED: "bold red",
    State.INTERRUPTED: "yellow",
    State.PENDING: "dim",
    State.DONE: "green",
}
"""By state; the first are the most important where not all fit on the screen."""
_PLAIN_INTERVAL = 30.0
_LIVE_WIDTH = 80
"""Columns that the live table needs; on a narrower terminal there are lines."""


@dataclass
class _Row:
    cell: Cell
    status: Status
    reused: bool
    began: tuple[float, float] = (0.0, 0.0)
    seconds_left: float | None = None
    missed: str = ""
    printed: float = float("-inf")


class MatrixDisplay:
    """Shows the cells of a running study. A context manager; call :meth:`update` for each change."""

    def __init__(
        self,
        console: Console,
        title: str,
        works: Sequence[CellWork],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._title = title
        self._clock = clock
        self._start = clock()
        self._rows = {w.cell.id: _Row(w.cell, w.status, w.complete) for w in works}
        live = console.animates and console.width >= _LIVE_WIDTH
        self._live = Live(self, console=console, refresh_per_second=4) if live else None

    def __enter__(self) -> MatrixDisplay:
        self._start = self._clock()
        if self._live is not None:
            self._live.start()
        else:
            reused = sum(row.reused for row in self._rows.values())
            self._line(f"{self._title}: {len(self._rows)} cells, {reused} already done")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, cell: Cell, status: Status) -> None:
        """Show a cell's new status."""
        row = self._rows[cell.id]
        now, before = self._clock(), row.status
        same_stage = (before.state, before.phase) == (status.state, status.phase)
        row.status = status
        row.missed = _missed(status) or row.missed
        done, total = _progress(status)
        if not same_stage:
            row.began = (now, done)
        row.seconds_left = _seconds_left(status, done, total, now - row.began[0], done - row.began[1])
        if self._live is None and (not same_stage or now - row.printed >= _PLAIN_INTERVAL):
            row.printed = now
            self._line(describe(cell, status, row.seconds_left))

    def _line(self, text: str) -> None:
        self._console.say(f"{time.strftime('%H:%M:%S')} {text}")

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= 100
        table = Table(title=self._title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
        table.add_column("Method", no_wrap=True, min_width=6, max_width=24)
        table.add_column("Seed", justify="right")
        table.add_column("Status", min_width=11)
        table.add_column("Phase", min_width=8)
        table.add_column("", width=20 if wide else 8)
        table.add_column("Progress", justify="right", min_width=9, no_wrap=True)
        table.add_column("Reward, loss", justify="right", min_width=13 if wide else 11, no_wrap=True)
        table.add_column("Examples/s" if wide else "Ex/s", justify="right", min_width=5)
        table.add_column("Time left" if wide else "Left", justify="right", min_width=6, no_wrap=True)
        rows = list(self._rows.values())
        shown = self._visible(rows, console.height - 8)
        for row in shown:
            table.add_row(*_cells_of(row))
        yield table
        yield from self._footer(rows, len(rows) - len(shown))

    @staticmethod
    def _visible(rows: list[_Row], room: int) -> list[_Row]:
        """The most important rows that fit on the screen, in the order of the table."""
        ranked = sorted(rows, key=lambda row: list(STYLES).index(row.status.state))
        kept = {row.cell.id for row in ranked[: max(room, 4)]}
        return [row for row in rows if row.cell.id in kept]

    def _footer(self, rows: list[_Row], hidden: int) -> RenderResult:
        states = [row.status.state for row in rows]
        counts = [f"{states.count(state)} {state}" for state in State if state in states]
        text = f"{' · '.join(counts)} · {duration(self._clock() - self._start)} elapsed"
        yield Text(text + (f" · {hidden} rows not shown" if hidden else ""), style="dim")
        failed = [row for row in rows if row.status.state is State.FAILED]
        for row in failed[:3]:
            yield Text(clean(f"{row.cell.id}: {row.status.reason}"), style="red", overflow="ellipsis", no_wrap=True)
        for row in [row for row in rows if row.missed][:3]:
            yield Text(clean(f"{_name(row.cell)}: {row.missed}"), style="yellow", overflow="ellipsis", no_wrap=True)


@contextmanager
def progress_bar(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar that appears with the first (done, total) and goes at the end; without a terminal there is none."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.animates) as bar:
        task = bar.add_task(visible(what), total=None, visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield show


def describe(cell: Cell, status: Status, seconds_left: float | None = None) -> str:
    """One line about a cell, for a log."""
    parts = [status.state.value]
    if status.reason:
        parts.append(status.reason)
    done, total = _progress(status)
    if status.phase and status.state is State.RUNNING:
        parts.append(f"{status.phase} {_counter(done, total)}".rstrip())
        parts += [text for text in (_score(status), _missed(status)) if text]
        if (rate := status.numbers.get("examples_per_second")) is not None:
            parts.append(f"{rate:.1f} examples/s")
        if seconds_left is not None:
            parts.append(f"{duration(seconds_left)} left")
    return f"{_name(cell)}: {', '.join(parts)}"


def _name(cell: Cell) -> str:
    return cell.method if cell.is_base else f"{cell.method} seed {cell.seed}"


def _missed(status: Status) -> str:
    """A warning when training leaves the form of answers that is scored."""
    share = status.numbers.get(MISSED)
    return "" if share is None else f"the scorer cannot read {share:.0%} of the sampled answers"


def duration(seconds: float) -> str:
    """A short form, such as ``8s``, ``3m20s``, ``2h05m``, ``4d03h``."""
    whole = max(round(seconds), 0)
    for big, small, unit, part in ((86400, 3600, "d", "h"), (3600, 60, "h", "m"), (60, 1, "m", "s")):
        if whole >= big:
            return f"{whole // big}{unit}{whole % big // small:02d}{part}"
    return f"{whole}s"


def _progress(status: Status) -> tuple[float, float]:
    """How much of the phase is done and its total, 0 if unknown."""
    if status.phase == "evaluate":
        return status.numbers.get("done", 0.0), status.numbers.get("of", 0.0)
    return float(status.step), float(status.steps)


def _seconds_left(status: Status, done: float, total: float, elapsed: float, gained: float) -> float | None:
    if status.state is not State.RUNNING:
        return None
    return (total - done) * elapsed / gained if total and gained > 0 else None


def _score(status: Status) -> str:
    if status.state is State.DONE and (overall := status.numbers.get("overall")) is not None:
        return f"overall {overall:.1f}"
    for name in ("reward", "loss"):
        if (value := status.numbers.get(name)) is not None:
            return f"{name} {value:.3g}" if abs(value) < 1e-3 else f"{name} {value:.3f}"
    return ""


def _counter(done: float, total: float) -> str:
    if total:
        return f"{done:.0f}/{total:.0f}"
    return f"{done:.0f}" if done else ""


def _cells_of(row: _Row) -> list[Text | ProgressBar | str]:
    cell, status = row.cell, row.status
    running = status.state is State.RUNNING
    done, total = _progress(status)
    rate = status.numbers.get("examples_per_second") if running else None
    phase = "reused" if row.reused else status.phase or ("start" if running else "")
    bar: ProgressBar | str = ""
    if running and total:
        bar = ProgressBar(total=total, completed=min(done, total), complete_style="cyan", finished_style="cyan")
    return [
        cell.method,
        "" if cell.is_base else str(cell.seed),
        Text(status.state.value, style=STYLES[status.state]),
        phase if status.state is not State.PENDING else "",
        bar,
        _counter(done, total),
        _score(status) if (status.phase == "train" or not running) and not row.reused else "",  # of another scorer?
        "" if rate is None else f"{rate:.1f}",
        "" if row.seconds_left is None else duration(row.seconds_left),
    ]
