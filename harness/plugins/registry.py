"""Finding plugins (methods, rewards, benchmarks, samplers, models) by entry point or in a single file.

Built-in plugins are declared in ``pyproject.toml`` like any others. A plugin is imported when it is first needed, so
that a broken one cannot break the others.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from harness.benchmarks.description import SUFFIXES
from harness.errors import UserError, closest, unknown_name

GROUPS: tuple[str, ...] = ("algorithms", "rewards", "benchmarks", "samplers", "models")
"""Entry-point groups, each published as ``harness.<group>``."""


HOW_TO_ADD = (
    'To add one, install a package that declares it in [project.entry-points."harness.{group}"] (pip install -e .), '
    "or name its file with --plugin FILE.py"
)
_OPTIONS = {"rewards": "reward.options.{}", "benchmarks": "evaluation.more.{}", "samplers": "rollout.sampler_options"}
"""Where a study has the options of a plugin; those of a method stand under its own name."""
_MOST_PROBLEMS = 20

_FILE_MODULE = "harness_plugin_"
_DESCRIPTIONS = "harness.descriptions"
"""The entry point of what makes a benchmark of a description."""
_files: dict[Path, list[EntryPoint]] = {}
"""Plugin files and the entries of each."""


@dataclass(frozen=True)
class Listing:
    """One line of ``harness list``: a plugin, loaded or broken."""

    name: str
    package: str
    summary: str
    error: str = ""


def names(group: str) -> list[str]:
    """All registered names of a group, sorted."""
    return sorted(_entries(group))


def load(group: str, name: str, *, asked: str | None = None) -> Any:
    """Import and return the object registered under a name.

    Args:
        group: One of :data:`GROUPS`.
        name: The registered name.
        asked: What the user typed, for the error message; for example ``--methods gpro``.

    Raises:
        UserError: The name is unknown, registered twice, or its import fails.
    """
    entry = find(group, name, asked=asked)
    try:
        return entry.load()
    except Exception as error:
        raise UserError(
            f"{group} plugin `{name}` ({place_of(entry)}) fails to import: {type(error).__name__}: {error}"
            f"{_import_hint(error, entry)}"
        ) from error


def find(group: str, name: str, *, asked: str | None = None) -> EntryPoint:
    """The entry point registered under a name, without importing it.

    Raises:
        UserError: The name is unknown, or registered twice.
    """
    found = _entries(group)
    if name not in found:
        error = unknown_name(asked or f"{group}: {name}", name, found)
        raise UserError(f"{error}. {HOW_TO_ADD.format(group=group)}")
    return found[name]


def add_file(path: str | Path) -> Path:
    """Register the plugins of one Python file, or the benchmark of a description, as ``--plugin FILE`` does.

    A class is registered under its attribute ``name``, or, if it is the only one of its kind in the file, under the
    file's name. A description (TOML or JSON) is read and runs nothing. Registering a file again has no effect.

    Returns:
        The file's absolute path.

    Raises:
        UserError: The file is missing, fails to import, or defines no plugin.
    """
    file = Path(path).expanduser().resolve()
    if file not in _files:
        if file.suffix not in (".py", *SUFFIXES) or not file.is_file():
            raise UserError(
                f"`{path}`: no such plugin file; name a Python file, for example my_method.py, or the description of a "
                "benchmark, my_benchmark.toml"
            )
        module = _described(file) if file.suffix in SUFFIXES else _import_file(file)
        try:
            _files[file] = _entries_in(module, file)
        except UserError:
            del sys.modules[module.__name__]
            raise
    return file


def file_of(group: str, name: str) -> Path | None:
    """The registered file that a plugin comes from; None for one of a package.

    Raises:
        UserError: As :func:`find`.
    """
    entry = find(group, name)
    return next((file for file, entries in _files.items() if entry in entries), None)


def added_files() -> tuple[Path, ...]:
    """The registered files."""
    return tuple(_files)


def configure(
    group: str, name: str, options: dict[str, Any] | None = None, *, asked: str | None = None
) -> tuple[type[Any], Any]:
    """Load a plugin class and validate its options; return the class and its configuration.

    Raises:
        UserError: As :func:`load`; or an option is unknown or out of range.
    """
    cls = load(group, name, asked=asked)
    if not isinstance(cls, type) or not hasattr(cls, "Config"):
        raise UserError(
            f"{group} plugin `{name}` ({place_of(find(group, name))}) is not a class with a `Config`; its entry point "
            "must be module:Class"
        )
    try:
        return cls, cls.Config(**(options or {}))
    except ValidationError as error:
        where = _OPTIONS.get(group, "{}").format(name)
        raise UserError(describe_validation(error, where, cls.Config)) from error


def create(group: str, name: str, options: dict[str, Any] | None = None, *, asked: str | None = None) -> Any:
    """Load a plugin class and construct it with validated options.

    Raises:
        UserError: As :func:`configure`; or its constructor takes other arguments than the configuration.
    """
    cls, config = configure(group, name, options, asked=asked)
    try:
        return cls(config)
    except TypeError as error:
        raise UserError(
            f"{group} plugin `{name}` ({place_of(find(group, name))}) cannot be constructed: {error}"
        ) from error


def listing(group: str) -> list[Listing]:
    """Every plugin of a group with its origin and summary; failed imports are listed, not raised."""
    rows = []
    for name, entry in sorted(_entries(group).items()):
        try:
            loaded = entry.load()
            rows.append(Listing(name, _package(entry), str(getattr(loaded, "summary", ""))))
        except Exception as error:
            rows.append(Listing(name, _package(entry), "", f"{type(error).__name__}: {error}"))
    return rows


def describe_validation(error: ValidationError, where: str, model: Any, asked: Mapping[str, str] | None = None) -> str:
    """One line for each of the first problems: the invalid key, the reason and, for an unknown key, the closest known.

    Args:
        error: The failed validation.
        where: The file or plugin whose keys are wrong.
        model: The class that was validated.
        asked: The options of the command line behind some keys, as typed; they are named instead.
    """
    lines, problems = [], error.errors()
    for problem in problems[:_MOST_PROBLEMS]:
        key, given = ".".join(map(str, problem["loc"])), problem["input"]
        option = next((text for name, text in (asked or {}).items() if f"{key}.".startswith(f"{name}.")), "")
        subject = f"`{option}`" if option else f"`{where}.{key}`"
        if problem["type"] == "extra_forbidden":
            known = _fields_at(model, problem["loc"][:-1])
            elsewhere = _in_sections(model, str(problem["loc"][-1]))
            hint = f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else ""
            lines.append(f"{subject}: no such key{hint or closest(str(problem['loc'][-1]), known)}")
        else:
            value = "" if option or isinstance(given, Mapping) else f" = {given!r}"  # a table is too long to show
            lines.append(f"{subject}{value}: {problem['msg'].removeprefix('Value error, ')}")
    if more := len(problems) - len(lines):
        lines.append(f"and {more:,} more")
    return "\n".join(lines)


def _in_sections(model: Any, key: str) -> list[str]:
    """The dotted keys of a model's sections that end in this key."""
    return [f"{name}.{key}" for name, field in fields_of(model).items() if key in fields_of(field.annotation)]


def fields_of(model: Any) -> Mapping[str, Any]:
    """The fields of a configuration's class; none of any other type."""
    found: Mapping[str, Any] = getattr(model, "model_fields", {})
    return found


def _fields_at(model: Any, path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))


def place_of(entry: EntryPoint) -> str:
    """Where a plugin comes from, for messages."""
    return f"{entry.attr} in {_package(entry)}" if _is_file(entry) else f"{entry.value}, from {_package(entry)}"


def _package(entry: EntryPoint) -> str:
    if _is_file(entry):
        return str(next(file for file, entries in _files.items() if entry in entries))
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown package"


def _is_file(entry: EntryPoint) -> bool:
    return entry.module.startswith(_FILE_MODULE)


def _import_hint(error: Exception, entry: EntryPoint) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == entry.module.split(".")[0]:
        return ". Is its package installed in this environment (pip install -e .), and its entry point correct?"
    return ". Its entry point must be module:Class" if isinstance(error, AttributeError) else ""


def _import_file(file: Path) -> ModuleType:
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [
            f", line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(file)
        ]
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else "".join(lines[-1:])
        raise UserError(f"`{file}`{where}: fails to import: {type(error).__name__}: {error}") from error
    return module


def _described(file: Path) -> ModuleType:
    """A module that holds the benchmark of a description; its source is the description."""
    (reader,) = entry_points(group=_DESCRIPTIONS)
    made = reader.load()(file)
    module = ModuleType(_module_name(file))
    spec = ModuleSpec(module.__name__, None, origin=str(file))
    spec.has_location = True
    module.__spec__ = spec
    made.__module__ = module.__name__
    setattr(module, made.__name__, made)
    sys.modules[module.__name__] = module
    return module


def _module_name(file: Path) -> str:
    return f"{_FILE_MODULE}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


def _entries_in(module: ModuleType, file: Path) -> list[EntryPoint]:
    """An entry for each plugin class of a file: its contract in ``harness.api`` names its ``plugin_group``."""
    classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    found = []
    for group in GROUPS:
        own = [one for one in dict.fromkeys(classes) if getattr(one, "plugin_group", "") == group]
        named = [(str(vars(one)["name"]), one) for one in own if "name" in vars(one)]
        if own and not named:
            if len(own) > 1:
                listed = ", ".join(one.__name__ for one in own)
                raise UserError(f'`{file}`: it defines {listed}; give each a name: name = "..." in the class')
            named = [(file.stem, own[0])]
        found += [EntryPoint(name, f"{module.__name__}:{one.__name__}", f"harness.{group}") for name, one in named]
    if not found:
        raise UserError(
            f"`{file}`: it defines no subclass of Algorithm, Reward, Benchmark or another class of harness.api"
        )
    return found


def _entries(group: str) -> dict[str, EntryPoint]:
    if group not in GROUPS:
        raise ValueError(f"no plugin group {group!r}; known: {GROUPS}")
    found: dict[str, EntryPoint] = {}
    in_files = [entry for entries in _files.values() for entry in entries if entry.group == f"harness.{group}"]
    for entry in (*entry_points(group=f"harness.{group}"), *in_files):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise UserError(
                f"{group} `{entry.name}` is registered twice: {other.value} (from {_package(other)}) and "
                f"{entry.value} (from {_package(entry)}). Uninstall one, or give it another name."
            )
        found[entry.name] = entry
    return found
