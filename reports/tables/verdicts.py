"""What each comparison says, in one sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from harness.config.study import BASE
from reports.collect import CellResult
from reports.results import Results, missing_seeds
from reports.statistics import COSTS, SEEDS_FOR_METHODS, Contrast, level, overall, training_costs
from reports.tables.pairs import p_text
from reports.text import listed

Kind = Literal["better", "equivalent", "undecided", "untested"]

UNPARSABLE_NOTED = 5.0
"""Percentage of a run's answers that the scorer could not parse, at and above which a verdict on it says so."""


@dataclass(frozen=True)
class Verdict:
    """One pair's verdict in words; plain text, not yet escaped.

    Attributes:
        a: The method subtracted.
        b: The method it is subtracted from.
        kind: ``better`` when either of them is.
        winner: The better one, else empty.
        loser: The other one, else empty.
        sentence: The verdict in one sentence.
        notes: What a reader must know to judge it, one sentence each.
    """

    a: str
    b: str
    kind: Kind
    winner: str
    loser: str
    sentence: str
    notes: tuple[str, ...]


def verdicts(results: Results, contrasts: Sequence[Contrast]) -> list[Verdict]:
    """The verdict of every pair on the overall score: between methods first, then against the base model."""
    cells, labels = results.cells, results.short_labels
    unparsable, costs = _unparsable_notes(results.answers, labels), training_costs(cells)
    found = []
    for c in sorted(overall(contrasts), key=lambda c: c.a == BASE):
        words = _Words(c, labels[c.a], labels[c.b], level(results.report.alpha))
        unfinished = [note for method in (c.b, c.a) for note in _unfinished(cells, method, labels[method])]
        notes = [*words.claim(), *unfinished, *words.remarks()]
        notes += [unparsable[method] for method in (c.b, c.a) if method in unparsable]
        notes += _cost(costs, c.a, c.b, labels)
        notes += [note for method in (c.b, c.a) for note in _missed(cells, method, labels[method])]
        winner, loser = {"better": (c.b, c.a), "worse": (c.a, c.b)}.get(c.verdict, ("", ""))
        sentence = words.sentence()
        found.append(Verdict(c.a, c.b, words.kind, winner, loser, sentence[0].upper() + sentence[1:], tuple(notes)))
    return found


def tally(found: Sequence[Verdict]) -> str:
    """How many pairs were decided which way, in one sentence; empty for a single pair."""
    if len(found) < 2:
        return ""
    kinds = Counter(verdict.kind for verdict in found)
    words: dict[Kind, str] = {
        "better": "decided",
        "equivalent": "equivalent",
        "undecided": "undecided",
        "untested": "not tested",
    }
    return f"{len(found)} pairs: {', '.join(f'{kinds[kind]} {word}' for kind, word in words.items() if kinds[kind])}."


@dataclass(frozen=True)
class _Words:
    """The sentences on a contrast, given the names of its sides and the level of its interval."""

    c: Contrast
    a: str
    b: str
    level: str

    @property
    def kind(self) -> Kind:
        if math.isnan(self.c.p):
            return "untested"
        return "better" if self.c.verdict == "worse" else self.c.verdict

    @property
    def identical(self) -> bool:
        return self.c.difference == 0 and self.c.standard_error == 0

    @property
    def checkpoints(self) -> bool:
        return self.c.claim == "checkpoints"

    @property
    def both(self) -> str:
        if self.checkpoints and self.c.a != BASE:
            return f"the {self.b} and {self.a} checkpoints"
        return " and ".join(self._sides())

    def sentence(self) -> str:
        """The verdict; the first letter may be small."""
        match self.kind:
            case "better":
                return self._better()
            case "untested":
                reason = self.c.note.removeprefix("no test: ") or "its uncertainty cannot be estimated"
                return f"The difference between {self.both} could not be tested ({reason}): {self._difference()}."
            case "equivalent" if self.identical:
                return f"{self.both} are equivalent: their scores are exactly the same in every {self.c.cluster}."
            case "equivalent":
                return f"{self.both} are equivalent within {points(self.c.margin, 'g')}: {self._measured()}."
            case "undecided" if self.identical:
                return f"{self.both} have exactly the same score in every {self.c.cluster}."
            case "undecided":
                return f"Undecided between {self.both}: {self._measured()}."

    def claim(self) -> list[str]:
        """That checkpoints are compared, and why not methods."""
        if not self.checkpoints:
            return []
        counts = [n for method, n in ((self.c.b, self.c.seeds_b), (self.c.a, self.c.seeds_a)) if method != BASE]
        there = f"is {counts[0]}" if set(counts) == {1} else f"are {listed([str(n) for n in dict.fromkeys(counts)])}"
        return [
            f"This compares checkpoints, not methods: a claim about methods needs at least {SEEDS_FOR_METHODS} "
            f"finished seeds per method, and there {there}."
        ]

    def remarks(self) -> list[str]:
        """Power, the contrast's own note, and in how many pairs of runs one method was ahead."""
        c, found = self.c, []
        if self.kind == "undecided" and not self.identical and not math.isnan(c.mde):
            found.append(
                f"Undecided does not mean “no difference”: a true difference below {points(c.mde)} would go undetected "
                "more than 20% of the time."
            )
        if c.note and self.kind != "untested":
            found.append(f"{c.note[0].upper()}{c.note[1:]}.")
        if c.p_b_beats_a == 0.5:
            found.append(f"{self.b} and {self.a} each scored higher in half of the {c.run_pairs} pairs of runs.")
        elif not math.isnan(c.p_b_beats_a):
            ahead, behind = (self.b, self.a) if c.p_b_beats_a > 0.5 else (self.a, self.b)
            share = max(c.p_b_beats_a, 1 - c.p_b_beats_a)
            found.append(
                f"{ahead} scored higher than {behind} in {100 * share:.0f}% of the {c.run_pairs} pairs of runs."
            )
        return found

    def _better(self) -> str:
        c = self.c
        (first, second), low, high = self._sides(), c.ci_low, c.ci_high
        if c.verdict == "worse":
            first, second, low, high = second, first, -high, -low
        by, statistics = points(abs(c.difference)), self._statistics(low, high)
        if not self.checkpoints:
            return f"{first} is better than {second} by {by} ({statistics})."
        mean = " on average" if c.seeds_a > 1 or c.seeds_b > 1 else ""
        return f"{first} scored {by} higher than {second}{mean} ({statistics})."

    def _sides(self) -> tuple[str, str]:
        return self._side(self.c.b, self.b, self.c.seeds_b), self._side(self.c.a, self.a, self.c.seeds_a)

    def _side(self, method: str, name: str, seeds: int) -> str:
        if method == BASE or not self.checkpoints:
            return name
        return f"the {name} checkpoint{'' if seeds == 1 else 's'}"

    def _difference(self) -> str:
        return f"{self.b} minus {self.a} is {number(self.c.difference, '+')} points"

    def _measured(self) -> str:
        return f"{self._difference()} ({self._statistics(self.c.ci_low, self.c.ci_high)})"

    def _statistics(self, low: float, high: float) -> str:
        p = p_text(self.c.p_holm)
        p = f"p < {p[1:]}" if p.startswith("<") else f"p = {p}"
        return f"{self.level} CI {number(low)} to {number(high)}, corrected {p}"


def _cost(costs: Mapping[str, Mapping[str, float]], a: str, b: str, labels: Mapping[str, str]) -> list[str]:
    """What the method that took more device seconds used per run, as multiples of the other."""
    if not {a, b} <= costs.keys():
        return []
    less, more = sorted((a, b), key=lambda method: costs[method]["seconds"])
    known = {key: words for key, words in COSTS.items() if costs[less][key] > 0}
    parts = [f"{times(costs[more][key] / costs[less][key])} times the {words}" for key, words in known.items()]
    return [f"Per training run, {labels[more]} used {listed(parts)} of {labels[less]}."] if parts else []


def _unfinished(cells: Sequence[CellResult], method: str, label: str) -> list[str]:
    states = [cell.state for cell in cells if cell.method == method]
    if set(states) <= {"done"}:
        return []
    done = f"Only {states.count('done')} of {len(states)} {label} seeds finished"
    return [f"{done} ({missing_seeds(cells, method)})."]


def _unparsable_notes(answers: pd.DataFrame, labels: Mapping[str, str]) -> dict[str, str]:
    """By method, how many answers of which runs the scorer could not parse, where that is many."""
    found = {}
    for method, runs in answers.groupby("method", sort=False):
        shares = 100 * (1 - runs.groupby("seed")["parsed"].mean())
        many = [
            f"{share:.0f}%{f' (seed {seed})' if len(shares) > 1 else ''}"
            for seed, share in shares[shares >= UNPARSABLE_NOTED].items()
        ]
        if many:
            found[str(method)] = (
                f"The scorer could not parse {listed(many)} of the {labels[str(method)]} answers; the table by scorer "
                "shows how other rules score them."
            )
    return found


def _missed(cells: Sequence[CellResult], method: str, label: str) -> list[str]:
    """In which of a method's runs the scorer came to miss answers while it trained."""
    runs = [(one.seed, one.misses) for one in cells if one.method == method and one.misses]
    grown = [
        f"seed {seed}: {found.first:.0%} at first, {found.last:.0%} at the end" for seed, found in runs if found.grew
    ]
    if not grown:
        return []
    return [
        f"In {len(grown)} of {len(runs)} {label} runs training moved away from answers that the scorer reads (share of "
        f"sampled answers that only tolerant reading finds; {'; '.join(grown)})."
    ]


def number(value: float, sign: str = "") -> str:
    """A number with one decimal and a true minus sign; with ``sign`` "+", positive numbers are signed too."""
    return f"{value:{sign}z.1f}".replace("-", "\N{MINUS SIGN}")


def times(ratio: float) -> str:
    """A ratio to two significant digits: ``1.9``, ``17``, ``0.53``."""
    return f"{float(f'{ratio:.2g}'):g}"


def points(value: float, form: str = ".1f") -> str:
    """A number of points in words."""
    shown = f"{value:{form}}"
    return f"{shown} point{'' if float(shown) == 1 else 's'}"
