"""The report, as the command line needs it; no other module of ``harness`` knows that ``reports`` exists."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from harness.api.benchmark import Benchmark
from harness.config.study import ReportSection, StudyConfig
from harness.console import Console
from harness.data.reader import Dataset


class Report(Protocol):
    """What :class:`reports.comparison.Comparison` does. There is one report, so it is not a plugin."""

    def write(
        self, run_dir: Path, console: Console, *, with_published: bool = False, out: Path | None = None
    ) -> list[Path]:
        """Print and write the report on a run directory, there or elsewhere; return its files, the page first."""

    def write_several(self, run_dirs: Sequence[Path], console: Console, *, out: Path) -> list[Path]:
        """Print and write the report on several run directories; return its files, the page first."""

    def check_output(self, run_dir: Path, study: StudyConfig) -> None:
        """Refuse, before a study is run, a run directory whose report could not be written."""

    def write_samples(
        self,
        console: Console,
        sources: Sequence[str],
        benchmark: Dataset,
        rules: Benchmark,
        folder: Path,
        *,
        base: str | None = None,
        scorer: str | None = None,
        settings: ReportSection | None = None,
        command: str = "",
    ) -> list[Path]:
        """Print and write the report on answers made elsewhere; return its files, the page first."""

    def score(
        self, answers: Path, benchmark: Dataset, rules: Benchmark, scorers: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """The scores of a file of answers by some of the rules' scorers, or by all; each as JSON holds it."""

    def files_of(self, sources: Sequence[str]) -> list[Path]:
        """The files that sources such as ``NAME=FILE`` name."""

    def undecided(self, run_dir: Path) -> list[tuple[str, str]]:
        """The pairs that the results leave open at the look that they allow."""

    def settled(self, study: StudyConfig, benchmark: Dataset) -> ReportSection:
        """The study's tests, with the pairs and the margin worked out where it names none."""

    def plan(self, console: Console, study: StudyConfig, benchmark: Dataset | None, pilot: Path | None) -> int:
        """Print what a study could find; return the number of questions planned for."""


def load_report() -> Report:
    """The report; by name, because ``harness`` stands below ``reports`` and imports nothing from it."""
    return cast(Report, import_module("reports.comparison").Comparison())
