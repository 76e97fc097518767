"""The layers of a study: a preset, the files that extend it, the command line. What a later one says takes effect."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from harness.config.sections import ModelSection, bounds_by_name, names_split
from harness.config.variants import SECTIONS, merge, put, toml_value
from harness.errors import UserError, unknown_name
from harness.io import read_text
from harness.plugins import registry

LARGE_PRESET = "2b"
"""The preset study of a model that has none of its own."""

_MOST_LAYERS = 50

_ABOUT_MODEL = ("model", "data", "prompt", "reward", "rollout", "budget", "train", "evaluation", "method")
"""Sections with settings that are chosen for a model and its data."""


class Layers(NamedTuple):
    """A study file with all that it extends.

    Attributes:
        document: The settings, merged.
        where: The file, for messages.
        own: What this file says itself; empty where it extends nothing, so that it has to say everything.
        kept: What stays of its own where the preset below was replaced by that of another model; else empty.
    """

    document: dict[str, Any]
    where: str
    own: dict[str, Any]
    kept: dict[str, Any]


class Said(NamedTuple):
    """A setting of the command line: its full key, its value, and the option as typed."""

    key: str
    value: Any
    text: str


def preset_names() -> list[str]:
    """Names of the studies shipped with the package."""
    folder = resources.files("harness.config.presets")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def preset_of(model: str) -> str | None:
    """The preset study of a registered model; None for a folder, a hub id or an unknown name."""
    if model not in registry.names("models"):
        return None
    study: str = registry.load("models", model).study
    return study if study in preset_names() else LARGE_PRESET


def read_layers(source: str | Path, model: str | None = None) -> Layers:
    """Read a study file or preset and all that it extends.

    Where a file extends a model's own preset and a later layer names another registered model, the preset of that model
    takes its place: the same question on another model.

    Args:
        source: A preset's name, or a path to a file.
        model: The model that the command line names.

    Raises:
        UserError: A file is missing or unreadable, extends itself, or is made for another registered model.
    """
    return _read(_found(source, Path()) if isinstance(source, str) else source, model, ())


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one layer with those of the next; what that says for all methods replaces what was for one."""
    return merge(without_shadows(base, top), top)


def with_command_line(document: dict[str, Any], given: Iterable[Said]) -> dict[str, Any]:
    """The settings of a study with those of the command line, which are one layer whatever their order.

    Raises:
        UserError: A part of a key is a value, not a table.
    """
    nested = [(said, _nested(said.key, said.value)) for said in given]
    for _, table in nested:
        document = without_shadows(document, table)
    for said, table in nested:
        section = said.key.removeprefix("method.")
        if isinstance(said.value, Mapping) and "." not in section:  # else a setting whose value is a table
            document = merge(document, table)
        else:
            put(document, said.key, said.value)
    return document


def without_shadows(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one layer without those that would hide what the next one says."""
    found = dict(base)
    if isinstance(found.get("method"), Mapping):
        found["method"] = {name: _without(own, top) for name, own in found["method"].items()}
    data, later = found.get("data"), top.get("data")
    if isinstance(data, Mapping) and isinstance(later, Mapping):
        hidden = {"min_pixels", "max_pixels"} if later.get("pixels") is not None else set()
        if names_split(later.get("benchmark")):
            hidden.add("split")
        found["data"] = {key: value for key, value in bounds_by_name(data).items() if key not in hidden}
    return found


def leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of nested tables with their values; an empty table has none."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def refuse_undecodable(typed: str, value: Any) -> None:
    """Refuse what was typed with bytes that are not UTF-8, since no document could hold it.

    Args:
        typed: What was typed, for the message.
        value: The text or texts in it; what is not text is not looked at.

    Raises:
        UserError: It has such bytes.
    """
    texts = [str(one) for one in (value if isinstance(value, (list, tuple)) else [value])]
    if any(text.encode(errors="ignore").decode() != text for text in texts):
        raise UserError(f"`{typed}`: it holds bytes that are not UTF-8; type it again")


def parse_setting(text: str, known: Mapping[str, Any]) -> Said:
    """Parse ``-s KEY=VALUE``; the key's first part is one of the known fields of a study, or a registered method.

    Raises:
        UserError: It has another form, or its first part is unknown.
    """
    refuse_undecodable(f"-s {text}", text)
    key, separator, value = text.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(part and part == part.strip() for part in parts):
        raise UserError(f"`-s {text}`: write key=value, for example -s grpo.beta=0.01")
    methods = registry.names("algorithms")
    if parts[0] not in known:
        if parts[0] not in methods:
            sections = {name: registry.fields_of(field.annotation) for name, field in known.items()}
            if within := [f"{name}.{parts[0]}" for name, fields in sections.items() if parts[0] in fields]:
                raise UserError(f"`-s {text}`: no such name; did you mean {' or '.join(within)}?")
            raise unknown_name(f"-s {key.strip()}", parts[0], [*known, *methods])
        parts = ["method", *parts]
    return Said(".".join(parts), toml_value(value), f"-s {text}")


def model_named(settings: Iterable[str]) -> str | None:
    """The model that ``-s`` names, if any."""
    for text in settings:
        key, _, value = text.partition("=")
        found = toml_value(value)
        if key.strip() == "model" and isinstance(found, Mapping):
            key, found = "model.name", found.get("name")
        if key.strip() == "model.name" and found is not None:
            return str(found)
    return None


def refuse_twice(given: Iterable[Said]) -> None:
    """Refuse a setting that the command line gives twice, or as a value and as a table.

    Raises:
        UserError: Both are named.
    """
    seen: dict[str, str] = {}
    for said in given:
        own = dict.fromkeys((key for key, _ in leaves(_nested(said.key, said.value))), said.text)
        for key in own:
            for other, text in seen.items():
                if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                    raise UserError(f"`{text}` and `{said.text}` set the same; leave one out")
        seen |= own


def kept_settings(document: Mapping[str, Any], preset: str) -> list[str]:
    """The settings of a study that differ from a model's preset, as ``key = value``."""
    own = dict(leaves(document))
    about = {key: value for key, value in leaves(_read(preset, None, ()).document) if key.split(".")[0] in _ABOUT_MODEL}
    return [f"{key} = {own[key]}" for key in about if key != "model.name" and own.get(key, about[key]) != about[key]]


def refuse_other_model(document: Mapping[str, Any], where: str, model: str | None) -> None:
    """Refuse the settings of a study that stands alone for another registered model than its own.

    Raises:
        UserError: The settings that would be kept are named.
    """
    section = document.get("model", {})
    made_for = section.get("name", ModelSection().name) if isinstance(section, Mapping) else ""
    own, wanted = (preset_of(one) if isinstance(one, str) else None for one in (made_for, model))
    if own is None or wanted is None or own == wanted:
        return
    if kept := kept_settings(document, wanted):
        raise UserError(
            f"`model.name` = {model}: `{where}` is a study of the model {made_for} and would keep {', '.join(kept)}. "
            f'Use the model\'s own study: --study {wanted}, or extends = "{wanted}"'
        )


def _read(source: str | Path, model: str | None, above: tuple[str, ...]) -> Layers:
    text, where = _read_text(source)
    place = source if isinstance(source, str) else str(source.resolve())
    if place in above:
        raise UserError(f"`{where}`: it extends itself: {' extends '.join((*above, place))}")
    if len(above) == _MOST_LAYERS:
        raise UserError(
            f"`{where}`: {_MOST_LAYERS} files extend one another before it, and no more are read; join some"
        )
    try:
        own = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise UserError(f"`{where}`: not valid TOML: {error}") from error
    parent, several = own.pop("extends", None), _models_in(own)
    if several:
        if model is None:
            raise UserError(
                f"`{where}`: it names the models {', '.join(several)}, which only `harness compare` and `harness plan` "
                "take one after the other; choose one with --model"
            )
        own = _of_no_model(own)
    if parent is None:
        if not several:
            refuse_other_model(own, where, model)
        return Layers(own, where, {}, {})
    if not isinstance(parent, str) or not parent:
        raise UserError(f"`{where}`: `extends` must be a preset's name or a path")
    replaced = False
    if model is None:
        model = section.get("name") if isinstance(section := own.get("model"), Mapping) else None
        model = model if isinstance(model, str) else None
    elif parent in preset_names() and parent == preset_of(parent) and (other := preset_of(model)) is not None:
        parent, replaced = other, parent != other
    base = _read(parent if replaced else _found(parent, Path(where).parent), model, (*above, place))
    kept = overlay(base.kept, own) if replaced or base.kept else {}
    return Layers(overlay(base.document, own), where, own, kept)


def models_of(source: str | Path) -> tuple[str, ...]:
    """The models that a study file names, where it names several: ``model = [..]``; a file that it extends, likewise.

    Raises:
        UserError: One is no name, or is named twice.
    """
    place: str | Path = _found(source, Path()) if isinstance(source, str) else source
    for _ in range(_MOST_LAYERS):
        try:
            text, where = _read_text(place)
            own = tomllib.loads(text)
        except (UserError, ValueError, RecursionError):
            return ()  # which the reader of the study says better
        if "model" in own:
            found = _models_in(own)
            if len(set(found)) < len(found) or not all(isinstance(one, str) and one for one in found):
                raise UserError(f"`{where}.model`: name different models, each once")
            return found
        if not isinstance(parent := own.get("extends"), str):
            return ()
        place = _found(parent, Path(where).parent)
    return ()


def _models_in(own: Mapping[str, Any]) -> tuple[str, ...]:
    """The models of a file's ``model = [..]`` or ``model.name = [..]``; empty where it names one or none."""
    section = own.get("model")
    names = section.get("name") if isinstance(section, Mapping) else section
    return tuple(names) if isinstance(names, list) else ()


def _of_no_model(own: dict[str, Any]) -> dict[str, Any]:
    """What a file says besides its models' names."""
    section = own["model"]
    rest = {key: value for key, value in section.items() if key != "name"} if isinstance(section, Mapping) else {}
    return {key: value for key, value in own.items() if key != "model"} | ({"model": rest} if rest else {})


def _found(name: str, folder: Path) -> str | Path:
    """What a name stands for: a preset (its name) or a file (its path)."""
    if name not in preset_names():
        return folder / name
    if (folder / name).is_file():
        raise UserError(f"`{name}` is a preset and a file in `{folder}`; write ./{name} for the file, or rename it")
    return name


def _read_text(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str):
        return read_text(resources.files("harness.config.presets").joinpath(f"{source}.toml")), f"{source}.toml"
    if not os.path.lexists(source):
        raise UserError(f"`{source}`: no such study file, and no such preset. Presets: {', '.join(preset_names())}")
    return read_text(source), str(source)


def _without(own: Any, top: Mapping[str, Any]) -> Any:
    """A method's table without the keys of sections that ``top`` sets for all methods."""
    if not isinstance(own, Mapping):
        return own
    found = dict(own)
    for name in SECTIONS:
        table, said = own.get(name), top.get(name)
        if isinstance(table, Mapping) and isinstance(said, Mapping):
            left = {key: value for key, value in table.items() if key not in said}
            found |= {name: left}
            if not left:
                del found[name]
    return found


def _nested(key: str, value: Any) -> dict[str, Any]:
    table: dict[str, Any] = {}
    put(table, key, value)
    return table
