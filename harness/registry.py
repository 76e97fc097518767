"""Finding plugins: methods, rewards, benchmarks, models and reports, by entry point.

Built-ins are declared in ``pyproject.toml`` exactly as anyone's plugin is. Nothing is
imported until it is asked for, so a broken plugin cannot break the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from harness.errors import UserError, unknown_name

GROUPS: tuple[str, ...] = ("algorithms", "rewards", "benchmarks", "models", "reports")
"""Entry-point groups, each published as ``harness.<group>``."""


@dataclass(frozen=True)
class Listing:
    """One line of ``harness list``: a plugin, loaded or broken."""

    group: str
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
        asked: What the user typed, for the message; for example ``--methods gpro``.

    Raises:
        UserError: The name is unknown, registered twice, or its import fails.
    """
    found = _entries(group)
    if name not in found:
        raise unknown_name(asked or f"{group}: {name}", name, found)
    entry = found[name]
    try:
        return entry.load()
    except Exception as error:
        raise UserError(
            f"{group} plugin `{name}` ({entry.value}, from {_package(entry)}) fails to import: "
            f"{type(error).__name__}: {error}"
        ) from error


def create(group: str, name: str, options: dict[str, Any] | None = None, *, asked: str | None = None) -> Any:
    """Load a plugin class and construct it with validated options.

    Raises:
        UserError: As :func:`load`; or an option is unknown or out of range.
    """
    cls = load(group, name, asked=asked)
    try:
        config = cls.Config(**(options or {}))
    except ValidationError as error:
        raise UserError(describe_validation(error, f"{name}", cls.Config)) from error
    return cls(config)


def listing(group: str) -> list[Listing]:
    """Every plugin of a group with its origin and summary; import failures are reported, not raised."""
    rows = []
    for name, entry in sorted(_entries(group).items()):
        try:
            loaded = entry.load()
            rows.append(Listing(group, name, _package(entry), str(getattr(loaded, "summary", ""))))
        except Exception as error:
            rows.append(Listing(group, name, _package(entry), "", f"{type(error).__name__}: {error}"))
    return rows


def describe_validation(error: ValidationError, where: str, model: Any) -> str:
    """Say in one line per problem which key is wrong, why, and which key was meant."""
    import difflib

    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = sorted(_fields_at(model, problem["loc"][:-1]))
            close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"`{where}.{key}`: no such key{hint} Known: {', '.join(known) or 'none'}")
        else:
            lines.append(f"`{where}.{key}` = {problem.get('input')!r}: {problem['msg']}")
    return "\n".join(lines)


def _fields_at(model: Any, path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown package"


def _entries(group: str) -> dict[str, EntryPoint]:
    if group not in GROUPS:
        raise ValueError(f"no plugin group {group!r}; known: {GROUPS}")
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=f"harness.{group}"):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise UserError(
                f"{group} `{entry.name}` is registered twice: {other.value} (from {_package(other)}) and "
                f"{entry.value} (from {_package(entry)}). Uninstall one, or rename its entry point."
            )
        found[entry.name] = entry
    return found
