"""Commands that only read: score, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from harness.config.study import ReportSection
from harness.errors import UserError, unknown_name
from harness.plugins import registry

if TYPE_CHECKING:
    from harness.data.reader import Dataset


def score(
    answers: Path, *, benchmark: str, split: str | None, scorers: Sequence[str], as_json: bool, cache: Path
) -> int:
    """``harness score``: any tool's raw answers, scored by the named rules."""
    if not answers.is_file():
        raise UserError(f"`{answers}`: no such file of answers")
    dataset = _benchmark(benchmark, split, cache)
    scorer = registry.load("benchmarks", "vsibench")()
    result: dict[str, Any] = scorer.score_file(answers, dataset, *([list(scorers)] if scorers else []))
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        Console().print(_score_table(result))
    return 0


def _benchmark(source: str, split: str | None, cache: Path) -> Dataset:
    """The questions of a benchmark; its videos are not needed to score."""
    from harness.data.reader import read_dataset
    from harness.data.sources import resolve_source

    root, found = resolve_source(source, cache, default=split or "test")
    return read_dataset(root, split or found, check_videos=False)


def _score_table(result: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in result:
        table.add_column(name, justify="right")
    tasks = list(dict.fromkeys(task for one in result.values() for task in one["tasks"]))
    table.add_row("overall", *(f"{one['overall']:.2f}" for one in result.values()), style="bold")
    for task in tasks:
        table.add_row(task, *(f"{one['tasks'][task]:.2f}" for one in result.values()))
    for key, label in (("n", "questions"), ("unparsable", "without a readable answer")):
        table.add_row(label, *(f"{one[key]:g}" for one in result.values()), style="dim")
    return table


@dataclass(frozen=True)
class Answers:
    """What the command line says about answers made elsewhere; None leaves the default."""

    samples: Sequence[str]
    benchmark: str | None
    split: str | None
    base: str | None
    scorer: str
    margin: float | None
    with_published: bool
    cache: Path


def report(run_dir: Path | None, *, with_published: bool, benchmark: str | None) -> int:
    """``harness report RUN_DIR``: the comparison again, from what the run directory holds."""
    from harness.study.compare import write_report

    if run_dir is None:
        raise UserError("name a run directory, or answers made elsewhere with --samples FILE --benchmark DIR")
    if benchmark is not None:
        raise UserError("`--benchmark`: only with --samples; a run directory knows its own benchmark")
    if not run_dir.is_dir():
        raise UserError(f"`{run_dir}`: no such run directory")
    write_report(run_dir, Console(), with_published=with_published)
    return 0


def report_answers(answers: Answers, *, run_dir: Path | None, out: Path) -> int:
    """``harness report --samples``: the report on answers made elsewhere."""
    from harness.study.compare import tell_files
    from harness.study.process import command_line

    if run_dir is not None:
        raise UserError(f"`{run_dir}`: give a run directory or --samples, not both")
    if answers.benchmark is None:
        raise UserError("`--benchmark`: say what was asked, for example --benchmark data/vsi-bench")
    if out.exists() and not out.is_dir():
        raise UserError(f"`--out {out}`: this is a file; name a folder")
    scorers: Sequence[str] = registry.load("benchmarks", "vsibench").scorers
    if answers.scorer not in scorers:
        raise unknown_name(f"--scorer {answers.scorer}", answers.scorer, scorers)
    if answers.margin is not None and answers.margin <= 0:
        raise UserError(f"`--margin {answers.margin:g}`: a margin is more than 0 points")
    settings = ReportSection(margin=answers.margin or 1.0, with_published=answers.with_published)
    dataset = _benchmark(answers.benchmark, answers.split, answers.cache)
    comparison = registry.load("reports", "comparison")()
    console = Console()
    paths: list[Path] = comparison.write_samples(
        console,
        answers.samples,
        dataset,
        out,
        base=answers.base,
        scorer=answers.scorer,
        settings=settings,
        command=command_line(),
    )
    tell_files(paths, console)
    return 0
