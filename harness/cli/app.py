"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from harness.cli import data as data_commands
from harness.cli import extending, tuning
from harness.cli.options import (
    COMPUTE,
    DATA,
    MORE,
    READ,
    RUN,
    WHAT,
    BenchmarkOption,
    BenchmarksOption,
    DataOption,
    DropLeakingOption,
    EngineOption,
    LimitOption,
    ModelOption,
    OutOption,
    PluginOption,
    PublishedOption,
    SetOption,
    SkipBadOption,
    SplitOption,
    StudyOption,
    WorkersOption,
)
from harness.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # else Typer would print "Aborted!" and exit with 1
            sys.exit(EXIT_INTERRUPTED)


app = typer.Typer(
    name="harness",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which post-training method is better on my data and budget, and is the difference real?",
)


app.add_typer(data_commands.app, name="data", rich_help_panel=MORE)
app.add_typer(extending.app)
app.add_typer(tuning.app)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(version_of("vlm-harness"))
        raise typer.Exit


@app.command(rich_help_panel=COMPUTE)
def compare(
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            help="Methods, separated by commas (see `harness list`), or variants: grpo,grpo:beta=0,grpo:think. "
            "\\[default: the study's]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    model: ModelOption = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, metavar="N", help="Repetitions of every method.", rich_help_panel=WHAT),
    ] = None,
    study: StudyOption = None,
    settings: SetOption = None,
    plugin: PluginOption = None,
    data: DataOption = None,
    benchmark_data: BenchmarkOption = None,
    benchmarks: BenchmarksOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    drop_leaking: DropLeakingOption = False,
    out: OutOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = None,
    with_published: PublishedOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            metavar="",
            help="Show what is done, what would be computed and how long it takes; write nothing.",
            rich_help_panel=RUN,
        ),
    ] = False,
) -> None:
    """Train every method on equal terms, evaluate every checkpoint, and write the comparison.

    What a run directory already holds is not computed again; an interrupted run goes on with the same command.

    [bold]Examples[/bold]

    \b
    harness compare --methods grpo,sft,dpo --model tiny
    harness compare --methods sft,grpo,grpo:beta=0 --seeds 3 --out runs/beta
    harness compare --study my-study.toml --dry-run
    """
    from harness.cli import studies

    options = studies.StudyOptions(
        study=study,
        model=model,
        methods=methods,
        seeds=seeds,
        data=data,
        benchmark_data=benchmark_data,
        benchmarks=benchmarks,
        split=split,
        limit=limit,
        skip_bad=skip_bad,
        drop_leaking=drop_leaking,
        workers=workers,
        with_published=with_published,
        settings=(*(settings or ()), *([f"model.engine={engine}"] if engine else [])),
        out=out,
    )
    raise typer.Exit(studies.compare(options, dry_run=dry_run))


@app.command(rich_help_panel=COMPUTE)
def plan(
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="A,B,...", help="Methods. \\[default: the study's]", rich_help_panel=WHAT),
    ] = None,
    model: ModelOption = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, metavar="N", help="Repetitions of every method.", rich_help_panel=WHAT),
    ] = None,
    study: StudyOption = None,
    settings: SetOption = None,
    plugin: PluginOption = None,
    data: DataOption = None,
    benchmark_data: BenchmarkOption = None,
    out: OutOption = None,
    workers: WorkersOption = None,
    pilot: Annotated[
        Path | None,
        typer.Option(
            "--pilot",
            metavar="RUN_DIR",
            help="Take the spread of scores, and time and disk, from this finished run instead of the stated defaults.",
            rich_help_panel=DATA,
        ),
    ] = None,
) -> None:
    """Before any training: what a study could find, what it costs, what one more seed would buy.

    [bold]Examples[/bold]

    \b
    harness plan --study 2b --seeds 3
    harness plan --methods sft,grpo --seeds 5 --pilot runs/tiny
    """
    from harness.cli import studies

    options = studies.StudyOptions(
        study=study,
        model=model,
        methods=methods,
        seeds=seeds,
        data=data,
        benchmark_data=benchmark_data,
        workers=workers,
        settings=tuple(settings or ()),
        out=out,
    )
    raise typer.Exit(studies.plan(options, pilot=pilot))


@app.command(rich_help_panel=COMPUTE)
def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A registered method.")],
    model: ModelOption = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, metavar="N", help="Seed of data order and sampling.", rich_help_panel=WHAT),
    ] = None,
    study: StudyOption = None,
    settings: SetOption = None,
    plugin: PluginOption = None,
    data: DataOption = None,
    benchmark_data: BenchmarkOption = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    skip_bad: SkipBadOption = False,
    drop_leaking: DropLeakingOption = False,
    out: OutOption = None,
) -> None:
    """Train one method with one seed: one cell of a comparison, which a later `compare` reuses.

    [bold]Example[/bold]

    harness train grpo --model tiny --seed 1
    """
    from harness.cli import studies

    options = studies.StudyOptions(
        study=study,
        model=model,
        methods=method,
        seeds=1,
        first_seed=seed,
        data=data,
        benchmark_data=benchmark_data,
        split=split,
        limit=limit,
        skip_bad=skip_bad,
        drop_leaking=drop_leaking,
        settings=tuple(settings or ()),
        out=out,
    )
    raise typer.Exit(studies.train(options))


@app.command(rich_help_panel=COMPUTE)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A cell's checkpoint or a model folder.")],
    study: StudyOption = None,
    benchmark_data: BenchmarkOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the answers. \\[default: evaluations/NAME]"),
    ] = None,
    split: SplitOption = None,
    limit: LimitOption = None,
    settings: SetOption = None,
) -> None:
    """Answer the benchmark with one checkpoint, by the settings of its own study unless --study or -s names others.

    [bold]Example[/bold]

    harness evaluate runs/tiny/cells/sft-tiny-s0-1a2b3c4d/checkpoints/step-000060
    """
    from harness.cli import studies

    changes = {"benchmark": benchmark_data, "split": split, "benchmark_limit": limit}
    code = studies.evaluate(checkpoint, study_source=study, data=changes, out=out, settings=settings or ())
    raise typer.Exit(code)


@app.command(rich_help_panel=READ)
def score(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS.jsonl", help='Lines {"id": ..., "answer": "..."}.')],
    benchmark: Annotated[
        str, typer.Option("--benchmark", metavar="DIR", help="Benchmark in VSI-Bench's layout, or world:SPLIT.")
    ],
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Split of the benchmark. \\[default: test]")] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option("--scorer", metavar="NAME", help="official, lmms-eval or tolerant; repeatable. \\[default: all]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON and nothing else.")] = False,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="Folder for generated data.")] = Path("cache"),
) -> None:
    """Score raw answers of any tool by the benchmark's rules, on the 0-100 scale."""
    from harness.cli import results

    code = results.score(answers, benchmark=benchmark, split=split, scorers=scorer or (), as_json=as_json, cache=cache)
    raise typer.Exit(code)


@app.command(rich_help_panel=READ)
def report(
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="[RUN_DIR]", help="A run directory, such as runs/tiny.", show_default=False)
    ] = None,
    samples: Annotated[
        list[str] | None,
        typer.Option(
            "--samples",
            metavar="[NAME[@SEED]=]FILE",
            help="Instead of a run directory: answers made elsewhere, ours or lmms-eval's (--log_samples). Repeatable.",
        ),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", metavar="DIR", help="With --samples: what was asked, as for `score`.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="With --samples: folder of the report.")] = Path(
        "report"
    ),
    base: Annotated[
        str | None, typer.Option("--base", metavar="NAME", help="With --samples: which of them is the untrained model.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="With --samples: the benchmark's split.")] = None,
    scorer: Annotated[str, typer.Option(metavar="NAME", help="With --samples: scorer of the headline.")] = "official",
    margin: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="With --samples: differences below this are equivalent. \\[default: 1]"),
    ] = None,
    plugin: PluginOption = None,
    with_published: PublishedOption = False,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="Folder for generated data.")] = Path("cache"),
) -> None:
    """Rebuild and show the comparison of a run directory, or compare answers made elsewhere.

    [bold]Examples[/bold]

    \b
    harness report runs/tiny --with-published
    harness report --samples sft@0=a.jsonl --samples sft@1=b.jsonl --samples base=c.jsonl \\
        --benchmark data/vsi-bench --out report
    """
    from harness.cli import results

    if samples:
        answers = results.Answers(samples, benchmark, split, base, scorer, margin, with_published, cache)
        raise typer.Exit(results.report_answers(answers, run_dir=run_dir, out=out))
    raise typer.Exit(results.report(run_dir, with_published=with_published, benchmark=benchmark))


@app.command(rich_help_panel=MORE)
def doctor(
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Look at this model only; will it fit?")] = None,
    study: StudyOption = None,
    settings: SetOption = None,
) -> None:
    """Say what this machine offers: versions, device, memory, disk, and which models and data can be reached.

    With --model or --study also how much memory each method takes, with the arithmetic.
    """
    from harness.cli.doctor import examine

    raise typer.Exit(examine(model, study, tuple(settings or ())))


@app.command(
    rich_help_panel=MORE,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def world(context: typer.Context) -> None:
    """Generate, look at and audit the embedded world of rooms; pre-train its model."""
    from harness.cli.world import run

    raise typer.Exit(run(context.args))


def main() -> None:
    """Run the command line; mistakes of the user end with a message and exit code 2, never a traceback."""
    try:
        app(prog_name="harness")
    except UserError as error:
        _complain(str(error))
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        _complain(f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror))
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _complain(message: str) -> None:
    text = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)
