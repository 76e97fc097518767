"""Runs, not only means: every run's score, how many collapsed, and the differences without those."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.config.study import BASE
from reports.results import Results, compare_results
from reports.statistics import SEEDS_FOR_METHODS, Collapses, Contrast, collapses, level, overall
from reports.tables.pairs import COMPARISON, UNCORRECTED, difference_text
from reports.tables.table import Cell, Column, Row, Table
from reports.text import count, listed, sentences


@dataclass(frozen=True)
class Runs:
    """Every run of a study, in points.

    Attributes:
        scores: Overall score by method and seed, the base model included.
        base: The base model's; None without it, and then no run has collapsed by definition.
        below: ``report.collapse``.
        collapsed: By trained method; empty without a base model.
        without: Differences of the pairs with collapsed runs, those left out; described and not tested.
        tables: See :func:`runs_tables`.
    """

    scores: Mapping[str, Mapping[int, float]]
    base: float | None
    below: float
    collapsed: Mapping[str, Collapses]
    without: Sequence[Contrast]
    tables: Sequence[Table] = ()


def runs_of(results: Results) -> Runs:
    """Every run of the results."""
    scores: dict[str, dict[int, float]] = {method: {} for method in results.present}
    for (method, seed), points in results.points.items():
        scores[method][seed] = points[results.scorer].figures.overall
    base = statistics.fmean(scores[BASE].values()) if BASE in scores else None
    report, found = results.report, dict[str, Collapses]()
    if base is not None:
        trained = {method: runs for method, runs in scores.items() if method != BASE}
        found = {m: collapses(runs, base, report.collapse, report.alpha) for m, runs in trained.items()}
    return Runs(scores, base, report.collapse, found, _without(results, found))


def _without(results: Results, found: Mapping[str, Collapses]) -> list[Contrast]:
    """The pairs' differences without collapsed runs, where both methods have other runs."""
    gone = {(method, seed) for method, one in found.items() for seed in one.seeds}
    if not gone:
        return []
    runs = zip(results.answers["method"], results.answers["seed"], strict=True)
    kept = results.answers[[run not in gone for run in runs]]
    left = set(kept["method"].unique())
    concerned = {method for method, _ in gone}
    pairs = [(a, b) for a, b in results.pairs if {a, b} & concerned and {a, b} <= left]
    return overall(compare_results(results, kept, pairs, checks=False))


def runs_tables(results: Results, runs: Runs) -> list[Table]:
    """Every run; how many of each method collapsed; and, where some did, the differences without them."""
    tables = [_every_run(results, runs)]
    if runs.collapsed:
        tables.append(_counts(results, runs))
    if runs.without:
        tables.append(_differences(results, runs))
    return tables


def collapse_notes(results: Results, runs: Runs, a: str, b: str) -> tuple[str, ...]:
    """What of a pair's runs collapsed, and its difference without those; empty if none did."""
    labels = results.short_labels
    some = [(labels[m], runs.collapsed[m]) for m in (b, a) if m in runs.collapsed and runs.collapsed[m].seeds]
    if not some:
        return ()
    told = [f"{len(one.seeds)} of {count(one.runs, f'{label} run')} ({_seeds(one)})" for label, one in some]
    number = sum(len(one.seeds) for _, one in some)
    them = "it" if number == 1 else "them"
    without = next((c for c in runs.without if (c.a, c.b) == (a, b)), None)
    if without is None:
        left = f"no run is left without {them}"
    else:
        left = f"without {them} the difference is {difference_text(without)} (exploratory{_too_few(without)})"
    return (f"{listed(told)} collapsed; {left}.",)


def collapse_sentences(results: Results, runs: Runs, contrasts: Sequence[Contrast]) -> Iterator[str]:
    """What the absence of collapsed runs leaves open, where the verdicts are about methods."""
    claimed = {m for c in overall(contrasts) if c.claim == "methods" for m in (c.a, c.b)}
    none = {m: one for m, one in runs.collapsed.items() if m in claimed and not one.seeds}
    by_most: dict[tuple[int, float], list[str]] = {}
    for method, one in none.items():
        by_most.setdefault((one.runs, one.most), []).append(results.short_labels[method])
    for (number, most), names in by_most.items():
        each = " each" if len(names) > 1 else ""
        yield (
            f"No run of {listed(names)} collapsed ({number}{each}), which does not exclude that up to {most:.0%} of "
            f"runs would ({level(results.report.alpha)} one-sided); a mean over few runs does not show rare collapses."
        )


def _seeds(one: Collapses) -> str:
    return f"{'seed' if len(one.seeds) == 1 else 'seeds'} {listed([str(seed) for seed in one.seeds])}"


def _too_few(c: Contrast) -> str:
    left = min(c.seeds_a if c.a != BASE else c.seeds_b, c.seeds_b)
    return "" if left >= SEEDS_FOR_METHODS else f"; {count(left, 'run')} left, too few for a claim about methods"


def _definition(results: Results, runs: Runs) -> str:
    said = results.told("report.collapse")
    return f"A run has collapsed that ends more than {count(runs.below, 'point')} below the base model{said}."


def _every_run(results: Results, runs: Runs) -> Table:
    columns = (
        Column("Method", ("method",), align="left"),
        Column("Seed", ("seed",)),
        Column("Score", ("score",), "{:.1f}"),
        Column("Difference\nfrom base", ("difference_from_base",), "{:+z.1f}"),
        Column("", ("collapsed",), align="left"),
    )
    rows = []
    for method in results.labels:
        one = runs.collapsed.get(method)
        for seed, score in sorted(runs.scores.get(method, {}).items()):
            fell = None if one is None else int(seed in one.seeds)
            difference = None if runs.base is None or method == BASE else score - runs.base
            name = Cell((method,), results.labels[method])
            shown = Cell((None,), "") if method == BASE else Cell((seed,))
            rows.append(
                Row((name, shown, Cell((score,)), Cell((difference,)), Cell((fell,), "collapsed" if fell else "")))
            )
    caption = sentences(
        f"Overall score of each run, by the scorer “{results.scorer}”.",
        _definition(results, runs) if runs.collapsed else "",
    )
    return Table(f"Runs on {results.title}", columns, tuple(rows), caption).without_empty("difference_from_base")


def _counts(results: Results, runs: Runs) -> Table:
    percent = level(results.report.alpha)
    columns = (
        Column("Method", ("method",), align="left"),
        Column("Runs", ("runs",)),
        Column("Collapsed", ("collapsed",)),
        Column(
            f"Share that collapses\n[{percent} CI]", ("share", "share_low", "share_high"), "{:.0%} [{:.0%}, {:.0%}]"
        ),
        Column(f"At most\n({percent} one-sided)", ("at_most",), "{:.0%}"),
    )
    rows = [
        Row(
            (
                Cell((method,), results.labels[method]),
                Cell((one.runs,)),
                Cell((len(one.seeds),), bold=bool(one.seeds)),
                Cell((len(one.seeds) / one.runs, one.low, one.high)),
                Cell((one.most,)),
            )
        )
        for method, one in runs.collapsed.items()
    ]
    caption = sentences(
        _definition(results, runs),
        "Intervals are exact (Clopper and Pearson), for each method alone; the last column is the greatest share of "
        "collapsing runs that this many seeds do not exclude.",
    )
    return Table(f"Collapsed runs on {results.title}", columns, tuple(rows), caption)


def _differences(results: Results, runs: Runs) -> Table:
    labels, percent = results.short_labels, level(results.report.alpha)
    columns = (
        COMPARISON,
        Column(f"Difference\n[{percent} CI]", ("difference", "ci_low", "ci_high")),
        Column("Runs left\nB, A", ("seeds_b", "seeds_a"), "{}, {}"),
        Column("Compares", ("claim",), align="left"),
    )
    rows = [
        Row(
            (
                Cell((c.b, c.a), f"{labels[c.b]} − {labels[c.a]}"),
                Cell((c.difference, c.ci_low, c.ci_high), difference_text(c), note=c.note),
                Cell((c.seeds_b, c.seeds_a)),
                Cell((c.claim,)),
            )
        )
        for c in runs.without
    ]
    caption = (
        "Exploratory: leaving out runs by their outcome is no test of the methods, and the verdicts stand on all runs. "
        f"Intervals are {UNCORRECTED}."
    )
    return Table(f"Differences without collapsed runs on {results.title}", columns, tuple(rows), caption)
