"""The commands that take a study: compare, plan, train, tune, evaluate."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import (
    COMPUTE,
    DATA,
    DryRun,
    RunDirectory,
    StudyOptions,
    TrainOptions,
    TuneOptions,
    command,
    out_option,
)
from harness.console import Console
from harness.errors import UserError

RUNS = Path("runs")

_NOT_OF_AN_EVALUATION = ("seeds", "first_seed", "train", "budget", "reward", "report", "tune")
"""Settings of a study that do not touch the evaluation of a checkpoint."""

app = typer.Typer()


@command(app, COMPUTE)
def compare(options: StudyOptions, out: RunDirectory = None, dry_run: DryRun = False) -> int:
    """Train every method on equal terms, evaluate every checkpoint, write the comparison.

    Nothing in the run directory is computed again; the same command continues an interrupted run.

    [bold]Examples[/bold]

    harness compare --methods grpo,sft,dpo --model tiny
    harness compare --methods sft,grpo,grpo:beta=0 --seeds 3 --out runs/beta
    harness compare --study my-study.toml --dry-run
    harness compare --methods grpo,sft,dpo --model 2b,7b --seeds 3
    """
    from harness.cli.resolve import keys_set, models_named, resolve_models, resolve_study
    from harness.study.compare import compare as run
    from harness.study.models import compare_models

    if models_named(options):
        studies, folder = resolve_models(options)
        return compare_models(studies, out or folder, dry_run=dry_run, console=Console())
    study = resolve_study(options)
    return run(study, out or RUNS / study.name, dry_run=dry_run, console=Console(), keys=keys_set(options))


@command(app, COMPUTE)
def plan(
    options: StudyOptions,
    out: RunDirectory = None,
    pilot: Annotated[
        Path | None,
        typer.Option(
            "--pilot",
            metavar="RUN_DIR",
            help="Take the spread of scores, time and disk from this finished run instead of the stated defaults.",
            rich_help_panel=DATA,
        ),
    ] = None,
) -> None:
    """Estimate, before any training, what a study could find and what it costs.

    [bold]Examples[/bold]

    harness plan --study 2b --seeds 3
    harness plan --methods sft,grpo --seeds 5 --pilot runs/tiny
    """
    from harness.cli.resolve import keys_set, models_named, resolve_models, resolve_study
    from harness.study.models import run_folders
    from harness.study.plan import print_plan

    console = Console()
    if models_named(options):
        studies, below = resolve_models(options)
        for folder, one in run_folders(studies, out or below).items():
            console.say(f"Model {one.study.model.name}", style="bold")
            print_plan(one.study, folder, pilot=pilot, console=console, keys=one.keys)
            console.say("")
        return
    study = resolve_study(options)
    print_plan(study, out or RUNS / study.name, pilot=pilot, console=console, keys=keys_set(options))


@command(app, COMPUTE, without=("methods", "seeds", "with_published"))
def train(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A method or a variant of one, such as grpo:beta=0.")],
    options: TrainOptions,
    out: RunDirectory = None,
) -> int:
    """Train and evaluate one method with one seed: a cell that a later `compare` reuses.

    [bold]Example[/bold]

    harness train grpo --model tiny --seed 1
    """
    from harness.cli.resolve import method_names, resolve_study
    from harness.config.variants import parse_variant
    from harness.errors import unknown_name
    from harness.plugins import registry
    from harness.study.compare import train as run

    names = method_names(method)
    if len(names) != 1:
        raise UserError(f"`harness train {method}`: name one method; `harness compare` takes several")
    if (asked := parse_variant(names[0]).method) not in (known := registry.names("algorithms")):
        raise unknown_name(f"harness train {names[0]}", asked, known)
    study = resolve_study(replace(options, methods=method, seeds="1"))
    return run(study, out or RUNS / study.name, console=Console())


@command(app, COMPUTE)
def tune(
    options: TuneOptions,
    out: Annotated[Path | None, out_option("runs/STUDY-tune")] = None,
    dry_run: DryRun = False,
) -> int:
    """Search hyper-parameters, with the same number of random trials for every method.

    The trials are compared on a development split, never on the benchmark. The best are written as a study.

    [bold]Examples[/bold]

    harness tune --methods grpo,sft,dpo --trials 8
    harness compare --study runs/tiny-tune/tuned.toml --seeds 5
    """
    from harness.cli.resolve import resolve_study
    from harness.study.tune import tune as run

    study = resolve_study(options)
    return run(study, out or RUNS / f"{study.name}-tune", dry_run=dry_run, console=Console())


@command(app, COMPUTE, without=("methods", "seeds", "data", "drop_leaking", "workers", "with_published"))
def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A cell's checkpoint or a model folder.", exists=True, file_okay=False
        ),
    ],
    options: StudyOptions,
    out: Annotated[Path | None, out_option("evaluations/NAME")] = None,
) -> None:
    """Evaluate one checkpoint on the benchmark.

    It is evaluated with the settings of its own study, unless --study names another one. A run directory may come from
    anybody: its plugin files, which are code, are named with --plugin, and its cache is not used, see --cache.

    [bold]Example[/bold]

    harness evaluate runs/tiny/cells/sft-tiny-s0-1a2b3c4d/checkpoints/step-000060
    """
    from harness.cli.resolve import require_plugins, resolve_study
    from harness.config.layers import preset_names
    from harness.study.matrix import CellDocument
    from harness.study.work import evaluate_checkpoint

    place = checkpoint.resolve()
    config = place.parent.parent / "config.json"
    if not config.is_file() and options.study is None and options.model is None:
        raise UserError(
            f"`{checkpoint}`: this is not a checkpoint of a run directory, so its settings are not known; "
            f"name them with --study FILE or a preset ({', '.join(preset_names())})"
        )
    for setting in options.settings or ():
        if re.split(r"[.=]", setting)[0].strip() in _NOT_OF_AN_EVALUATION:
            raise UserError(f"`-s {setting}`: it has no effect on the evaluation of a checkpoint; leave it out")
    document = CellDocument.read(config.parent) if config.is_file() and options.study is None else None
    if document is not None:
        require_plugins(document.plugins, checkpoint)
    study = resolve_study(options, own=None if document is None else document.elsewhere)
    cell = place.parent.parent.name if place.parent.name == "checkpoints" else ""
    folder = out or Path("evaluations") / "-".join(part for part in (cell, place.name) if part)
    console = Console()
    for name, value in evaluate_checkpoint(checkpoint, study, folder).items():
        console.say(f"{name}: {value:.2f}")
    console.say(str(folder))
