"""What the tables say below themselves: what was tested, how, on what, and what a mark means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.config.study import BASE
from reports.statistics.contrast import OVERALL, SEEDS_FOR_METHODS
from reports.tables.table import MISSING

HEADS = {
    "object_counting": "Obj.\nCount",
    "object_abs_distance": "Abs.\nDist.",
    "object_size_estimation": "Obj.\nSize",
    "room_size_estimation": "Room\nSize",
    "object_rel_distance": "Rel.\nDist.",
    "object_rel_direction": "Rel.\nDir.",
    "route_planning": "Route\nPlan",
    "obj_appearance_order": "Appr.\nOrder",
}
"""Short heads of the eight tasks; a line break may be kept or dropped."""

MARKS = {"methods": "*", "checkpoints": "†"}
"""After a confirmatory difference, by what was compared."""

TASK_MARK = "‡"
"""After an exploratory difference."""

EQUIVALENT_MARK = "="
"""After a difference within the margin, of either family."""


def mark_of(c: dict[str, Any]) -> str:
    """The sign after a contrast's difference."""
    if c["verdict"] == "equivalent":
        return EQUIVALENT_MARK
    if c["verdict"] == "undecided":
        return ""
    return MARKS[c["claim"]] if c["task"] == OVERALL else TASK_MARK


def test_caption(found: Sequence[dict[str, Any]], alpha: float, pairs: int | None = None) -> str:
    """What was tested, how, on what: test, clusters, correction, questions, rooms and seeds.

    Args:
        found: The contrasts shown.
        alpha: Their level.
        pairs: Size of their family, where not all of it is shown.
    """
    if not found:
        return ""
    claims = {c["claim"] for c in found}
    error = "standard errors clustered by room"
    if "methods" in claims:
        error += " plus the variance between training runs (Welch-Satterthwaite degrees of freedom)"
    if len(claims) > 1:
        error += f", the latter only where each method has at least {SEEDS_FOR_METHODS} seeds"
    seeds = [c[side] for c in found for side in ("seeds_a", "seeds_b") if c[side[-1]] != BASE]
    parts = [
        f"Differences: paired over the same questions, least squares on the question types, {error}, two-sided t-test;",
        f"p corrected by Holm over {count(pairs or len(found), 'declared pair')};",
        f"{_range([c['n_questions'] for c in found], 'question')} in",
        f"{_range([c['n_rooms'] for c in found], 'room')} (clusters), {_range(seeds, 'seed')} a method.",
    ]
    marks = [f"{MARKS[claim]} p < {alpha:g}, {claim} compared" for claim in MARKS if claim in claims]
    if any(c["verdict"] == "equivalent" for c in found):
        marks.append(equivalence_caption(found))
    return " ".join(parts) + " " + "; ".join(marks) + "."


def equivalence_caption(found: Sequence[dict[str, Any]]) -> str:
    """What the mark of equivalence says."""
    margin = found[0]["margin"]
    return f"{EQUIVALENT_MARK} equivalent within {margin:g} (two one-sided tests against the declared margin)"


def claim_footnotes(found: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """What fewer than three seeds leave unknown."""
    if all(c["claim"] == "methods" for c in found):
        return ()
    return (
        f"Comparisons with fewer than {SEEDS_FOR_METHODS} seeds a method are between the trained checkpoints, not the "
        "methods: how much such a result would change in another training run is unknown and not part of its error.",
    )


def records(contrasts: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame of contrasts."""
    return [{str(k): v for k, v in c.items()} for c in contrasts.to_dict(orient="records")]


def overall(contrasts: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The confirmatory rows.

    Raises:
        ValueError: The contrasts are of several models.
    """
    if contrasts is None:
        return []
    if contrasts["model"].nunique() > 1:
        raise ValueError(f"contrasts of several models in one table: {sorted(contrasts['model'].unique())}")
    return [c for c in records(contrasts) if c["task"] == OVERALL]


def labels_of(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What to call methods that have no label: their names, short ones in capitals."""
    return {name: _display(name) for c in found for name in (c["a"], c["b"])}


def p_text(p: float) -> str:
    """A p-value in a table's cell."""
    return MISSING if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def count(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _display(name: str) -> str:
    return name.upper() if name != BASE and name.isalpha() and len(name) <= 5 else name


def _range(numbers: Sequence[int], noun: str) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return count(high, noun) if low == high else f"{low:,} to {count(high, noun)}"
