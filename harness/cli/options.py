"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WHAT, DATA, RUN = "What is compared", "Data", "Running"
COMPUTE, READ, MORE = "Compute", "Results", "Setup"
"""Headings of the help."""

StudyOption = Annotated[
    str | None,
    typer.Option("--study", metavar="FILE|PRESET", help="A study file (TOML) or preset.", rich_help_panel=WHAT),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A registered model with its preset study (tiny, 2b, 7b), a model folder or a hub id. "
        "\\[default: tiny, or the study's]",
        rich_help_panel=WHAT,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Change one setting: -s grpo.beta=0.01, -s train.learning_rate=1e-5, -s budget.amount=2000. Repeatable.",
        rich_help_panel=WHAT,
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="shared|naive",
        help="shared runs each prompt once for all its answers; naive once for each, to compare with. Same results. "
        "\[default: the study's]",
        rich_help_panel=RUN,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Training records: world:SPLIT, a folder in VSI-Bench's layout (FOLDER#SPLIT) or a .jsonl or "
        ".parquet file.",
        rich_help_panel=DATA,
    ),
]
BenchmarkOption = Annotated[
    str | None,
    typer.Option("--benchmark-data", metavar="SOURCE", help="Evaluation records, likewise.", rich_help_panel=DATA),
]
BenchmarksOption = Annotated[
    str | None,
    typer.Option(
        "--benchmarks",
        metavar="A,B=FILE",
        help="The headline benchmark, and others beside it, each with a table of its own: "
        "vsibench,general=questions.jsonl.",
        rich_help_panel=DATA,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="NAME", help="Split of the benchmark: full, debiased, pruned.", rich_help_panel=DATA
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        metavar="N",
        help="At most N benchmark questions: whole rooms, types in proportion, always the same ones.",
        rich_help_panel=DATA,
    ),
]


def _register(files: list[Path] | None) -> list[Path] | None:
    from harness.plugins import registry

    for file in files or ():
        registry.add_file(file)
    return files


PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file with a method, reward or benchmark of your own. Repeatable.",
        callback=_register,
        is_eager=True,
        rich_help_panel=WHAT,
    ),
]
"""What it names is registered before the command runs."""

SkipBadOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad", metavar="", help="Leave bad records out and count them, not stop.", rich_help_panel=DATA
    ),
]
DropLeakingOption = Annotated[
    bool,
    typer.Option(
        "--drop-leaking",
        metavar="",
        help="Leave training records of benchmark rooms out, not stop.",
        rich_help_panel=DATA,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Run directory. \\[default: runs/STUDY]", rich_help_panel=RUN),
]
PublishedOption = Annotated[
    bool,
    typer.Option(
        "--with-published",
        metavar="",
        help="Show published rows beside ours, set apart and never tested.",
        rich_help_panel=READ,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="Cells at the same time.", rich_help_panel=RUN),
]
