"""From the options of the command line to a study."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.cli.options import StudyOptions
from harness.config.study import StudyConfig, load_study, preset_names
from harness.config.variants import parse_methods
from harness.errors import UserError
from harness.models.loading import locate
from harness.plugins import registry

DEFAULT_MODEL = "tiny"
LARGE_PRESET = "2b"
"""The preset study of a model that has none of its own."""

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
    changes = {**options.changes(), **_benchmarks(options.benchmarks)}
    source = options.study or own
    if source is None:
        source, name = _preset(options.model or DEFAULT_MODEL)
        changes |= name
    methods = None if options.methods is None else method_names(options.methods)
    study = load_study(
        source, overrides=options.settings or (), methods=methods, changes=changes, asked=options.asked()
    )
    benchmark = study.data.benchmark
    if options.split and ("#" in benchmark or benchmark.startswith("world:")):
        raise UserError(f"`--split {options.split}`: the benchmark `{benchmark}` names its split itself; leave one out")
    locate(study.model.name)
    return study


def method_names(text: str) -> list[str]:
    """Methods and variants of methods, as ``--methods`` takes them: ``sft,grpo,grpo:beta=0``.

    Raises:
        UserError: A name is empty, malformed, repeated or the base model's.
    """
    try:
        return list(parse_methods(re.split(_COMMA, text)))
    except ValueError as error:
        raise UserError(f"`--methods {text}`: {error}") from error


def _preset(model: str) -> tuple[str, dict[str, Any]]:
    """The preset study of a model, and the study's name where the preset is not the model's own."""
    known, presets = registry.names("models"), preset_names()
    if model in presets and model not in known:
        raise UserError(f"`--model {model}`: this is a preset study; write --study {model}")
    preset = registry.load("models", model).study if model in known else LARGE_PRESET
    if preset == model:
        return preset, {}
    name = re.sub(r"[^\w.+-]+", "_", Path(locate(model)).name)
    return preset if preset in presets else LARGE_PRESET, {"name": name}


def _benchmarks(text: str | None) -> dict[str, Any]:
    """The study keys that ``--benchmarks`` sets: the headline, then the others with their files."""
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
