"""What each comparison says, in one sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from harness.config.study import BASE
from reports.collect import CellResult
from reports.statistics.contrast import OVERALL, SEEDS_FOR_METHODS, level

Kind = Literal["better", "equivalent", "undecided", "untested"]
Finding = Mapping[str, Any]

UNPARSABLE_NOTED = 5.0
"""Percent of a run's answers that the scorer could not read, from which on a verdict on it says so."""


@dataclass(frozen=True)
class Verdict:
    """One pair's verdict in words; all of it is plain text that still has to be escaped.

    Attributes:
        a: The method subtracted.
        b: The method it is subtracted from.
        kind: ``better`` when one of them is, whichever.
        winner: The better one, else empty.
        loser: The other one, else empty.
        sentence: The verdict in one sentence.
        notes: What a reader must know beside it, one sentence each.
    """

    a: str
    b: str
    kind: Kind
    winner: str
    loser: str
    sentence: str
    notes: tuple[str, ...]


def verdicts(
    contrasts: pd.DataFrame,
    cells: Iterable[CellResult],
    labels: Mapping[str, str],
    *,
    alpha: float = 0.05,
    answers: pd.DataFrame | None = None,
) -> list[Verdict]:
    """The verdict of every pair on the overall score: methods with each other first, then each with the base model.

    Args:
        contrasts: What :func:`reports.statistics.paired.compare_all` returned.
        cells: The study's cells, for seeds that are missing.
        labels: What to call the methods.
        alpha: The level that the contrasts were judged at.
        answers: What was compared (method, seed, parsed), for runs that the scorer could not read.
    """
    rows = contrasts[contrasts["task"] == OVERALL].assign(level=level(alpha)).to_dict(orient="records")
    found = sorted(rows, key=lambda c: bool(c["a"] == BASE))
    listed = list(cells)
    unparsable = _unparsable_shares(answers)
    return [_verdict({str(key): value for key, value in c.items()}, listed, labels, unparsable) for c in found]


def tally(found: Sequence[Verdict]) -> str:
    """How many pairs were decided which way, in one sentence; empty for a single pair."""
    if len(found) < 2:
        return ""
    kinds = Counter(verdict.kind for verdict in found)
    words: dict[Kind, str] = {"better": "decided", "untested": "not tested"}
    order: tuple[Kind, ...] = ("better", "equivalent", "undecided", "untested")
    parts = [f"{kinds[kind]} {words.get(kind, kind)}" for kind in order if kinds[kind]]
    return f"{len(found)} pairs: {', '.join(parts)}."


def _verdict(
    c: Finding, cells: list[CellResult], labels: Mapping[str, str], unparsable: Mapping[str, Sequence[str]]
) -> Verdict:
    names = {side: labels.get(c[side], c[side]) for side in ("a", "b")}
    kind: Kind = "untested" if math.isnan(c["p"]) else "better" if c["verdict"] in ("better", "worse") else c["verdict"]
    ahead = "b" if c["verdict"] == "better" else "a"
    winner, loser = (c[ahead], c["a" if ahead == "b" else "b"]) if kind == "better" else ("", "")
    sentence = {"better": _better, "equivalent": _equivalent, "undecided": _undecided, "untested": _untested}[kind]
    notes = [*_missing_seeds(c, cells, labels), *_resolution(c, kind), *_remark(c, kind), *_beats(c, names)]
    notes += [_unparsable_note(names[side], unparsable[c[side]]) for side in ("b", "a") if c[side] in unparsable]
    text = sentence(c, names)
    return Verdict(c["a"], c["b"], kind, winner, loser, text[0].upper() + text[1:], tuple(notes))


def _better(c: Finding, names: Mapping[str, str]) -> str:
    ahead, behind, sign = ("b", "a", 1) if c["verdict"] == "better" else ("a", "b", -1)
    low, high = sorted((sign * c["ci_low"], sign * c["ci_high"]))
    numbers = f"by {points(abs(c['difference']))} ({_statistics(c, low, high)})"
    if c["claim"] == "methods":
        return f"{names[ahead]} is better than {names[behind]} {numbers}."
    return f"{_checkpoint(c, ahead, names)} scores higher than {_checkpoint(c, behind, names)} {numbers}; {_claim(c)}."


def _equivalent(c: Finding, names: Mapping[str, str]) -> str:
    sides = _sides(c, names)
    if _identical(c):
        return f"{sides} are equivalent: the difference is exactly 0 in every room{_and_claim(c)}."
    margin = f"{c['margin']:g} point{'s' * (c['margin'] != 1)}"
    return f"{sides} are equivalent within {margin}: {_measured(c, names)}{_and_claim(c)}."


def _undecided(c: Finding, names: Mapping[str, str]) -> str:
    if _identical(c):
        return f"{_sides(c, names)} have the same score in every room: the difference is exactly 0{_and_claim(c)}."
    which = f"whether {names['b']} or {names['a']} is better"
    if c["claim"] == "checkpoints":
        which = f"which checkpoint is better, {names['b']} or {names['a']}"
    return f"It is undecided {which}: {_measured(c, names)}{_and_claim(c)}."


def _untested(c: Finding, names: Mapping[str, str]) -> str:
    reason = c["note"].removeprefix("no test: ") or "its uncertainty cannot be estimated"
    return f"{_sides(c, names)} could not be tested ({reason}): {_signed(c, names)}{_and_claim(c)}."


def _claim(c: Finding) -> str:
    return (
        "checkpoints are compared, not methods, because that needs "
        f"{SEEDS_FOR_METHODS} finished seeds a method and there {_seeds(c)}"
    )


def _and_claim(c: Finding) -> str:
    return f"; {_claim(c)}" if c["claim"] == "checkpoints" else ""


def _seeds(c: Finding) -> str:
    counts = [int(c[f"seeds_{side}"]) for side in ("b", "a") if c[side] != BASE]
    if len(set(counts)) == 1:
        return "is 1" if counts[0] == 1 else f"are {counts[0]}"
    return f"are {' and '.join(str(count) for count in counts)}"


def _checkpoint(c: Finding, side: str, names: Mapping[str, str]) -> str:
    if c[side] == BASE:
        return str(names[side])
    return f"the {names[side]} checkpoint" if c[f"seeds_{side}"] == 1 else f"the mean of the {names[side]} checkpoints"


def _sides(c: Finding, names: Mapping[str, str]) -> str:
    if c["claim"] == "methods":
        return f"{names['b']} and {names['a']}"
    return f"the checkpoints of {names['b']} and {names['a']}"


def _signed(c: Finding, names: Mapping[str, str]) -> str:
    return f"the difference is {number(c['difference'], '+')} points, {names['b']} minus {names['a']}"


def _measured(c: Finding, names: Mapping[str, str]) -> str:
    return f"{_signed(c, names)} ({_statistics(c, c['ci_low'], c['ci_high'])})"


def _statistics(c: Finding, low: float, high: float) -> str:
    return f"{c['level']} interval {number(low)} to {number(high)}, corrected {p_text(c['p_holm'])}"


def _missing_seeds(c: Finding, cells: list[CellResult], labels: Mapping[str, str]) -> list[str]:
    notes = []
    for side in ("b", "a"):
        mine = [cell for cell in cells if cell.method == c[side]]
        missing = [cell for cell in mine if cell.state != "done"]
        if missing:
            why = "; ".join(f"seed {cell.seed} {cell.state}: {cell.reason or 'no reason given'}" for cell in missing)
            done = len(mine) - len(missing)
            notes.append(f"Only {done} of {len(mine)} seeds of {labels.get(c[side], c[side])} finished ({why}).")
    return notes


def _resolution(c: Finding, kind: Kind) -> list[str]:
    if kind != "undecided" or _identical(c):
        return []
    return [
        f"Undecided is not “no difference”: a true difference below {points(c['mde'])} would be missed more often than "
        "one time in five."
    ]


def _remark(c: Finding, kind: Kind) -> list[str]:
    """The contrast's own note, which also tells where a cross-check disagrees."""
    return [f"{c['note'][0].upper()}{c['note'][1:]}."] if c["note"] and kind != "untested" else []


def _beats(c: Finding, names: Mapping[str, str]) -> list[str]:
    if math.isnan(c["p_b_beats_a"]):
        return []
    share = c["p_b_beats_a"]
    ahead, behind = ("b", "a") if share >= 0.5 else ("a", "b")
    of = f"{100 * max(share, 1 - share):.0f}% of the {c['run_pairs']} pairs of runs"
    return [f"{names[ahead]} scored higher than {names[behind]} in {of}."]


def _unparsable_shares(answers: pd.DataFrame | None) -> dict[str, list[str]]:
    """By method, how much of which run the scorer could not read, where that is much."""
    if answers is None:
        return {}
    found: dict[str, list[str]] = {}
    for method, runs in answers.groupby("method", sort=False):
        shares = 100 * (1 - runs.groupby("seed")["parsed"].mean())
        for seed, share in shares[shares >= UNPARSABLE_NOTED].items():
            which = "" if len(shares) == 1 else f" (seed {seed})"
            found.setdefault(str(method), []).append(f"{share:.0f}%{which}")
    return found


def _unparsable_note(name: str, shares: Sequence[str]) -> str:
    return (
        f"The scorer could not read {' and '.join(shares)} of the answers of {name}; "
        "the table by scorer has what other rules make of them."
    )


def _identical(c: Finding) -> bool:
    return bool(c["difference"] == 0 and c["standard_error"] == 0)


def number(value: float, sign: str = "") -> str:
    """A number with one decimal and a real minus sign; ``sign`` "+" marks positive ones too."""
    return f"{value:{sign}z.1f}".replace("-", "\N{MINUS SIGN}")


def points(value: float) -> str:
    """A number of points in words, one decimal."""
    return f"{value:.1f} point{'' if f'{value:.1f}' == '1.0' else 's'}"


def p_text(p: float) -> str:
    """A p-value as people print it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
