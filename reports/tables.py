"""The tables of a comparison: scores in the layout of the paper's Table 2, and all pairs.

Both are functions of scores and contrasts only: no date, no duration, so the same answers give
the same bytes. Layout and column order follow Table 2 of arXiv 2504.00883 and VSI-Bench's tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from harness.data.records import NUMERIC_TYPES, TASKS
from reports.paired import BASE, OVERALL, SEEDS_FOR_METHODS
from reports.table import MISSING, Cell, Column, Row, Table

Kind = Literal["base", "method", "baseline"]

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

BASELINES = "Baselines, not tested"
MARKS = {"methods": "*", "checkpoints": "†"}
EXPLORATORY_MARK = "‡"


@dataclass(frozen=True)
class RunScore:
    """The score of one run (one checkpoint), in points.

    Attributes:
        tasks: Score by task; tasks without questions are left out. Direction is one task already.
        unparsable: Percentage of answers that the scorer could not read.
        truncated: Percentage of answers cut off by the token limit.
    """

    tasks: Mapping[str, float]
    unparsable: float = math.nan
    truncated: float = math.nan

    @property
    def overall(self) -> float:
        """Plain mean of the tasks, as VSI-Bench's official score."""
        return _mean(list(self.tasks.values()))

    @property
    def numeric_mean(self) -> float:
        return _mean([v for task, v in self.tasks.items() if task in NUMERIC_TYPES])

    @property
    def choice_mean(self) -> float:
        return _mean([v for task, v in self.tasks.items() if task not in NUMERIC_TYPES])

    @property
    def without_counting(self) -> float:
        """Overall without the counting task, on which a constant answer beats published models."""
        return _mean([v for task, v in self.tasks.items() if task != "object_counting"])


@dataclass(frozen=True)
class ScoreRow:
    """One row of the scores table.

    Attributes:
        name: The method's name, as in the contrasts; a baseline's own name.
        label: What the table shows, for example ``+ GRPO``.
        kind: Baselines are set apart and take no part in bold or tests.
        runs: One score for each finished seed; one for the base model and for baselines.
        mode: Evaluation mode (prompt), for example ``vanilla``.
        seeds_planned: Seeds the study asked for.
        note: A remark under the table, for example why a seed is missing.
    """

    name: str
    label: str
    kind: Kind
    runs: Sequence[RunScore] = field(default_factory=tuple)
    mode: str = ""
    seeds_planned: int = 1
    note: str = ""


def scores_table(
    rows: Sequence[ScoreRow],
    contrasts: pd.DataFrame | None = None,
    *,
    benchmark: str = "VSI-Bench",
    scorer: str = "official",
    alpha: float = 0.05,
) -> Table:
    """The main table: scores by task, difference to the base model with interval and corrected p.

    Args:
        rows: Base, methods and baselines in the order to show; baselines come last in any case.
        contrasts: What :func:`reports.paired.compare_all` returned, for one model; None for no tests.
        benchmark: Name for the title.
        scorer: Name of the scorer behind all numbers.
        alpha: The level that the contrasts were judged at.

    Raises:
        ValueError: The contrasts are of several models.
    """
    found = _overall(contrasts)
    against_base = {c["b"]: c for c in found if c["a"] == BASE}
    ordered = sorted(rows, key=lambda row: row.kind == "baseline")
    columns = (
        Column("Method", ("method",), align="left"),
        Column("Eval\nmode", ("eval_mode",), align="left"),
        Column("Seeds", ("seeds_done", "seeds_planned")),
        Column("Avg", (OVERALL, "overall_sd")),
        *(Column(HEADS[task], (task, f"{task}_sd")) for task in TASKS),
        Column(f"Difference to base\n[{_level(alpha)} interval]", ("difference_to_base", "ci_low", "ci_high")),
        Column("Holm\np", ("p_holm",)),
        Column("Numeric\nmean", ("numeric_mean",), "{:.1f}"),
        Column("Choice\nmean", ("choice_mean",), "{:.1f}"),
        Column("Without\ncounting", ("without_counting",), "{:.1f}"),
        Column("Unpars.\n%", ("unparsable",), "{:.1f}"),
        Column("Trunc.\n%", ("truncated",), "{:.1f}"),
    )
    best = _best(ordered)
    body = tuple(
        Row(_score_cells(row, against_base.get(row.name), best), BASELINES if row.kind == "baseline" else "")
        for row in ordered
    )
    repeated = any(len(row.runs) > 1 for row in ordered)
    caption = [
        f"Points from 0 to 100 by the scorer “{scorer}”; Avg is the plain mean of the {len(_tasks(ordered))} tasks.",
        "Several seeds: mean ± standard deviation over seeds." if repeated else "",
        "Bold: the highest of base and methods in its column, which is no test.",
        _test_caption(found, alpha),
    ]
    return Table(
        title=f"Scores on {benchmark}",
        columns=columns,
        rows=body,
        caption=" ".join(part for part in caption if part),
        footnotes=_claim_footnotes(found),
    )


def pairs_table(
    contrasts: pd.DataFrame,
    *,
    labels: Mapping[str, str] | None = None,
    benchmark: str = "VSI-Bench",
    alpha: float = 0.05,
) -> Table:
    """Every pair: the overall difference with its test, then the tasks, lighter, as exploratory.

    Args:
        contrasts: What :func:`reports.paired.compare_all` returned, for one model.
        labels: What to call the methods; by default their names, short ones in capitals.
        benchmark: Name for the title.
        alpha: The level that the contrasts were judged at.

    Raises:
        ValueError: The contrasts are of several models.
    """
    found = _overall(contrasts)
    called = {name: _display(name) for c in found for name in (c["a"], c["b"])} | dict(labels or {})
    by_task = {(c["a"], c["b"], c["task"]): c for c in _records(contrasts) if c["task"] != OVERALL}
    span = "Exploratory: difference by task"
    columns = (
        Column("Comparison\n(B − A)", ("b", "a"), align="left"),
        Column(f"Difference\n[{_level(alpha)} interval]", ("difference", "ci_low", "ci_high")),
        Column("SE", ("standard_error",), "{:.2f}"),
        Column("df", ("df",), "{:.0f}"),
        Column("p", ("p",)),
        Column("Holm\np", ("p_holm",)),
        Column("Verdict", ("verdict",), align="left"),
        Column("Compares", ("claim",), align="left"),
        Column("Seeds\nB, A", ("seeds_b", "seeds_a"), "{}, {}"),
        *(Column(HEADS[t], (t, f"{t}_low", f"{t}_high", f"{t}_p_holm"), span=span, light=True) for t in TASKS),
    )
    body = []
    for c in found:
        cells = [
            Cell((c["b"], c["a"]), f"{called[c['b']]} − {called[c['a']]}"),
            _difference_cell(c),
            Cell((c["standard_error"],)),
            Cell((c["df"],)),
            Cell((c["p"],), _p_text(c["p"])),
            Cell((c["p_holm"],), _p_text(c["p_holm"])),
            Cell((c["verdict"],), _verdict_text(c, called)),
            Cell((c["claim"],)),
            Cell((c["seeds_b"], c["seeds_a"])),
            *(_task_cell(by_task.get((c["a"], c["b"], t))) for t in TASKS),
        ]
        body.append(Row(tuple(cells), "Against the base model" if c["a"] == BASE else "Between methods"))
    caption = [
        "B minus A in points; intervals are not corrected for the number of comparisons.",
        _test_caption(found, alpha),
        f"Tasks are exploratory: {EXPLORATORY_MARK} p < {alpha:g} after Holm within the pair's tasks.",
        "“Undecided” is not “no difference”.",
    ]
    return Table(
        title=f"Paired comparisons on {benchmark}",
        columns=columns,
        rows=tuple(body),
        caption=" ".join(part for part in caption if part),
        footnotes=_claim_footnotes(found),
    )


def _score_cells(row: ScoreRow, contrast: dict[str, Any] | None, best: Mapping[str, float]) -> tuple[Cell, ...]:
    aids = ("numeric_mean", "choice_mean", "without_counting")
    means = {aid: _mean([getattr(run, aid) for run in row.runs]) for aid in aids}
    ranked = row.kind != "baseline"
    done, planned = len(row.runs), row.seeds_planned
    if row.kind == "method":
        seeds = Cell((done, planned), str(done) if done == planned else f"{done} of {planned}", note=row.note)
    else:
        seeds = Cell((None, None), note=row.note)
    return (
        Cell((row.name,), row.label),
        Cell((row.mode or None,)),
        seeds,
        *(_score_cell(_values(row, column), best.get(column) if ranked else None) for column in (OVERALL, *TASKS)),
        Cell((None, None, None)) if contrast is None else _difference_cell(contrast),
        Cell((None,)) if contrast is None else Cell((contrast["p_holm"],), _p_text(contrast["p_holm"])),
        *(Cell((means[a],), bold=ranked and _shown(means[a]) == best.get(a, math.nan)) for a in aids),
        Cell((_mean([run.unparsable for run in row.runs]),)),
        Cell((_mean([run.truncated for run in row.runs]),)),
    )


def _score_cell(values: list[float], best: float | None) -> Cell:
    """Mean over seeds, with the standard deviation over seeds when there are two or more."""
    mean = _mean(values)
    deviation = statistics.stdev(values) if len(values) > 1 and not math.isnan(mean) else None
    if math.isnan(mean):
        return Cell((None, None))
    text = f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
    return Cell((mean, deviation), text, bold=_shown(mean) == best)


def _difference_cell(c: dict[str, Any]) -> Cell:
    values = (c["difference"], c["ci_low"], c["ci_high"])
    text = f"{values[0]:+z.1f}"
    if not math.isnan(values[1]):
        text += f" [{values[1]:z.1f}, {values[2]:z.1f}]"
    return Cell(values, text, mark="" if c["verdict"] == "undecided" else MARKS[c["claim"]], note=c["note"])


def _task_cell(c: dict[str, Any] | None) -> Cell:
    if c is None:
        return Cell((None, None, None, None))
    mark = "" if c["verdict"] == "undecided" else EXPLORATORY_MARK
    values = (c["difference"], c["ci_low"], c["ci_high"], c["p_holm"])
    return Cell(values, f"{c['difference']:+z.1f}", mark=mark, note=c["note"])


def _best(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Highest shown mean of base and methods by column; empty when there is nothing to choose from."""
    ranked = [row for row in rows if row.kind != "baseline" and row.runs]
    best = {}
    for column in (OVERALL, *TASKS, "numeric_mean", "choice_mean", "without_counting"):
        means = [_shown(_mean(_values(row, column))) for row in ranked]
        means = [m for m in means if not math.isnan(m)]
        if len(means) > 1:
            best[column] = max(means)
    return best


def _values(row: ScoreRow, column: str) -> list[float]:
    """The column's value in each run."""
    if column in TASKS:
        return [run.tasks.get(column, math.nan) for run in row.runs]
    return [getattr(run, column) for run in row.runs]


def _test_caption(found: Sequence[dict[str, Any]], alpha: float) -> str:
    """What was tested, how, on what: test, clusters, correction, questions, rooms and seeds."""
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
        f"p corrected by Holm over {_count(len(found), 'declared pair')};",
        f"{_range([c['n_questions'] for c in found], 'question')} in",
        f"{_range([c['n_rooms'] for c in found], 'room')} (clusters), {_range(seeds, 'seed')} a method.",
    ]
    marks = [f"{MARKS[claim]} p < {alpha:g}, {claim} compared" for claim in MARKS if claim in claims]
    return " ".join(parts) + " " + "; ".join(marks) + "."


def _claim_footnotes(found: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    if all(c["claim"] == "methods" for c in found):
        return ()
    return (
        f"Comparisons with fewer than {SEEDS_FOR_METHODS} seeds a method are between the trained checkpoints, not the "
        "methods: how much such a result would change in another training run is unknown and not part of its error.",
    )


def _overall(contrasts: pd.DataFrame | None) -> list[dict[str, Any]]:
    if contrasts is None:
        return []
    if contrasts["model"].nunique() > 1:
        raise ValueError(f"contrasts of several models in one table: {sorted(contrasts['model'].unique())}")
    return [c for c in _records(contrasts) if c["task"] == OVERALL]


def _records(contrasts: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in c.items()} for c in contrasts.to_dict(orient="records")]


def _tasks(rows: Sequence[ScoreRow]) -> set[str]:
    return {task for row in rows for run in row.runs for task in run.tasks}


def _verdict_text(c: dict[str, Any], called: Mapping[str, str]) -> str:
    winner = {"better": c["b"], "worse": c["a"]}.get(c["verdict"])
    return f"{called[winner]} better" if winner else str(c["verdict"])


def _p_text(p: float) -> str:
    return MISSING if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _display(name: str) -> str:
    return name.upper() if name != BASE and name.isalpha() and len(name) <= 5 else name


def _level(alpha: float) -> str:
    return f"{100 * (1 - alpha):g}%"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _range(numbers: Sequence[int], noun: str) -> str:
    low, high = min(numbers), max(numbers)
    return _count(high, noun) if low == high else f"{low:,} to {_count(high, noun)}"


def _shown(value: float) -> float:
    """The value as printed, so that equal prints are equally best."""
    return float(f"{value:.1f}")


def _mean(values: Sequence[float]) -> float:
    """Mean; NaN when there is no value."""
    return statistics.fmean(values) if values else math.nan
