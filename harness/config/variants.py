"""Variants of a method in one study: ``grpo:beta=0`` beside ``grpo``, ``grpo:think`` beside both.

A variant is a method's name and what it changes, each after a colon::

    grpo:beta=0                      a hyper-parameter of the method
    grpo:beta=0:group_size=4         several
    grpo:train.learning_rate=1e-6    a shared setting of one of the SECTIONS
    grpo:think                       trained and evaluated in that prompt mode (Table 2 of arXiv 2504.00883)
    grpo:prompt.train=think          trained in it, evaluated as the study says
    grpo:reward.weights={mra=1.0}    other rewards; the whole table of weights, in TOML

Everything else, seeds and budget included, a variant shares with the other methods of the study.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.vsibench.prompts import TRAINING_MODES

SECTIONS: Mapping[str, tuple[str, ...] | None] = {
    "train": None,
    "prompt": None,
    "rollout": None,
    "reward": None,
    "evaluation": ("max_new_tokens", "two_turns"),
}
"""Shared sections of a study that a method or a variant may change for itself; None stands for all their keys."""


@dataclass(frozen=True)
class Variant:
    """One entry of a study's methods.

    Attributes:
        name: As written, without spaces: what tables, cells and ``report.pairs`` call it.
        method: The registered method.
        changes: What follows each colon.
        settings: The changes as a nested table, as ``[method.NAME]`` holds them.
    """

    name: str
    method: str
    changes: tuple[str, ...]
    settings: Mapping[str, Any]


def parse_variant(text: str) -> Variant:
    """Read ``METHOD[:KEY=VALUE | :MODE]...``; values are TOML, else text.

    Raises:
        ValueError: It is not of that form.
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
                f"`{text}`: after a colon write key=value or a prompt mode ({', '.join(TRAINING_MODES)}), for example "
                "grpo:beta=0:group_size=4 or grpo:think"
            )
        for name, setting in found.items():
            if _get(settings, name) is not None:
                raise ValueError(f"`{text}`: {name} is set twice")
            put(settings, name, setting)
    if not method:
        raise ValueError(f"`{text}`: a method's name comes first, for example grpo:beta=0")
    return Variant(":".join([method, *changes]), method, tuple(changes), settings)


def in_words(change: str) -> str:
    """A change as tables show it: other rewards by their names, everything else as it was written."""
    key, _, value = change.partition("=")
    weights = toml_value(value) if key.strip() == "reward.weights" else None
    if not isinstance(weights, dict) or not weights:
        return change
    return "rewards " + " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in weights.items())


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, ``top`` winning; the table ``weights`` is replaced whole."""
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "weights":
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def put(document: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a nested table.

    Raises:
        UserError: Its way leads through something that is no table.
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
    """A TOML value; text that is none stands for itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _get(document: Mapping[str, Any], key: str) -> Any:
    node: Any = document
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
