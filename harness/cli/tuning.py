"""The command line of fair tuning."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import (
    COMPUTE,
    RUN,
    WHAT,
    DataOption,
    ModelOption,
    OutOption,
    PluginOption,
    SetOption,
    StudyOption,
    WorkersOption,
)

app = typer.Typer()


@app.command(rich_help_panel=COMPUTE)
def tune(
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="A,B,...", help="Methods. \\[default: the study's]", rich_help_panel=WHAT),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, metavar="N", help="Draws a method, the same for all.", rich_help_panel=WHAT),
    ] = None,
    model: ModelOption = None,
    study: StudyOption = None,
    settings: SetOption = None,
    plugin: PluginOption = None,
    data: DataOption = None,
    development: Annotated[
        str | None,
        typer.Option("--development", metavar="SOURCE", help="Records to choose on; never the benchmark."),
    ] = None,
    out: OutOption = None,
    workers: WorkersOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Show the trials; write nothing.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Give every method the same number of random trials on a development split, and write the winners as a study.

    [bold]Examples[/bold]

    \b
    harness tune --methods grpo,sft,dpo --trials 8
    harness compare --study runs/tiny-tune/tuned.toml --seeds 5
    """
    from rich.console import Console

    from harness.cli import studies
    from harness.study.tune import tune as run

    own = [*(settings or [])]
    own += [f"tune.trials={trials}"] if trials else []
    own += [f'tune.development="{development}"'] if development else []
    options = studies.StudyOptions(
        study=study, model=model, methods=methods, data=data, workers=workers, settings=tuple(own), out=out
    )
    resolved = studies.resolve_study(options)
    folder = out or studies.RUNS / f"{resolved.name}-tune"
    raise typer.Exit(run(resolved, folder, dry_run=dry_run, console=Console()))
