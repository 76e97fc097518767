"""What each comparison says, in one sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from harness.config.study import BASE
from reports.collect import CellResult
from reports.results import Results, missing_seeds
from reports.statistics import COSTS, SEEDS_FOR_METHODS, Contrast, level, overall, repeat_notes, training_costs
from reports.tables.pairs import p_text
from reports.text import listed

Kind = Literal["better", "equivalent", "undecided", "untested"]

UNPARSABLE_NOTED = 5.0
"""Percentage of a run's answers that the scorer could not parse, at and above which a report says so."""

UNDECIDED = (
    "Undecided does not mean “no difference”: a true difference below the one with 80% power would go undetected more "
    "than 20% of the time."
)


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
        notes: What a reader must know to judge it and what is about this pair alone, one sentence each.
        margin: Points within which two methods are equivalent.
    """

    a: str
    b: str
    kind: Kind
    winner: str
    loser: str
    sentence: str
    notes: tuple[str, ...]
    margin: float


def verdicts(results: Results, contrasts: Sequence[Contrast]) -> list[Verdict]:
    """The verdict of every pair on the overall score: between methods first, then against the base model."""
    labels, costs, found = results.short_labels, training_costs(results.cells), []
    for c in sorted(overall(contrasts), key=lambda c: c.a == BASE):
        words = _Words(c, labels[c.a], labels[c.b], level(results.report.alpha))
        notes = (*words.notes(), *_cost(costs, c.a, c.b, labels))
        winner, loser = {"better": (c.b, c.a), "worse": (c.a, c.b)}.get(c.verdict, ("", ""))
        found.append(Verdict(c.a, c.b, words.kind, winner, loser, words.sentence(), notes, c.margin))
    return found


def common(results: Results, contrasts: Sequence[Contrast]) -> tuple[str, ...]:
    """What a reader must know to judge the verdicts and what is not about one pair alone; a sentence each."""
    found, labels = overall(contrasts), results.short_labels
    compared = [method for method in results.labels if any(method in (c.a, c.b) for c in found)]
    undecided = any(c.verdict == "undecided" and c.standard_error > 0 for c in found)
    return (
        *_claim(found, labels),
        *([UNDECIDED] if undecided else []),
        *repeat_notes(results.answers, {method: labels[method] for method in compared}),
        *(note for method in compared for note in _unfinished(results.cells, method, labels[method])),
        *(note for method in compared for note in _missed(results.cells, method, labels[method])),
        *_unparsable(results.answers, {method: labels[method] for method in compared}),
    )


def said_once(found: Sequence[Verdict]) -> tuple[list[Verdict], tuple[str, ...]]:
    """The verdicts without the notes that all of several have, and those notes."""
    if len(found) < 2:
        return list(found), ()
    alike = [note for note in found[0].notes if all(note in verdict.notes for verdict in found)]
    return [replace(v, notes=tuple(note for note in v.notes if note not in alike)) for v in found], tuple(alike)


def tally(found: Sequence[Verdict]) -> str:
    """How many pairs were decided which way, in one sentence; empty for a single pair."""
    if len(found) < 2:
        return ""
    kinds = Counter(verdict.kind for verdict in found)
    words: dict[Kind, str] = {
        "better": "decided",
        "equivalent": f"equivalent within {points(found[0].margin, 'g')}",
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

    def sentence(self) -> str:
        """The verdict. A name that begins it keeps its case."""
        match self.kind:
            case "better":
                return self._better()
            case "untested":
                reason = self.c.note.removeprefix("no test: ") or "its uncertainty cannot be estimated"
                return (
                    f"The difference between {self._both('the')} could not be tested ({reason}): {self._difference()}."
                )
            case "equivalent" if self.identical:
                return (
                    f"{self._both('The')} are equivalent: their scores are exactly the same in every {self.c.cluster}."
                )
            case "equivalent":
                return f"{self._both('The')} are equivalent within {points(self.c.margin, 'g')}: {self._measured()}."
            case "undecided" if self.identical:
                return f"{self._both('The')} have exactly the same score in every {self.c.cluster}."
            case "undecided":
                power = "" if math.isnan(self.c.mde) else f"80% power from {points(self.c.mde)}"
                where = " between the checkpoints" if self.checkpoints else ""
                return f"Undecided{where}: {self._measured(power)}."

    def notes(self) -> tuple[str, ...]:
        """The contrast's own note, and what would narrow the interval of an undecided one."""
        notes = self.c.note.split("; ") if self.c.note and self.kind != "untested" else []
        return (*(f"{note[0].upper()}{note[1:]}." for note in notes), *self._limit())

    def _limit(self) -> Iterator[str]:
        """Whether clusters or training runs make the error what it is."""
        clusters = self.c.share_of_rooms
        if self.kind != "undecided" or math.isnan(clusters):
            return
        word = self.c.cluster
        fixes = {
            "another seed narrows the interval, more questions hardly do": 0.0,
            f"another seed and questions about more {word}s both narrow the interval": 0.25,
            f"questions about more {word}s narrow the interval, another seed hardly does": 0.75,
        }
        fix = [words for words, least in fixes.items() if clusters >= least][-1]
        runs = 1 - clusters
        yield f"Of the squared error {clusters:.0%} comes from {word}s and {runs:.0%} from training runs: {fix}."

    def _better(self) -> str:
        c, winner, loser, low, high = self.c, self._b, self._a, self.c.ci_low, self.c.ci_high
        if c.verdict == "worse":
            winner, loser, low, high = loser, winner, -high, -low
        by, statistics = points(abs(c.difference)), self._statistics(low, high)
        if not self.checkpoints:
            return f"{winner('The')} is better than {loser('the')} by {by} ({statistics})."
        mean = " on average" if c.seeds_a > 1 or c.seeds_b > 1 else ""
        return f"{winner('The')} scored {by} higher than {loser('the')}{mean} ({statistics})."

    def _both(self, the: str) -> str:
        if self.checkpoints and self.c.a != BASE:
            return f"{the} {self.b} and {self.a} checkpoints"
        return f"{self._b(the)} and {self._a('the')}"

    def _a(self, the: str) -> str:
        return self._side(the, self.c.a, self.a, self.c.seeds_a)

    def _b(self, the: str) -> str:
        return self._side(the, self.c.b, self.b, self.c.seeds_b)

    def _side(self, the: str, method: str, name: str, seeds: int) -> str:
        if method == BASE or not self.checkpoints:
            return name
        return f"{the} {name} checkpoint{'' if seeds == 1 else 's'}"

    def _difference(self) -> str:
        return f"{self.b} minus {self.a} is {number(self.c.difference, '+')} points"

    def _measured(self, *more: str) -> str:
        return f"{self._difference()} ({self._statistics(self.c.ci_low, self.c.ci_high, *more)})"

    def _statistics(self, low: float, high: float, *more: str) -> str:
        p = p_text(self.c.p_holm)
        p = f"corrected p < {p[1:]}" if p.startswith("<") else f"corrected p = {p}"
        return ", ".join([f"{self.level} CI {number(low)} to {number(high)}", p, *filter(None, more)])


def _claim(found: Sequence[Contrast], labels: Mapping[str, str]) -> Iterator[str]:
    """That checkpoints are compared, and why not methods."""
    checkpoints = [c for c in found if c.claim == "checkpoints"]
    if not checkpoints:
        return
    seeds = {method: n for c in checkpoints for method, n in ((c.b, c.seeds_b), (c.a, c.seeds_a))}
    few = {m: n for m, n in seeds.items() if n < SEEDS_FOR_METHODS and not (m == BASE and n == 1)}
    counts = sorted(set(few.values()))
    there = "is 1" if counts == [1] else f"are {listed([str(n) for n in counts])}"
    reason = f"because a claim about methods needs at least {SEEDS_FOR_METHODS} "
    reason += f"finished seeds per method, and there {there}" if few else "runs per method with different answers"
    where = (
        ""
        if not few or len(checkpoints) == len(found)
        else f", in the comparisons with {listed([labels[m] for m in few])}"
    )
    yield (
        f"Checkpoints are compared, not methods{where}, {reason}; how much a method's score varies between training "
        "runs is not part of the uncertainty."
    )


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


def _unparsable(answers: pd.DataFrame, labels: Mapping[str, str]) -> Iterator[str]:
    """How many answers of which runs the scorer could not parse, where that is many."""
    found = []
    for method, runs in answers.groupby("method", sort=False):
        shares = 100 * (1 - runs.groupby("seed")["parsed"].mean())
        many = [
            f"{share:.0f}%{f' (seed {seed})' if len(shares) > 1 else ''}"
            for seed, share in shares[shares >= UNPARSABLE_NOTED].items()
        ]
        if many and method in labels:
            found.append(f"{listed(many)} of the answers of {labels[str(method)]}")
    if found:
        yield f"The scorer could not parse {'; '.join(found)}. The table by scorer shows how other rules score them."


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
    """A ratio to two digits: ``1.9``, ``17``, ``0.53``."""
    return f"{ratio:.1f}" if 0.995 <= ratio < 9.95 else f"{float(f'{ratio:.2g}'):g}"


def points(value: float, form: str = ".1f") -> str:
    """A number of points in words."""
    shown = f"{value:{form}}"
    return f"{shown} point{'' if float(shown) == 1 else 's'}"
