"""The table of options, each declared once, and :func:`command`, which gives a command those that it takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.models import OptionInfo

WHAT, DATA, RUN = "What is compared", "Data", "Running"
COMPUTE, READ, SETUP = "Compute", "Results", "Setup"
"""Headings of the help: of a command's options, and of the commands."""

KEYWORD = inspect.Parameter.KEYWORD_ONLY
Function = TypeVar("Function", bound=Callable[..., int | None])


def option(panel: str, metavar: str, help: str, *, sets: str = "", flags: tuple[str, ...] = (), **more: Any) -> Any:
    """A field of a table: an option that is None unless it is given.

    Args:
        panel: Heading under which the help of a command shows it.
        metavar: How the help calls its value.
        help: What it does.
        sets: The study key that it sets, for example ``data.benchmark_limit``.
        flags: Its names, if not ``--`` and the field's name.
        more: Further arguments of ``typer.Option``.
    """
    info = {"metavar": metavar, "help": help, "rich_help_panel": panel, **more}
    return field(default=None if metavar else False, metadata={"flags": flags, "info": info, "sets": sets})


def flag(panel: str, help: str, *, sets: str = "") -> Any:
    """A field of a table: an option without a value, which is False unless it is given."""
    return option(panel, "", help, sets=sets)


def out_option(default: str) -> OptionInfo:
    """``--out``; the default is the folder that a command writes without it."""
    text = f"Folder to write. \\[default: {default}]"
    return typer.Option("--out", metavar="DIR", help=text, file_okay=False, rich_help_panel=RUN)


RunDirectory = Annotated[Path | None, out_option("runs/STUDY")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        help="Show what is done, what would be computed and how long it takes; write nothing.",
        rich_help_panel=RUN,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON and nothing else.")]


def _register(files: list[Path] | None) -> list[Path] | None:
    from harness.plugins import registry

    for file in files or ():
        registry.add_file(file)
    return files


@dataclass(frozen=True)
class StudyOptions:
    """The options that describe a study; None and False leave the study's own value.

    Plugin files are registered as soon as they are read, before the other options.
    """

    methods: str | None = option(
        WHAT,
        "A,B,...",
        "Methods, separated by commas (see `harness list`), or variants: grpo,grpo:beta=0,grpo:think. "
        "\\[default: the study's]",
    )
    model: str | None = option(
        WHAT,
        "NAME",
        "A registered model with its preset study (tiny, 2b, 7b), a model folder or a hub id; for compare and plan "
        "also several, separated by commas. "
        "\\[default: the study's, else tiny]",
        sets="model.name",
    )
    seeds: str | None = option(
        WHAT,
        "N|N,N,...",
        "Training runs of every method; several rising numbers are looks, at which training may stop: 3,5,8.",
        sets="seeds",
    )
    study: str | None = option(WHAT, "FILE|PRESET", "A study file (TOML) or preset.")
    settings: list[str] | None = option(
        WHAT,
        "KEY=VALUE",
        "Change one setting: -s grpo.beta=0.01, -s train.learning_rate=1e-5, -s budget.amount=2000. Repeatable.",
        flags=("--set", "-s"),
    )
    plugin: list[Path] | None = option(
        WHAT,
        "FILE.py",
        "A Python file with a method, reward, benchmark or sampler of your own. Repeatable.",
        callback=_register,
        is_eager=True,
    )
    data: str | None = option(
        DATA,
        "SOURCE",
        "Training records: world:SPLIT, a folder in VSI-Bench's layout (FOLDER#SPLIT) or a .jsonl or .parquet file.",
        sets="data.train",
    )
    benchmark_data: str | None = option(DATA, "SOURCE", "Benchmark records, in the same forms.", sets="data.benchmark")
    benchmarks: str | None = option(
        DATA,
        "A,B=FILE",
        "The headline benchmark, then others, each with a table of its own: vsibench,general=questions.jsonl.",
    )
    split: str | None = option(
        DATA,
        "NAME",
        "Split of the benchmark: full, debiased, pruned. \\[default: test, or the only one]",
        sets="data.split",
    )
    limit: int | None = option(
        DATA,
        "N",
        "At most N benchmark questions: whole rooms, question types in proportion, always the same ones.",
        sets="data.benchmark_limit",
        min=1,
    )
    skip_bad: bool = flag(DATA, "Leave out and count bad records instead of stopping.", sets="data.skip_bad")
    drop_leaking: bool = flag(
        DATA, "Leave out training records of the benchmark's rooms instead of stopping.", sets="data.drop_leaking"
    )
    workers: int | None = option(RUN, "N", "Cells that run at the same time.", sets="runtime.workers", min=1)
    decoders: int | None = option(
        RUN, "N", "Processes that decode videos. \\[default: one for each core]", sets="runtime.decoders", min=1
    )
    engine: str | None = option(
        RUN,
        "shared|naive",
        "shared runs each prompt once for all its completions; naive, for comparison, once for each. Same results. "
        "\\[default: the study's]",
        sets="model.engine",
    )
    cache: Path | None = option(
        RUN, "DIR", "Folder for generated data and decoded frames. \\[default: cache]", sets="runtime.cache"
    )
    with_published: bool = flag(
        READ, "Show published results as rows of their own; they are never tested.", sets="report.with_published"
    )

    def changes(self) -> dict[str, Any]:
        """The study keys that the given options set, with their values."""
        given = {one.metadata["sets"]: getattr(self, one.name) for one in fields(self) if one.metadata["sets"]}
        return {key: value for key, value in given.items() if value is not None and value is not False}

    def asked(self) -> dict[str, str]:
        """These keys with the options as typed, for error messages."""
        flags = {one.metadata["sets"]: f"--{one.name.replace('_', '-')}" for one in fields(self)}
        return {key: flags[key] + ("" if value is True else f" {value}") for key, value in self.changes().items()}


@dataclass(frozen=True)
class TrainOptions(StudyOptions):
    """The options of a single training run."""

    seed: int | None = option(WHAT, "N", "Seed of data order and sampling.", sets="first_seed", min=0)


@dataclass(frozen=True)
class TuneOptions(StudyOptions):
    """The options of a study and of its tuning."""

    trials: int | None = option(WHAT, "N", "Random trials of every method.", sets="tune.trials", min=1)
    development: str | None = option(
        DATA, "SOURCE", "Records on which the trials are compared; never the benchmark's.", sets="tune.development"
    )


def command(
    app: typer.Typer,
    panel: str | None = None,
    *,
    name: str | None = None,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> Callable[[Function], Function]:
    """Add a function to an app as a command; the function returns the exit code, or None for 0.

    A parameter whose type is a table becomes one option for each field, and the function gets the filled table.

    Args:
        app: The app.
        panel: Heading under which the help of the app shows the command.
        name: The command's name, if not the function's.
        only: The fields of :class:`StudyOptions` that the command takes; None is all of them.
        without: Fields that it does not take; they keep their defaults.
    """

    def expanded(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
        if not is_dataclass(table := parameter.annotation):
            yield parameter.replace(kind=KEYWORD)
            return
        hints = get_type_hints(table)
        for one in fields(table):
            if one.name not in without and (only is None or table is not StudyOptions or one.name in only):
                flags = one.metadata["flags"] or (f"--{one.name.replace('_', '-')}",)
                info = typer.Option(one.default, *flags, **one.metadata["info"])
                yield inspect.Parameter(one.name, KEYWORD, default=info, annotation=hints[one.name])

    def add(function: Function) -> Function:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        tables: dict[str, Any] = {one.name: one.annotation for one in parameters if is_dataclass(one.annotation)}
        taken = [each for one in parameters for each in expanded(one)]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            for name, table in tables.items():
                given = {one.name: values.pop(one.name) for one in fields(table) if one.name in values}
                values[name] = table(**given)
            raise typer.Exit(function(**values) or 0)

        run.__annotations__ = {one.name: one.annotation for one in taken}
        run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
        app.command(name, rich_help_panel=panel)(run)
        return function

    return add
