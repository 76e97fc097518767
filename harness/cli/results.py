"""The commands that only read: score, report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from harness.cli.options import DATA, READ, AsJson, StudyOptions, command, option, out_option
from harness.console import Console
from harness.errors import UserError

ELSEWHERE = "Answers made elsewhere"
SCORER = "Scoring rule; VSI-Bench's are official, lmms-eval and tolerant."
BENCHMARK = (
    "What was asked: records (a folder in VSI-Bench's layout, a file or world:SPLIT), after NAME= where another "
    "benchmark's rules score them, such as general=FILE.jsonl. \\[default: what the answers' evaluation asked]"
)

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
    scorer: str | None = option(ELSEWHERE, "NAME", f"{SCORER} \\[default: the benchmark's first]")
    margin: float | None = option(
        ELSEWHERE,
        "POINTS",
        "Smaller differences count as equivalent. \\[default: what these runs and questions can resolve]",
    )
    benchmark: str | None = option(DATA, "[NAME=]SOURCE", BENCHMARK)


@command(app, READ, only=("plugin", "split", "cache"))
def score(
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="ANSWERS.jsonl", help='Lines {"id": ..., "answer": "..."}.', exists=True, dir_okay=False
        ),
    ],
    options: StudyOptions,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", metavar="[NAME=]SOURCE", help=BENCHMARK, rich_help_panel=DATA)
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option("--scorer", metavar="NAME", help=f"{SCORER} \\[default: all]", rich_help_panel=ELSEWHERE),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score raw answers of any tool by the benchmark's rules, on a scale from 0 to 100.

    Where an evaluation of ours wrote the file, the questions are those that it asked, and the rules its benchmark's.
    Elsewhere only answered questions are scored, and how many have no answer is said.
    """
    from harness.study.asked import rules_and_questions
    from harness.study.report import load_report

    rules, dataset = rules_and_questions([answers], benchmark, options.split, options.cache)
    result = load_report().score(answers, dataset, rules, scorer or ())
    if as_json:
        Console().say(json.dumps(result))
        return
    console = Console()
    console.print(_score_table(result))
    first = next(iter(result.values()))
    if first["n"] < first["of"]:
        console.say(_left_out(first), style="yellow")


@command(app, READ, only=("plugin", "split", "cache", "with_published"))
def report(
    samples: SampleOptions,
    options: StudyOptions,
    run_dirs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN_DIR]...",
            help="A run directory, such as runs/tiny, or several for one table.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    out: Annotated[Path | None, out_option("RUN_DIR/report, or report")] = None,
) -> None:
    """Rebuild and show the comparison of a run directory, or compare answers made elsewhere.

    Of several run directories, each is judged on its own; one table shows all, and what they say together is estimated.

    [bold]Examples[/bold]

    harness report runs/tiny --with-published
    harness report runs/2b runs/7b --out report
    harness report --samples sft@0=a.jsonl --samples sft@1=b.jsonl --samples base=c.jsonl \\
        --benchmark data/vsi-bench --out report
    """
    if samples.samples:
        if run_dirs:
            raise UserError(f"`{run_dirs[0]}`: give run directories or --samples, not both")
        _report_samples(samples, options, out or Path("report"))
        return
    if not run_dirs:
        raise UserError("name a run directory, or answers made elsewhere with --samples FILE --benchmark SOURCE")
    for name, value in {**vars(samples), "split": options.split, "cache": options.cache}.items():
        if value is not None:
            raise UserError(f"`--{name}`: only with --samples; a run directory has its own")
    from harness.study.compare import tell_files, write_report
    from harness.study.report import load_report

    if len(run_dirs) == 1:
        write_report(run_dirs[0], Console(), with_published=options.with_published, out=out)
        return
    if options.with_published:
        raise UserError("`--with-published`: only with one run directory; the report of each shows published results")
    console = Console()
    tell_files(load_report().write_several(run_dirs, console, out=out or Path("report")), console)


def _report_samples(samples: SampleOptions, options: StudyOptions, out: Path) -> None:
    """The report on answers made elsewhere."""
    from harness.config.study import ReportSection
    from harness.processes import command_line
    from harness.study.asked import rules_and_questions
    from harness.study.compare import tell_files
    from harness.study.report import load_report

    if samples.margin is not None and not 0 < samples.margin <= 100:
        raise UserError(f"`--margin {samples.margin:g}`: a margin must be more than 0 and at most 100 points")
    console, report, sources = Console(), load_report(), samples.samples or ()
    files = report.files_of(sources)
    rules, dataset = rules_and_questions(files, samples.benchmark, options.split, options.cache)
    paths = report.write_samples(
        console,
        sources,
        dataset,
        rules,
        out,
        base=samples.base,
        scorer=samples.scorer,
        settings=ReportSection(margin=samples.margin, with_published=options.with_published),
        command=command_line(),
    )
    tell_files(paths, console)


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
    if "if_all_asked" in next(iter(result.values())):
        table.add_row("overall, unanswered as wrong", *(f"{one['if_all_asked']:.2f}" for one in result.values()))
    return table


def _left_out(score: dict[str, Any]) -> str:
    """Which of the benchmark's questions are not in a score."""
    if "if_all_asked" not in score:
        return f"Only the {score['n']:,} of the benchmark's {score['of']:,} questions that were asked are scored."
    return (
        f"Only the {score['n']:,} of the benchmark's {score['of']:,} questions that the file answers are scored, since "
        "it does not say which were asked; a question that was asked and has no answer would count as wrong."
    )
