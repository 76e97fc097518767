"""How much scores depend on the scorer: the same raw answers scored by every rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.config.study import BASE
from reports.results import Results
from reports.statistics import OVERALL
from reports.tables.scores import score_of
from reports.tables.table import Cell, Column, Row, Table
from reports.text import sentences


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
