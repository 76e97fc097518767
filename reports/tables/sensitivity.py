"""How much scores and verdicts depend on the scorer: the same raw answers scored by every rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.config.study import BASE
from reports.collect import scored_by
from reports.results import Results, compare_results
from reports.statistics import OVERALL, Contrast, level, overall, verdict_words
from reports.tables.pairs import COMPARISON, UNCORRECTED, difference_text, p_text
from reports.tables.scores import score_of
from reports.tables.table import Cell, Column, Row, Table
from reports.text import listed, sentences

ByScorer = Mapping[str, Sequence[Contrast]]
"""By scorer, the declared pairs' differences in the overall score."""


def sensitivity_tables(results: Results, contrasts: Sequence[Contrast]) -> tuple[list[Table], list[str]]:
    """Scores by every scorer and, with two methods, differences; and which verdicts change, in a sentence.

    Args:
        results: What was answered.
        contrasts: What was tested by the headline's scorer.
    """
    if len(results.benchmark.scorers) < 2:
        return [], []
    scores = sensitivity_table(results)
    if not contrasts:
        return [scores], []
    found = by_scorer(results, contrasts)
    return [scores, differences_table(results, found)], list(scorer_sentences(results, found))


def by_scorer(results: Results, contrasts: Sequence[Contrast]) -> ByScorer:
    """The declared pairs tested by every scorer, each with its own correction; the headline's first.

    Args:
        results: What was answered.
        contrasts: By the headline's scorer.
    """
    found: dict[str, Sequence[Contrast]] = {results.scorer: overall(contrasts)}
    for scorer in results.benchmark.scorers:
        if scorer != results.scorer and scored_by(scorer) in results.answers:
            answers = results.answers.assign(score=results.answers[scored_by(scorer)])
            found[scorer] = overall(compare_results(results, answers, checks=False))
    return found


def differences_table(results: Results, found: ByScorer) -> Table:
    """Every pair's difference, interval, corrected p and verdict by each scorer."""
    labels, alpha = results.short_labels, results.report.alpha
    columns = (
        COMPARISON,
        Column("Scorer", ("scorer",), align="left"),
        Column(f"Difference\n[{level(alpha)} CI]", ("difference", "ci_low", "ci_high")),
        Column("p", ("p",)),
        Column("Holm\np", ("p_holm",)),
        Column("Verdict", ("verdict",), align="left"),
    )
    rows: list[Row] = []
    for of_pair in zip(*found.values(), strict=True):
        for scorer, c in zip(found, of_pair, strict=True):
            name = "" if rows and rows[-1].cells[0].values == (c.b, c.a) else f"{labels[c.b]} − {labels[c.a]}"
            cells = (
                Cell((c.b, c.a), name),
                Cell((scorer,)),
                Cell((c.difference, c.ci_low, c.ci_high), difference_text(c)),
                Cell((c.p,), p_text(c.p)),
                Cell((c.p_holm,), p_text(c.p_holm)),
                Cell((c.verdict,), verdict_words(c, labels), bold=c.verdict != of_pair[0].verdict),
            )
            rows.append(Row(cells))
    caption = sentences(
        f"Differences in the overall score by each rule, tested as the headline's: intervals are {UNCORRECTED}, Holm's "
        "correction is over the pairs by one scorer.",
        *scorer_sentences(results, found),
        "Bold: another verdict than the headline's." if _changed(found) else "",
    )
    return Table(f"Differences on {results.title} by scorer", columns, tuple(rows), caption)


def scorer_sentences(results: Results, found: ByScorer) -> Iterator[str]:
    """Which verdicts another scorer would change, in one sentence."""
    labels = results.short_labels
    changed = [
        f"by “{scorer}” {labels[c.b]} against {labels[c.a]} is {verdict_words(c, labels)} "
        f"({difference_text(c)}, {_corrected(c)}) instead of {verdict_words(ours, labels)}"
        for scorer, c, ours in _changed(found)
    ]
    if changed:
        yield f"Other scorers change {len(changed)} verdict{'' if len(changed) == 1 else 's'}: {'; '.join(changed)}."
    elif len(found) > 1:
        others = [f"“{scorer}”" for scorer in found if scorer != results.scorer]
        yield f"No verdict changes by the other scorer{'' if len(others) == 1 else 's'}, {listed(others)}."


def _changed(found: ByScorer) -> list[tuple[str, Contrast, Contrast]]:
    """Scorer, difference by it and by the headline's, where the verdicts differ."""
    ours, *_ = found.values()
    return [
        (scorer, c, first)
        for scorer, of in found.items()
        for c, first in zip(of, ours, strict=True)
        if c.verdict != first.verdict
    ]


def _corrected(c: Contrast) -> str:
    p = p_text(c.p_holm)
    return f"corrected p {p.replace('<', '< ') if p.startswith('<') else f'= {p}'}"


def sensitivity_table(results: Results) -> Table:
    """One row per method, one column per scorer, means over seeds."""
    scores, labels, benchmark = _scored_by_all(results), results.labels, results.benchmark
    scorers = benchmark.scorers
    heads = {name: head.replace("\n", " ") for name, head in benchmark.means.items()}
    figures = {OVERALL: "Avg", **heads, "unparsable": "Unpars. %"}
    means: dict[Any, Any] = scores.groupby(["method", "scorer"], sort=False)[list(figures)].mean().to_dict("index")
    columns = [Column("Method", ("method",), align="left")]
    for key, head in figures.items():
        columns += [Column(f"{head}\n{name}", (f"{key}_{name}",), "{:.1f}") for name in scorers]
    columns.append(Column("Largest\ngap in Avg", ("gap",), "{:.1f}"))
    body = []
    for method in results.present:
        averages = [means[method, name][OVERALL] for name in scorers]
        cells = [Cell((means[method, name][key],)) for key in figures for name in scorers]
        body.append(Row((Cell((method,), labels[method]), *cells, Cell((max(averages) - min(averages),)))))
    trained = {m: {name: means[m, name][OVERALL] for name in scorers} for m in results.present if m != BASE}
    caption = sentences(
        f"The same raw answers scored by {len(scorers)} rules, means over seeds.",
        f"{'; '.join(f'{name}: {scorer.summary}' for name, scorer in scorers.items())}.",
        f"All other tables use “{results.scorer}”.",
        _ranking(trained, labels),
    )
    return Table(f"Scores on {results.title} by scorer", tuple(columns), tuple(body), caption)


def _scored_by_all(results: Results) -> pd.DataFrame:
    """The score of every run by every scorer: method, seed, scorer, and the columns of :func:`score_of`."""
    return pd.DataFrame(
        {"method": method, "seed": seed, "scorer": name, **score_of(results.points[method, seed][name])}
        for name in results.benchmark.scorers
        for method, seed in sorted(results.points)
    )


def _ranking(averages: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> str:
    """Whether the rules agree on the order of the trained methods; descriptive, not a test."""
    if len(averages) < 2:
        return ""
    orders = {}
    for name in next(iter(averages.values())):
        scores = {method: of[name] for method, of in averages.items()}
        orders[name] = sorted(scores, key=scores.__getitem__, reverse=True)
    if len({tuple(order) for order in orders.values()}) == 1:
        return "All rules rank the methods in the same order."
    ranked = "; ".join(f"{name}: {', '.join(labels[m].removeprefix('+ ') for m in o)}" for name, o in orders.items())
    return f"The rules rank the methods differently ({ranked}), which no test accounts for."
