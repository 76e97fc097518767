"""Commands that compute: compare, train, evaluate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.config.study import BASE, StudyConfig, change_study, load_study, preset_names
from harness.config.variants import parse_variant
from harness.errors import UserError, unknown_name
from harness.models.loading import locate
from harness.plugins import registry

RUNS = Path("runs")
DEFAULT_MODEL = "tiny"
LARGE_PRESET = "2b"


@dataclass(frozen=True)
class StudyOptions:
    """What the command line says about a study; None and False leave the study's own value."""

    study: str | None = None
    model: str | None = None
    methods: str | None = None
    seeds: int | None = None
    first_seed: int | None = None
    data: str | None = None
    benchmark_data: str | None = None
    benchmarks: str | None = None
    split: str | None = None
    limit: int | None = None
    skip_bad: bool = False
    drop_leaking: bool = False
    workers: int | None = None
    with_published: bool = False
    settings: tuple[str, ...] = ()
    out: Path | None = None


def resolve_study(options: StudyOptions) -> StudyConfig:
    """The study that the options name, with their changes.

    Raises:
        UserError: A name, key or value is unknown or wrong.
    """
    source, changes = _source(options)
    told = {
        "seeds": options.seeds,
        "first_seed": options.first_seed,
        "data.train": options.data,
        "data.benchmark": options.benchmark_data,
        "data.split": options.split,
        "data.benchmark_limit": options.limit,
        "data.skip_bad": options.skip_bad or None,
        "data.drop_leaking": options.drop_leaking or None,
        "runtime.workers": options.workers,
        "report.with_published": options.with_published or None,
    }
    changes |= {key: value for key, value in told.items() if value is not None}
    changes |= _benchmarks(options.benchmarks)
    methods = None if options.methods is None else _method_names(options.methods)
    study = load_study(source, overrides=options.settings, methods=methods, changes=changes)
    locate(study.model.name)
    return study


def run_directory(study: StudyConfig, out: Path | None) -> Path:
    """Where a study's run goes.

    Raises:
        UserError: There is a file of that name.
    """
    folder = out or RUNS / study.name
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`--out {folder}`: this is a file; name a folder")
    return folder


def compare(options: StudyOptions, *, dry_run: bool) -> int:
    """``harness compare``."""
    from harness.study.compare import compare as run

    study = resolve_study(options)
    return run(study, run_directory(study, options.out), dry_run=dry_run, console=Console())


def plan(options: StudyOptions, *, pilot: Path | None) -> int:
    """``harness plan``: what a study could find and what it costs; writes nothing."""
    from harness.study.plan import print_plan

    study = resolve_study(options)
    print_plan(study, run_directory(study, options.out), pilot=pilot, console=Console())
    return 0


def train(options: StudyOptions) -> int:
    """``harness train``; the options name one method."""
    from harness.study.compare import train as run

    names = _method_names(options.methods or "")
    if len(names) != 1:
        raise UserError(f"`harness train {options.methods}`: name one method; `harness compare` takes several")
    method, known = parse_variant(names[0]).method, registry.names("algorithms")
    if method not in known:
        raise unknown_name(f"harness train {names[0]}", method, known)
    study = resolve_study(options)
    return run(study, run_directory(study, options.out), console=Console())


def evaluate(
    checkpoint: Path,
    *,
    study_source: str | None,
    data: Mapping[str, Any],
    out: Path | None,
    settings: Sequence[str] = (),
) -> int:
    """``harness evaluate``: one checkpoint, by the settings of its own study unless told otherwise.

    Args:
        checkpoint: A cell's checkpoint or a model folder.
        study_source: A study file or preset, instead of the checkpoint's own study.
        data: Changes of the study's data section; None leaves a value as it is.
        out: Folder for the answers.
        settings: Further changes of the study, ``key=value``.
    """
    from harness.study.cell import evaluate_checkpoint

    if not checkpoint.is_dir():
        raise UserError(f"`{checkpoint}`: no such checkpoint folder")
    if study_source is None:
        study = change_study(_study_of(checkpoint), settings)
    else:
        study = resolve_study(StudyOptions(study=study_source, settings=tuple(settings)))
    told = {key: value for key, value in data.items() if value is not None}
    study = study.model_copy(update={"data": study.data.model_copy(update=told)})
    console = Console()
    place = checkpoint.resolve()
    cell = place.parent.parent.name if place.parent.name == "checkpoints" else ""
    folder = out or Path("evaluations") / "-".join(part for part in (cell, place.name) if part)
    numbers = evaluate_checkpoint(checkpoint, study, folder)
    for name, value in numbers.items():
        console.print(f"{name}: {value:.2f}", highlight=False)
    console.print(str(folder), soft_wrap=True, highlight=False)
    return 0


def _source(options: StudyOptions) -> tuple[str, dict[str, Any]]:
    """The study file or preset to start from, and what ``--model`` changes in it."""
    if options.study is not None:
        return options.study, {} if options.model is None else {"model.name": options.model}
    model = options.model or DEFAULT_MODEL
    if model in preset_names():
        return model, {}
    location = locate(model)
    preset = registry.load("models", model).study if model in registry.names("models") else LARGE_PRESET
    name = re.sub(r"[^\w.+-]+", "_", Path(location).name)
    return preset if preset in preset_names() else LARGE_PRESET, {"model.name": model, "name": name}


def _benchmarks(text: str | None) -> dict[str, Any]:
    """``vsibench,general=FILE``: the headline, and those beside it with their files."""
    if text is None:
        return {}
    headline, *others = [[part.strip() for part in one.partition("=")] for one in text.split(",")]
    if headline[1] or not all(name for name, _, _ in (headline, *others)):
        raise UserError(
            f"`--benchmarks {text}`: write names separated by commas, for example vsibench,general=FILE.jsonl"
        )
    found: dict[str, Any] = {"evaluation.benchmark": headline[0]}
    for name, _, file in others:
        if f"evaluation.more.{name}" in found:
            raise UserError(f"`--benchmarks {text}`: {name} is named twice; name each benchmark once")
        found[f"evaluation.more.{name}"] = {}
        if file:
            found[f"evaluation.more.{name}.file"] = file
    return found


def _method_names(text: str) -> list[str]:
    """Methods and variants of methods: ``sft,grpo,grpo:beta=0``."""
    if "" in [part.strip() for part in text.split(",")]:
        raise UserError(f"`--methods {text}`: write names separated by commas, for example --methods sft,dpo,grpo")
    try:
        variants = [parse_variant(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"`--methods {text}`: {error}") from error
    names = [variant.name for variant in variants]
    if BASE in [variant.method for variant in variants]:
        raise UserError(f"`--methods {text}`: `{BASE}` is always part of the comparison; leave it out")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"`--methods {text}`: {', '.join(repeated)} is named twice; name each method once")
    return names


def _study_of(checkpoint: Path) -> StudyConfig:
    config = checkpoint.resolve().parent.parent / "config.json"
    if not config.is_file():
        raise UserError(
            f"`{checkpoint}`: this is no checkpoint of a run directory, so its settings are not known; "
            f"name them with --study FILE or a preset ({', '.join(preset_names())})"
        )
    from harness.study.matrix import CellDocument

    return CellDocument.read(config.parent).study
