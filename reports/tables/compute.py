"""Score against compute, as tables: each method's cost, its score and its differences at equal cost; exploratory."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.config.study import BASE
from reports.collect import Collected
from reports.results import Results
from reports.statistics import COSTS, OVERALL, Contrast, EqualCost, equal_costs, level, overall, pareto_front
from reports.tables.pairs import COMPARISON, UNCORRECTED, difference_text
from reports.tables.scores import ScoreRow
from reports.tables.table import Cell, Column, Row, Table
from reports.text import amount, listed, sentences

Fronts = Mapping[str, Mapping[str, tuple[float, float]]]
"""By cost and method on the Pareto front: what a run cost, and the reported score."""


@dataclass(frozen=True)
class AgainstCompute:
    """Score against compute.

    Attributes:
        tables: Costs and scores at equal cost; with two methods or more also their differences.
        frame: The numbers behind them, a row for each cost and method, or pair of methods.
        equal: The methods at equal cost, by each cost.
        fronts: By cost, the Pareto front; the base model costs nothing.
    """

    tables: Sequence[Table]
    frame: pd.DataFrame
    equal: Sequence[EqualCost]
    fronts: Fronts


def against_compute(
    collected: Collected, results: Results, rows: Sequence[ScoreRow], contrasts: Sequence[Contrast]
) -> AgainstCompute | None:
    """Score against compute; None where no method with answers recorded what it cost.

    Args:
        collected: A study's results.
        results: The same of its headline benchmark.
        rows: Of the score table.
        contrasts: What was tested.
    """
    found = equal_costs(collected, _pairs(results), results.report.alpha, results.variants)
    if not found:
        return None
    ours = [row for row in rows if row.kind in ("base", "method") and row.runs]
    scores = {row.name: statistics.fmean(run[OVERALL] for run in row.runs) for row in ours}
    fronts = {
        one.cost: pareto_front({m: (cost, scores[m]) for m, cost in {BASE: 0.0, **one.used}.items() if m in scores})
        for one in found
    }
    tables = [_scores(results, found, scores, fronts)]
    if any(one.differences for one in found):
        tables.append(_differences(results, found, contrasts))
    return AgainstCompute(tables, _frame(found, fronts), found, fronts)


def _pairs(results: Results) -> list[tuple[str, str]]:
    """All pairs of methods with answers: the declared ones, then the others."""
    methods = [method for method in results.present if method != BASE]
    declared = [pair for pair in results.pairs if BASE not in pair]
    return declared + [(a, b) for a, b in itertools.combinations(methods, 2) if not {(a, b), (b, a)} & set(declared)]


def _frame(found: Sequence[EqualCost], fronts: Fronts) -> pd.DataFrame:
    rows = []
    for one in found:
        for c in (*one.scores.values(), *one.differences):
            a = None if c.a == BASE else c.a
            rows.append(
                {
                    "cost": one.cost,
                    "at": one.at,
                    "b": c.b,
                    "a": a,
                    "points": c.difference,
                    "ci_low": c.ci_low,
                    "ci_high": c.ci_high,
                    "standard_error": c.standard_error,
                    "df": c.df,
                    "claim": c.claim,
                    "runs_b": c.seeds_b,
                    "runs_a": c.seeds_a if a else None,
                    "used_b": one.used[c.b],
                    "used_a": one.used[a] if a else None,
                    "b_on_front": c.b in fronts[one.cost],
                }
            )
    return pd.DataFrame(rows, dtype=object)  # integers beside None stay integers


def _scores(results: Results, found: Sequence[EqualCost], scores: Mapping[str, float], fronts: Fronts) -> Table:
    columns = [Column("Method", ("method",), align="left"), Column("Reported\nscore", ("score",), "{:.1f}")]
    for one in found:
        columns.append(Column(_head(COSTS[one.cost]), (one.cost, f"on_front_{one.cost}")))
        columns.append(_equal_column(f"Score at {amount(one.at)}", one.cost, results))
    rows = []
    for method, score in scores.items():
        cells = [Cell((method,), results.labels[method]), Cell((score,))]
        for one in found:
            cost, on_front = {BASE: 0.0, **one.used}.get(method), method in fronts[one.cost]
            known = (None, None) if cost is None else (cost, on_front)
            cells.append(Cell(known, None if cost is None else amount(cost), bold=on_front))
            cells.append(_interval_cell(one.scores.get(method)))
        rows.append(Row(tuple(cells)))
    caption = sentences(
        "Exploratory. Costs are those of a whole training run, without evaluation and tuning, means over finished "
        "runs: a forward pass is one call of the language model or the vision tower, with any batch; completion "
        "tokens are those sampled and those trained on. Bold costs: on the Pareto front, where neither the base "
        "model nor another method scored as high for less or higher for as much (the numbers compared, no test).",
        _at(found),
        _intervals([c for one in found for c in one.scores.values()]),
    )
    notes = tuple(_left_out(results, found))
    return Table(f"Score against compute on {results.title}", tuple(columns), tuple(rows), caption, notes)


def _differences(results: Results, found: Sequence[EqualCost], contrasts: Sequence[Contrast]) -> Table:
    labels = results.short_labels
    columns = [COMPARISON, Column(f"Reported\n[{_level(results)} CI]", ("difference", "ci_low", "ci_high"))]
    for one in found:
        columns.append(Column(f"{_head(COSTS[one.cost])}\nB / A", (f"{one.cost}_ratio",), "{:.2f}"))
        columns.append(_equal_column(f"At {amount(one.at)}", one.cost, results))
    tested = {(c.a, c.b): c for c in overall(contrasts)}
    at_equal = [{(c.a, c.b): c for c in one.differences} for one in found]
    rows = []
    for a, b in dict.fromkeys(pair for of in at_equal for pair in of):
        cells = [Cell((b, a), f"{labels[b]} − {labels[a]}"), _interval_cell(tested.get((a, b)), "+")]
        for one, of in zip(found, at_equal, strict=True):
            ratio = one.used[b] / one.used[a] if (a, b) in of else None
            cells += [Cell((ratio,)), _interval_cell(of.get((a, b)), "+")]
        rows.append(Row(tuple(cells)))
    caption = sentences(
        "Exploratory: B minus A in points, and what a run of B cost as a multiple of one of A.",
        _at(found),
        _intervals([c for one in found for c in one.differences]),
    )
    return Table(f"Differences at equal compute on {results.title}", tuple(columns), tuple(rows), caption)


def _equal_column(head: str, cost: str, results: Results) -> Column:
    names = (f"at_equal_{cost}", f"at_equal_{cost}_low", f"at_equal_{cost}_high")
    return Column(f"{head}\n[{_level(results)} CI]", names)


def _interval_cell(c: Contrast | None, sign: str = "") -> Cell:
    if c is None:
        return Cell((None,) * 3)
    text = difference_text(c)
    return Cell((c.difference, c.ci_low, c.ci_high), text if sign else text.removeprefix("+"))


def _head(words: str) -> str:
    return words.capitalize().replace(" ", "\n")


def _level(results: Results) -> str:
    return level(results.report.alpha)


def _at(found: Sequence[EqualCost]) -> str:
    places = listed([f"{amount(one.at)} {COSTS[one.cost]}" for one in found])
    return (
        f"At equal compute: at {places}, each the most that every run used. A score there lies on the line between two "
        "checkpoints of each run, the first of which is the base model; nothing is extrapolated."
    )


def _intervals(compared: Sequence[Contrast]) -> str:
    """What the intervals cover."""
    if not compared:
        return ""
    if any(c.claim == "methods" for c in compared):
        runs = " and, where there are enough runs, over training runs"
    else:
        runs = " alone, so that they are about these checkpoints, not about the methods"
    return f"Intervals are over {compared[0].cluster}s{runs}, and {UNCORRECTED}."


def _left_out(results: Results, found: Sequence[EqualCost]) -> list[str]:
    return [
        f"Not placed at equal {COSTS[one.cost]}: {listed([results.short_labels[m] for m in one.left_out])}, whose "
        "cost is not recorded or whose score before the first checkpoint is not known."
        for one in found
        if one.left_out
    ]
