"""What the settings of a study come to for each of its methods."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from rich.table import Table

from harness.config.study import StudyConfig
from harness.config.variants import SECTIONS, get
from harness.console import Console

_SAMPLING = ("rollout.temperature", "rollout.max_new_tokens", "rollout.batch", "reward.")
"""Settings that only matter where completions are sampled in training."""


def effective_settings(study: StudyConfig, keys: Collection[str]) -> dict[str, str]:
    """The values of these keys of a study, and of the shared settings in which its methods differ.

    Args:
        study: The study.
        keys: What the user sets: ``train.learning_rate``, ``method.grpo.beta``, ``budget.amount``.

    Returns:
        By key, the value; where methods differ, each value with its methods.
    """
    views = {method: study.for_method(method).model_dump(mode="json") for method in study.methods}
    shared = {f"{name}.{key}": None for view in views.values() for name in SECTIONS for key in view[name]}
    set_ = {".".join(key.split(".")[2 if key.startswith("method.") else 0 :][:2]) for key in keys}
    samples = any(study.algorithm(method).needs.rollouts for method in study.methods)
    found = {}
    for key in shared:
        values = {method: get(view, key) for method, view in views.items()}
        if key in set_ or len(set(map(_text, values.values()))) > 1:
            unused = key.startswith(_SAMPLING) and not samples
            found[key] = _by_value(values) + " (no method here samples completions)" * unused
    whole = study.model_dump(mode="json")
    for key in keys:
        section, *rest = key.split(".")
        if section == "method" and len(rest) == 2:
            own = {m: study.algorithm(m).config.model_dump(mode="json") for m in study.methods}
            values = {m: own[m][rest[1]] for m in study.methods if rest[0] in study.tables_of(m) and rest[1] in own[m]}
            found[".".join(rest)] = _by_value(values)
        elif section not in SECTIONS and section not in ("method", "name", "methods"):
            found[key] = _text(get(whole, key))
    return found


def print_settings(study: StudyConfig, keys: Collection[str], console: Console) -> None:
    """Print :func:`effective_settings` as a table: what the user set, and what differs by method."""
    table = Table("Setting", "Value", title="Settings", title_justify="left", box=None)
    table.columns[1].overflow = "fold"
    for key, value in effective_settings(study, keys).items():
        table.add_row(key, value)
    if table.rows:
        console.print(table)


def _by_value(values: dict[str, Any]) -> str:
    """One value, or each with the methods that have it."""
    methods: dict[str, list[str]] = {}
    for method, value in values.items():
        methods.setdefault(_text(value), []).append(method)
    if len(methods) == 1:
        return next(iter(methods))
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in methods.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
