"""The report, as the command line needs it: ``harness`` imports nothing of ``reports`` and finds it by entry point."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from rich.console import Console

from harness.config.study import ReportSection, StudyConfig
from harness.data.reader import Dataset


class Report(Protocol):
    """What :class:`reports.comparison.Comparison` does; not for plugins."""

    def write(self, run_dir: Path, console: Console, *, with_published: bool = False) -> list[Path]:
        """Print and write the report on a run directory; return its files, the page first."""

    def write_samples(
        self,
        console: Console,
        sources: Sequence[str],
        benchmark: Dataset,
        folder: Path,
        *,
        base: str | None = None,
        scorer: str | None = None,
        settings: ReportSection | None = None,
        command: str = "",
    ) -> list[Path]:
        """Print and write the report on answers made elsewhere; return its files, the page first."""

    def plan(self, console: Console, study: StudyConfig, benchmark: Dataset | None, pilot: Path | None) -> int:
        """Print what a study could find; return the number of questions planned for."""


def load_report() -> Report:
    """The report of this installation."""
    (entry,) = entry_points(group="harness.reports", name="comparison")
    return cast(Report, entry.load()())
