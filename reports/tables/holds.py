"""What the verdicts on the headline are worth elsewhere: on other benchmarks, on corrected labels.

Each other benchmark tests the same pairs by the same rules, in a family of its own. An undecided test there is no sign
that a verdict fails to hold: there may be few questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.config.study import BASE
from reports.results import Results
from reports.statistics import Contrast, compare, level, overall, verdict_words
from reports.tables.pairs import COMPARISON, difference_text
from reports.tables.table import MISSING, Cell, Column, Row, Table
from reports.text import listed, sentences

Outcome = Literal["holds", "reversed", "differs", "equivalent", "not shown", ""]

_WORDS: dict[Outcome, str] = {
    "holds": "holds",
    "reversed": "is reversed",
    "differs": "does not hold: there is a difference",
    "equivalent": "does not hold: they are equivalent there",
    "not shown": "is not shown",
}


@dataclass(frozen=True)
class Holds:
    """The verdicts on the headline beside those elsewhere.

    Attributes:
        table: A row for each pair, a column for each place.
        sentences: One for each pair that the headline decided.
    """

    table: Table
    sentences: tuple[str, ...]


def holds_on(results: Results, found: Sequence[Contrast], others: Mapping[str, Results]) -> Holds | None:
    """Whether each verdict on the headline holds on other benchmarks; None without any or without pairs.

    Args:
        results: The headline's.
        found: Its contrasts.
        others: Those of other benchmarks, by name.
    """
    decided = sorted(overall(found), key=lambda c: c.a == BASE)
    places = {name: _contrasts(other) for name, other in others.items()}
    if not decided or not any(places.values()):
        return None
    labels, alpha = results.short_labels, results.report.alpha
    columns = [
        COMPARISON,
        Column(f"{results.title}\nverdict", ("verdict",), align="left"),
        *(Column(_head(others[name]), (name, f"{name}_low", f"{name}_high", f"{name}_holds")) for name in places),
    ]
    rows: list[Row] = []
    said: list[str] = []
    for c in decided:
        there = {name: place.get((c.a, c.b)) for name, place in places.items()}
        cells = [_cell(c, one) for one in there.values()]
        pair = Cell((c.b, c.a), f"{labels[c.b]} − {labels[c.a]}")
        group = "Against the base model" if c.a == BASE else "Between methods"
        rows.append(Row((pair, Cell((c.verdict,), verdict_words(c, labels)), *cells), group))
        said += _sentence(c, there, others, labels)
    caption = sentences(
        f"Differences are B minus A in points, with {level(alpha)} intervals.",
        "Each benchmark tests the same pairs as the headline does, Holm-corrected over its own pairs.",
        "“holds”: the same verdict; “reversed”: the other side is better; “not shown”: undecided there, which is no "
        "evidence against the verdict.",
        _about_labels(others),
    )
    return Holds(Table("Whether the verdicts hold elsewhere", tuple(columns), tuple(rows), caption), tuple(said))


def outcome(here: Contrast, there: Contrast) -> Outcome:
    """What another benchmark says of a verdict; nothing of one that is undecided."""
    if here.verdict == "undecided" or math.isnan(here.p):
        return ""
    if there.verdict == here.verdict:
        return "holds"
    if there.verdict == "undecided" or math.isnan(there.p):
        return "not shown"
    if there.verdict == "equivalent":
        return "equivalent"
    return "differs" if here.verdict == "equivalent" else "reversed"


def _contrasts(results: Results) -> dict[tuple[str, str], Contrast]:
    """A benchmark's overall contrasts of the study's pairs."""
    found = compare(
        results.answers,
        results.pairs,
        benchmark=results.benchmark,
        alpha=results.report.alpha,
        margin=results.margin,
        variants=results.variants,
        resamples=0,
    )
    return {(c.a, c.b): c for c in overall(found)}


def _head(other: Results) -> str:
    return f"{other.title}\n(corrected labels)" if other.benchmark.corrects else other.title


def _cell(here: Contrast, there: Contrast | None) -> Cell:
    if there is None:
        return Cell((None,) * 4, MISSING)
    found = outcome(here, there)
    text = difference_text(there) + (f" {found}" if found else "")
    return Cell((there.difference, there.ci_low, there.ci_high, found or None), text)


def _sentence(
    here: Contrast,
    there: Mapping[str, Contrast | None],
    others: Mapping[str, Results],
    labels: Mapping[str, str],
) -> Iterator[str]:
    """What other places say of a decided pair, in one sentence."""
    told: dict[Outcome, list[str]] = {}
    for name, one in there.items():
        if one is not None and (found := outcome(here, one)):
            place = others[name].title + (" (corrected labels)" if others[name].benchmark.corrects else "")
            told.setdefault(found, []).append(f"{place} ({difference_text(one)})")
    if told:
        parts = [f"{words} on {listed(told[found])}" for found, words in _WORDS.items() if found in told]
        yield f"That {_verdict(here, labels)} {listed(parts)}."


def _verdict(c: Contrast, labels: Mapping[str, str]) -> str:
    if c.verdict == "equivalent":
        return f"{labels[c.b]} and {labels[c.a]} are equivalent"
    winner, loser = (c.b, c.a) if c.verdict == "better" else (c.a, c.b)
    return f"{labels[winner]} is better than {labels[loser]}"


def _about_labels(others: Mapping[str, Results]) -> str:
    corrected = [one.title for one in others.values() if one.benchmark.corrects]
    return f"{listed(corrected)} asks such questions with corrected labels." if corrected else ""
