"""The main table of a comparison: scores in the layout of Table 2 of arXiv 2504.00883.

It depends on scores and contrasts only, not on dates or durations, so the same answers give the same bytes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import pandas as pd

from harness.api.benchmark import Benchmark, Figures
from harness.config.study import BASE
from harness.study.scored import Points
from reports.results import Results, missing_seeds
from reports.statistics import OVERALL, Contrast, level, overall
from reports.tables.pairs import UNCORRECTED, difference_cell, p_text, test_caption
from reports.tables.table import Cell, Column, Part, Row, Table
from reports.text import count, sentences

Kind = Literal["base", "method", "baseline", "published"]

BASELINES = "Baselines, not tested"
PUBLISHED = "Published elsewhere, never tested against ours"

_SHARES = {"unparsable": "Unparsable\n%", "truncated": "Truncated\n%"}


def run_score(figures: Figures, **shares: float) -> dict[str, float]:
    """The score of one run (one checkpoint) by column: overall, tasks and means in points.

    Args:
        figures: The points.
        shares: In percent, ``unparsable`` of answers that the scorer could not parse, and ``truncated`` of answers cut
            off at the token limit.
    """
    return {OVERALL: figures.overall, **figures.tasks, **figures.means, **shares}


@dataclass(frozen=True)
class ScoreRow:
    """One row of the scores table.

    Attributes:
        name: The method's name, as in the contrasts; a baseline's own name.
        label: What the table shows, for example ``+ GRPO``.
        kind: Baselines and published rows are set apart and take no part in bold or tests.
        runs: A :func:`run_score` per finished seed; one for the base model and for baselines.
        mode: Letter of the evaluation prompt.
        seeds_planned: Seeds the study asked for.
        note: A remark below the table, for example why a seed is missing.
    """

    name: str
    label: str
    kind: Kind
    runs: Sequence[Mapping[str, float]] = ()
    mode: str = ""
    seeds_planned: int = 1
    note: str = ""

    @property
    def group(self) -> str:
        return {"baseline": BASELINES, "published": PUBLISHED}.get(self.kind, "")


def score_rows(results: Results) -> list[ScoreRow]:
    """Rows of the methods in their order, finished or not, then of the baselines."""
    return [_method_row(results, method) for method in results.labels] + _baseline_rows(results)


_Pair = tuple[Column, Callable[[ScoreRow], Cell]]
"""A column, and what makes its cell of a row."""


def scores_table(
    results: Results,
    rows: Sequence[ScoreRow],
    contrasts: Sequence[Contrast],
    *,
    footnotes: Sequence[str] = (),
    tested: bool = True,
) -> Table:
    """The main table: scores by task, difference from the base model with interval and corrected p.

    Args:
        results: What was answered.
        rows: Base, methods and baselines in display order; baselines and published rows come last in any case.
        contrasts: What was compared.
        footnotes: Remarks on the whole table.
        tested: Whether the differences are tested, not only described.
    """
    benchmark, alpha = results.benchmark, results.report.alpha
    found = overall(contrasts)
    against_base = {c.b: c for c in found if c.a == BASE}
    compared = list(against_base.values())
    ordered = sorted(rows, key=lambda row: ("", BASELINES, PUBLISHED).index(row.group))
    heads = {OVERALL: "Avg", **{task.name: task.head for task in results.tasks}}
    best = _best(ordered, [*heads, *benchmark.means])
    breakdown = _breakdown(benchmark)

    columns: list[_Pair] = [
        (Column("Method", ("method",), align="left"), lambda row: Cell((row.name,), row.label)),
        (Column("Eval\nmode", ("eval_mode",), align="left"), lambda row: Cell((row.mode or None,))),
        (Column("Seeds", ("seeds_done", "seeds_planned")), _seeds_cell),
        *((Column(head, (name, f"{name}_sd")), partial(_score_cell, name, best)) for name, head in heads.items()),
        *_difference_columns(against_base, alpha),
        *(
            (Column(head, (name,), "{:.1f}", part=breakdown), partial(_mean_cell, name, best))
            for name, head in (*benchmark.means.items(), *_SHARES.items())
        ),
    ]
    caption = sentences(
        f"Scores from 0 to 100 by the scorer “{results.scorer}”; Avg is {benchmark.average}.",
        f"Reported is {results.rule}." if results.rule else "",
        "With several seeds: mean ± standard deviation over seeds." if any(len(row.runs) > 1 for row in rows) else "",
        "Bold: the highest of base and methods in each column (not a test)." if best else "",
        test_caption(results, compared, pairs=len(found)) if tested else _description(compared, benchmark),
        f"Intervals are {UNCORRECTED}." if len(compared) > 1 else "",
    )
    return Table(
        f"Scores on {results.title}",
        tuple(column for column, _ in columns),
        tuple(Row(tuple(cell(row) for _, cell in columns), row.group, row.kind == "published") for row in ordered),
        caption,
        tuple(footnotes),
    ).without_empty("eval_mode", "difference_to_base", "p_holm")


def _method_row(results: Results, method: str) -> ScoreRow:
    mine = results.answers[results.answers["method"] == method]
    runs = mine.groupby("seed", sort=True)
    return ScoreRow(
        method,
        results.labels[method],
        "base" if method == BASE else "method",
        [score_of(results.points[method, cast(int, seed)][results.scorer], group) for seed, group in runs],
        results.modes.get(method, ""),
        results.planned.get(method, 1),
        missing_seeds(results.cells, method),
    )


def score_of(points: Points, answers: pd.DataFrame | None = None) -> dict[str, float]:
    """The :func:`run_score` of a run, with the share of its answers that were cut off where that is known."""
    shares = {"unparsable": points.unparsable}
    if answers is not None and "truncated" in answers:
        shares["truncated"] = 100 * float(answers["truncated"].astype(float).mean())
    return run_score(points.figures, **shares)


def _baseline_rows(results: Results) -> list[ScoreRow]:
    """Answers that need no video: a reader sees at once what a score is worth."""
    return [
        ScoreRow(name, label, "baseline", [score_of(points[results.scorer])])
        for name, label, points in results.baselines
    ]


def _difference_columns(against_base: Mapping[str, Contrast], alpha: float) -> list[_Pair]:
    def difference(row: ScoreRow) -> Cell:
        return difference_cell(against_base[row.name]) if row.name in against_base else Cell((None, None, None))

    def p_holm(row: ScoreRow) -> Cell:
        p = against_base[row.name].p_holm if row.name in against_base else None
        return Cell((p,), p if p is None else p_text(p))

    names = ("difference_to_base", "ci_low", "ci_high")
    head = f"Difference from base\n[{level(alpha)} CI]"
    return [(Column(head, names), difference), (Column("Holm\np", ("p_holm",)), p_holm)]


def _breakdown(benchmark: Benchmark) -> Part:
    """What a reader needs to judge an average."""
    means = f"{benchmark.means_caption}; shares" if benchmark.means_caption else "Shares"
    caption = f"{means} of answers that the scorer could not parse and that were cut off at the token limit."
    return Part("score breakdown", caption)


def _description(compared: Sequence[Contrast], benchmark: Benchmark) -> str:
    if not compared:
        return ""
    return (
        "Differences are paired by question, with intervals from standard errors clustered by "
        f"{benchmark.cluster} ({count(max(c.n_questions for c in compared), 'question')}, "
        f"{count(max(c.n_rooms for c in compared), benchmark.cluster)}). Descriptive only: no test and no other score "
        "includes them."
    )


def _seeds_cell(row: ScoreRow) -> Cell:
    if row.kind != "method":
        return Cell((None, None), note="" if row.kind == "published" else row.note)
    done, planned = len(row.runs), row.seeds_planned
    return Cell((done, planned), str(done) if done == planned else f"{done} of {planned}", note=row.note)


def _score_cell(column: str, best: Mapping[str, float], row: ScoreRow) -> Cell:
    """Mean over seeds, with the standard deviation over seeds when there are two or more."""
    mean = _mean(row, column)
    if math.isnan(mean):
        return Cell((None, None))
    deviation = statistics.stdev(run[column] for run in row.runs) if len(row.runs) > 1 else None
    text = f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
    note = row.note if column == OVERALL and row.kind == "published" else ""
    return Cell((mean, deviation), text, bold=not row.group and _shown(mean) == best.get(column), note=note)


def _mean_cell(column: str, best: Mapping[str, float], row: ScoreRow) -> Cell:
    mean = _mean(row, column)
    return Cell((mean,), bold=not row.group and _shown(mean) == best.get(column))


def _best(rows: Sequence[ScoreRow], columns: Sequence[str]) -> dict[str, float]:
    """Highest mean of base and methods in each column, as printed; none with fewer than two."""
    ranked = [row for row in rows if not row.group and row.runs]
    best = {}
    for column in columns:
        means = [_shown(mean) for row in ranked if not math.isnan(mean := _mean(row, column))]
        if len(means) > 1:
            best[column] = max(means)
    return best


def _shown(value: float) -> float:
    """The value as printed, so that ties in print are ties for the best."""
    return float(f"{value:.1f}")


def _mean(row: ScoreRow, column: str) -> float:
    """Mean of the column over the runs; NaN without runs or where one of them has no value."""
    return statistics.fmean(run.get(column, math.nan) for run in row.runs) if row.runs else math.nan
