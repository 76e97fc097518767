"""The commands that only read: score, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from harness.cli.options import DATA, READ, AsJson, StudyOptions, command, option, out_option
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data.reader import Dataset

ELSEWHERE = "Answers made elsewhere"
SCORER = "Scoring rule: official, lmms-eval or tolerant."
BENCHMARK = "Benchmark records: a folder in VSI-Bench's layout or world:SPLIT."

app = typer.Typer()


@dataclass(frozen=True)
class SampleOptions:
    """The options of a report on answers made elsewhere; None leaves the default."""

    samples: list[str] | None = option(
        ELSEWHERE,
        "[NAME[@SEED]=]FILE",
        "A file of answers, ours or lmms-eval's (--log_samples), instead of a run directory. Repeatable.",
    )
    base: str | None = option(ELSEWHERE, "NAME", "Which of them are the untrained model's.")
    scorer: str | None = option(ELSEWHERE, "NAME", f"{SCORER} \\[default: official]")
    margin: float | None = option(ELSEWHERE, "POINTS", "Smaller differences count as equivalent. \\[default: 1]")
    benchmark: str | None = option(DATA, "SOURCE", BENCHMARK)


@command(app, READ, only=("split", "cache"))
def score(
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS.jsonl", help='Lines {"id": ..., "answer": "..."}.', exists=True, dir_okay=False
        ),
    ],
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="SOURCE", help=BENCHMARK, rich_help_panel=DATA)],
    options: StudyOptions,
    scorer: Annotated[
        list[str] | None,
        typer.Option("--scorer", metavar="NAME", help=f"{SCORER} \\[default: all]", rich_help_panel=ELSEWHERE),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score raw answers of any tool by the benchmark's rules, on a scale from 0 to 100."""
    from harness.plugins import registry

    dataset = _read_benchmark(benchmark, options)
    rules = registry.load("benchmarks", "vsibench")()
    result: dict[str, Any] = rules.score_file(answers, dataset.records, *([scorer] if scorer else []))
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        Console().print(_score_table(result))


@command(app, READ, only=("plugin", "split", "cache", "with_published"))
def report(
    samples: SampleOptions,
    options: StudyOptions,
    run_dir: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN_DIR]", help="A run directory, such as runs/tiny.", exists=True, file_okay=False),
    ] = None,
    out: Annotated[Path | None, out_option("report")] = None,
) -> None:
    """Rebuild and show the comparison of a run directory, or compare answers made elsewhere.

    [bold]Examples[/bold]

    harness report runs/tiny --with-published
    harness report --samples sft@0=a.jsonl --samples sft@1=b.jsonl --samples base=c.jsonl \\
        --benchmark data/vsi-bench --out report
    """
    if samples.samples:
        if run_dir is not None:
            raise UserError(f"`{run_dir}`: give a run directory or --samples, not both")
        _report_samples(samples, options, out or Path("report"))
        return
    if run_dir is None:
        raise UserError("name a run directory, or answers made elsewhere with --samples FILE --benchmark SOURCE")
    for name, value in {**vars(samples), "split": options.split, "cache": options.cache, "out": out}.items():
        if value is not None:
            raise UserError(f"`--{name}`: only with --samples; a run directory has its own")
    from harness.study.compare import write_report

    write_report(run_dir, Console(), with_published=options.with_published)


def _report_samples(samples: SampleOptions, options: StudyOptions, out: Path) -> None:
    """The report on answers made elsewhere."""
    from harness.config.study import ReportSection
    from harness.study.compare import tell_files
    from harness.study.process import command_line
    from harness.study.report import load_report

    if samples.benchmark is None:
        raise UserError("`--benchmark`: name the records that were answered, for example --benchmark data/vsi-bench")
    margin = 1.0 if samples.margin is None else samples.margin
    if margin <= 0:
        raise UserError(f"`--margin {margin:g}`: a margin must be more than 0 points")
    console = Console()
    paths = load_report().write_samples(
        console,
        samples.samples or (),
        _read_benchmark(samples.benchmark, options),
        out,
        base=samples.base,
        scorer=samples.scorer,
        settings=ReportSection(margin=margin, with_published=options.with_published),
        command=command_line(),
    )
    tell_files(paths, console)


def _read_benchmark(source: str, options: StudyOptions) -> Dataset:
    """The questions of a benchmark; scoring does not need its videos."""
    from harness.data.reader import read_dataset
    from harness.data.sources import resolve_source

    root, found = resolve_source(source, options.cache or Path("cache"), default=options.split or "test")
    return read_dataset(root, options.split or found, check_videos=False)


def _score_table(result: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in result:
        table.add_column(name, justify="right")
    table.add_row("overall", *(f"{one['overall']:.2f}" for one in result.values()), style="bold")
    for task in dict.fromkeys(task for one in result.values() for task in one["tasks"]):
        table.add_row(task, *(f"{one['tasks'][task]:.2f}" for one in result.values()))
    for key, label in (("n", "questions"), ("unparsable", "without a readable answer")):
        table.add_row(label, *(f"{one[key]:g}" for one in result.values()), style="dim")
    return table
