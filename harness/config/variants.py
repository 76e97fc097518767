"""Variants of a method in one study, such as ``grpo``, ``grpo:beta=0`` and ``grpo:think``.

A variant is a method's name followed by its changes, each after a colon::

    grpo:beta=0                      a hyper-parameter of the method
    grpo:beta=0:group_size=4         several
    grpo:train.learning_rate=1e-6    a shared setting of one of the SECTIONS
    grpo:think                       trained and evaluated in that prompt mode (Table 2 of arXiv 2504.00883)
    grpo:prompt.train=think          trained in it, evaluated in the study's mode
    grpo:reward.weights={mra=1.0}    other rewards; the whole table of weights, in TOML

A variant shares everything else, including seeds and budget, with the other methods of the study.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.vsibench.prompts import TRAINING_MODES

BASE = "base"
"""The name of the untrained model among the methods."""

SECTIONS: Mapping[str, tuple[str, ...] | None] = {
    "train": None,
    "prompt": None,
    "rollout": None,
    "reward": None,
    "evaluation": ("max_new_tokens", "two_turns"),
}
"""Sections of a study that a method or a variant may override, and which of their keys; None: all."""


@dataclass(frozen=True)
class Variant:
    """One entry of a study's methods.

    Attributes:
        name: As written, without spaces; its name in tables, cells and ``report.pairs``.
        method: The registered method.
        changes: The parts after each colon.
        settings: The changes as a nested table, like ``[method.NAME]``.
    """

    name: str
    method: str
    changes: tuple[str, ...]
    settings: Mapping[str, Any]


def parse_variant(text: str) -> Variant:
    """Parse ``METHOD[:KEY=VALUE | :MODE]...``; a value that is not TOML is text.

    Raises:
        ValueError: The text has another form.
    """
    method, *changes = [part.strip() for part in text.split(":")]
    settings: dict[str, Any] = {}
    for change in changes:
        key, equals, value = (part.strip() for part in change.partition("="))
        if change in TRAINING_MODES:
            found = {"prompt.train": change, "prompt.evaluation": change}
        elif key and equals and value:
            found = {key: toml_value(value)}
        else:
            raise ValueError(
                f"`{text}`: write key=value or a prompt mode after a colon ({', '.join(TRAINING_MODES)}), for example "
                "grpo:beta=0:group_size=4 or grpo:think"
            )
        for name, setting in found.items():
            if get(settings, name) is not None:
                raise ValueError(f"`{text}`: {name} is set twice")
            put(settings, name, setting)
    if not method:
        raise ValueError(
            f"`{text}`: the method's name is missing; write METHOD or METHOD:KEY=VALUE, separated by commas"
        )
    return Variant(":".join([method, *changes]), method, tuple(changes), settings)


def parse_methods(names: Iterable[str]) -> tuple[str, ...]:
    """The names of a study's methods and variants, without spaces.

    Raises:
        ValueError: There is none, or one is malformed, repeated or the base model's.
    """
    variants = [parse_variant(name) for name in names]
    found = tuple(variant.name for variant in variants)
    if BASE in {variant.method for variant in variants}:
        raise ValueError(f"`{BASE}` is always part of the comparison; leave it out")
    if repeated := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} is named twice; name each method once")
    if not found:
        raise ValueError("name at least one method")
    return found


def variants_by_method(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The names of each method that has several variants: at equal seeds they share starting weights and data order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(parse_variant(name).method, []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def in_words(change: str) -> str:
    """A change as tables show it: reward weights in words, everything else as written."""
    key, _, value = change.partition("=")
    weights = toml_value(value) if key.strip() == "reward.weights" else None
    if not isinstance(weights, dict) or not weights:
        return change
    return "rewards " + " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items())


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested tables; ``top`` takes precedence, and its table ``weights`` replaces that of ``base`` as a whole."""
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "weights":
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a nested table.

    Raises:
        UserError: A part of the key before the last is not a table.
    """
    *path, last = key.split(".")
    node = document
    for part in path:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"`{key}`: `{part}` is a value, not a table")
        node = child
    node[last] = value


def toml_value(text: str) -> Any:
    """Parse a TOML value; text that is not TOML stands for itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def get(document: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key of a nested table; None without one."""
    node: Any = document
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
