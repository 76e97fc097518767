"""From the options of the command line to a study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.benchmarks.description import SUFFIXES
from harness.cli.options import StudyOptions
from harness.config.layers import (
    LARGE_PRESET,
    kept_settings,
    leaves,
    model_named,
    models_of,
    parse_setting,
    preset_names,
    preset_of,
    read_layers,
)
from harness.config.study import StudyConfig, load_study
from harness.config.variants import parse_methods
from harness.console import Console
from harness.errors import UserError
from harness.io import sha256_file
from harness.models.loading import locate
from harness.plugins import registry
from harness.study.matrix import model_folder
from harness.study.models import ModelStudy

DEFAULT_MODEL = "tiny"
RUNS = Path("runs")
_NOT_OF_A_MODEL = ("name", "methods", "seeds", "report")
_COMMA = r",(?![^{\[]*[}\]])"
"""Between two methods; those inside a TOML table or list belong to a variant."""


def resolve_study(options: StudyOptions, own: StudyConfig | None = None) -> StudyConfig:
    """The study that the options describe.

    Args:
        options: The options.
        own: The study to start from where the options name none, instead of a preset.

    Raises:
        UserError: A name, key or value is unknown or wrong.
    """
    if len(models_named(options)) and options.model is not None:
        raise UserError(f"`--model {options.model}`: this command takes one model")
    benchmarks = _benchmarks(options.benchmarks)
    changes, asked = options.changes() | benchmarks, options.asked()
    asked |= dict.fromkeys(benchmarks, f"--benchmarks {options.benchmarks}")
    if options.methods is not None:
        asked["methods"] = f"--methods {options.methods}"
    source, settings = own if options.study is None else options.study, options.settings or ()
    model = _model(options)
    if source is None:
        source, name = _preset(model or DEFAULT_MODEL)
        changes |= name
    methods = None if options.methods is None else method_names(options.methods)
    study = load_study(source, overrides=settings, methods=methods, changes=changes, asked=asked)
    locate(study.model.name)
    if options.study is not None:
        _tell_kept(options.study, model or study.model.name)
    return study


def models_named(options: StudyOptions) -> list[str]:
    """The models that the command line names, or the study file, where these are several; else none.

    Raises:
        UserError: A name is empty or given twice.
    """
    if options.model is not None and "," in options.model and not Path(options.model).exists():
        found = [name.strip() for name in options.model.split(",")]
        if not all(found) or len(set(found)) < len(found):
            raise UserError(f"`--model {options.model}`: name different models, separated by commas")
        return found
    if options.study is None or _model(options) is not None:
        return []
    return list(models_of(options.study))


def resolve_models(options: StudyOptions) -> tuple[list[ModelStudy], Path]:
    """The study that the options describe, for each of their models, and the folder for all of them.

    Raises:
        UserError: As :func:`resolve_study`; or there is one model only.
    """
    models = models_named(options)
    if len(models) < 2:
        raise UserError(f"`model` = {models}: name one model as a text, or several")
    each = [replace(options, model=model) for model in models]
    studies = [ModelStudy(resolve_study(one), keys_set(one)) for one in each]
    name = studies[0].study.name if options.study is not None else "-".join(model_folder(model) for model in models)
    return studies, RUNS / name.removesuffix(f"-{models[0]}")


def require_plugins(recorded: Mapping[str, str], checkpoint: Path) -> None:
    """Ask for the plugin files that a checkpoint's study used: a run directory names them, but only the user runs them.

    Another version of a file is used as the user names it, and that is said.

    Args:
        recorded: SHA-256 by path.
        checkpoint: For messages.

    Raises:
        UserError: A file is not named on the command line.
    """
    given = {file: sha256_file(file) for file in registry.added_files()}
    wanted = {path: digest for path, digest in recorded.items() if digest not in given.values()}
    other = {path: [file for file in given if file.name == Path(path).name] for path in wanted}
    if lacking := {path: digest for path, digest in wanted.items() if not other[path]}:
        files = "\n".join(f"  --plugin {path}  (SHA-256 {digest})" for path, digest in lacking.items())
        raise UserError(
            f"`{checkpoint}`: its study uses plugin files, and a run directory's files are not run unasked. Look at "
            f"them and name them:\n{files}"
        )
    for path, (file, *_) in other.items():
        text = (
            f"{file} is not the version of {path} that the run used (SHA-256 {given[file][:16]}, then "
            f"{wanted[path][:16]}): the result is that of the version named now"
        )
        Console(stderr=True).say(text, style="yellow")


def keys_set(options: StudyOptions) -> tuple[str, ...]:
    """The study keys that the user sets: by options, and in a file that extends another."""
    own = () if options.study is None else leaves(read_layers(options.study, _model(options)).own)
    settings = (parse_setting(text, StudyConfig.model_fields).key for text in options.settings or ())
    return tuple(dict.fromkeys((*(key for key, _ in own), *options.changes(), *settings)))


def method_names(text: str) -> list[str]:
    """Methods and variants of methods, as ``--methods`` takes them: ``sft,grpo,grpo:beta=0``.

    Raises:
        UserError: A name is empty, malformed, repeated or the base model's.
    """
    try:
        return list(parse_methods(re.split(_COMMA, text)))
    except ValueError as error:
        raise UserError(f"`--methods {text}`: {error}") from error


def _model(options: StudyOptions) -> str | None:
    """The model that the command line names."""
    return options.model or model_named(options.settings or ())


def _tell_kept(source: str, model: str) -> None:
    """Print what a study keeps of its own for another model than it was written for."""
    layers = read_layers(source, model)
    kept = [f"{key} = {value}" for key, value in leaves(layers.kept) if key.partition(".")[0] not in _NOT_OF_A_MODEL]
    below = preset_of(model)
    own = dict(leaves(layers.own))
    if below is None and ("model.name" in own or layers.document.get("model", {}).get("name") != model):
        kept = [one for one in kept_settings(layers.document, LARGE_PRESET) if one.partition(" = ")[0] not in own]
    if kept:
        told = f"For the model {model}, {source}" + (f", now on the preset {below}," if below else "")
        Console(stderr=True).say(f"{told} keeps {', '.join(kept)}", style="yellow")


def _preset(model: str) -> tuple[str, dict[str, Any]]:
    """The preset study of a model, and the study's name where the preset is not the model's own."""
    if model in preset_names() and preset_of(model) is None:
        raise UserError(f"`--model {model}`: this is a preset study; write --study {model}")
    preset = preset_of(model) or LARGE_PRESET
    return preset, {} if preset == model else {"name": re.sub(r"[^\w.+-]+", "_", Path(locate(model)).name)}


def _described(path: str) -> str:
    """Register the benchmark of a description's file; return its name."""
    file = registry.add_file(path)
    return next(name for name in registry.names("benchmarks") if registry.file_of("benchmarks", name) == file)


def _benchmarks(text: str | None) -> dict[str, Any]:
    """The study keys that ``--benchmarks`` sets: the headline, then the others with their files."""
    if text is None:
        return {}
    headline, *others = [[part.strip() for part in one.partition("=")] for one in text.split(",")]
    for one in (headline, *others):
        if one[0].endswith(SUFFIXES):
            one[0] = _described(one[0])
    if headline[1] or not all(name for name, _, _ in (headline, *others)):
        raise UserError(
            f"`--benchmarks {text}`: write names separated by commas, for example vsibench,general=FILE.jsonl"
        )
    found: dict[str, Any] = {"evaluation.benchmark": headline[0]}
    for name, _, file in others:
        if f"evaluation.more.{name}" in found:
            raise UserError(f"`--benchmarks {text}`: {name} is named twice; name each benchmark once")
        found[f"evaluation.more.{name}"] = {"file": file} if file else {}
    return found
