"""The main table of a comparison: scores in the layout of the paper's Table 2.

It is a function of scores and contrasts only: no date, no duration, so the same answers give
the same bytes. Layout and column order follow Table 2 of arXiv 2504.00883 and VSI-Bench's tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from harness.config.study import BASE
from harness.vsibench.scoring import means_of_tasks
from harness.vsibench.types import TASKS
from reports.statistics.contrast import OVERALL, level
from reports.tables.captions import HEADS, claim_footnotes, overall, p_text, test_caption
from reports.tables.pairs import difference_cell
from reports.tables.table import Cell, Column, Part, Row, Table

Kind = Literal["base", "method", "baseline", "published"]

BASELINES = "Baselines, not tested"
PUBLISHED = "Published elsewhere, never tested against ours"

AIDS = Part(
    "reading aids",
    "Means of the tasks answered by a number and of those answered by a letter, and of all but object counting, where "
    "a constant answer does well; shares of answers that the scorer could not read and that the token limit cut off.",
)
"""What a reader needs to judge an average."""


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
        return means_of_tasks(self.tasks).overall

    @property
    def numeric_mean(self) -> float:
        return means_of_tasks(self.tasks).numeric_mean

    @property
    def choice_mean(self) -> float:
        return means_of_tasks(self.tasks).choice_mean

    @property
    def without_counting(self) -> float:
        """Overall without the counting task, on which a constant answer beats published models."""
        return means_of_tasks(self.tasks).overall_without_counting


@dataclass(frozen=True)
class ScoreRow:
    """One row of the scores table.

    Attributes:
        name: The method's name, as in the contrasts; a baseline's own name.
        label: What the table shows, for example ``+ GRPO``.
        kind: Baselines and published rows are set apart and take no part in bold or tests.
        runs: One score for each finished seed; one for the base model and for baselines.
        mode: Evaluation mode (prompt), for example ``vanilla``.
        seeds_planned: Seeds the study asked for.
        note: A remark under the table, for example why a seed is missing.
        printed: The average as published, which need not be the mean of the tasks.
    """

    name: str
    label: str
    kind: Kind
    runs: Sequence[RunScore] = field(default_factory=tuple)
    mode: str = ""
    seeds_planned: int = 1
    note: str = ""
    printed: float | None = None

    @property
    def group(self) -> str:
        return {"baseline": BASELINES, "published": PUBLISHED}.get(self.kind, "")


def scores_table(
    rows: Sequence[ScoreRow],
    contrasts: pd.DataFrame | None = None,
    *,
    benchmark: str = "VSI-Bench",
    scorer: str = "official",
    alpha: float = 0.05,
    footnotes: Sequence[str] = (),
) -> Table:
    """The main table: scores by task, difference to the base model with interval and corrected p.

    Args:
        rows: Base, methods and baselines in the order to show; baselines and published rows come last in any case.
        contrasts: What :func:`reports.statistics.paired.compare_all` returned, for one model; None for no tests.
        benchmark: Name for the title.
        scorer: Name of the scorer behind all numbers.
        alpha: The level that the contrasts were judged at.
        footnotes: Remarks on the whole table.

    Raises:
        ValueError: The contrasts are of several models.
    """
    found = overall(contrasts)
    against_base = {c["b"]: c for c in found if c["a"] == BASE}
    ordered = sorted(rows, key=lambda row: ("", BASELINES, PUBLISHED).index(row.group))
    columns = (
        Column("Method", ("method",), align="left"),
        Column("Eval\nmode", ("eval_mode",), align="left"),
        Column("Seeds", ("seeds_done", "seeds_planned")),
        Column("Avg", (OVERALL, "overall_sd")),
        *(Column(HEADS[task], (task, f"{task}_sd")) for task in TASKS),
        Column(f"Difference to base\n[{level(alpha)} interval]", ("difference_to_base", "ci_low", "ci_high")),
        Column("Holm\np", ("p_holm",)),
        Column("Numeric\nmean", ("numeric_mean",), "{:.1f}", part=AIDS),
        Column("Choice\nmean", ("choice_mean",), "{:.1f}", part=AIDS),
        Column("Without\ncounting", ("without_counting",), "{:.1f}", part=AIDS),
        Column("Unparsable\n%", ("unparsable",), "{:.1f}", part=AIDS),
        Column("Truncated\n%", ("truncated",), "{:.1f}", part=AIDS),
    )
    best = _best(ordered)
    body = tuple(
        Row(_score_cells(row, against_base.get(row.name), best), row.group, light=row.kind == "published")
        for row in ordered
    )
    repeated = any(len(row.runs) > 1 for row in ordered)
    caption = [
        f"Points from 0 to 100 by the scorer “{scorer}”; Avg is the plain mean of the {len(_tasks(rows))} tasks.",
        "Several seeds: mean ± standard deviation over seeds." if repeated else "",
        "Bold: the highest of base and methods in its column, which is no test." if best else "",
    ]
    tested = list(against_base.values())
    caption = [*caption, test_caption(tested, alpha, pairs=len(found))]
    whole = Table(
        title=f"Scores on {benchmark}",
        columns=columns,
        rows=body,
        caption=" ".join(part for part in caption if part),
        footnotes=(*claim_footnotes(tested), *footnotes),
    )
    return whole.without_empty("eval_mode", "difference_to_base", "p_holm")


def _score_cells(row: ScoreRow, contrast: dict[str, Any] | None, best: Mapping[str, float]) -> tuple[Cell, ...]:
    aids = ("numeric_mean", "choice_mean", "without_counting")
    means = {aid: _mean([getattr(run, aid) for run in row.runs]) for aid in aids}
    ranked = not row.group
    done, planned = len(row.runs), row.seeds_planned
    if row.kind == "method":
        seeds = Cell((done, planned), str(done) if done == planned else f"{done} of {planned}", note=row.note)
    else:
        seeds = Cell((None, None), note=row.note if row.kind != "published" else "")
    average = _score_cell(_values(row, OVERALL), best.get(OVERALL) if ranked else None)
    return (
        Cell((row.name,), row.label),
        Cell((row.mode or None,)),
        seeds,
        average if row.kind != "published" else replace(average, note=row.note),
        *(_score_cell(_values(row, task), best.get(task) if ranked else None) for task in TASKS),
        Cell((None, None, None)) if contrast is None else difference_cell(contrast),
        Cell((None,)) if contrast is None else Cell((contrast["p_holm"],), p_text(contrast["p_holm"])),
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


def _best(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Highest shown mean of base and methods by column; empty when there is nothing to choose from."""
    ranked = [row for row in rows if not row.group and row.runs]
    best = {}
    for column in (OVERALL, *TASKS, "numeric_mean", "choice_mean", "without_counting"):
        means = [_shown(_mean(_values(row, column))) for row in ranked]
        means = [m for m in means if not math.isnan(m)]
        if len(means) > 1:
            best[column] = max(means)
    return best


def _values(row: ScoreRow, column: str) -> list[float]:
    """The column's value in each run."""
    if column == OVERALL and row.printed is not None:
        return [row.printed]
    if column in TASKS:
        return [run.tasks.get(column, math.nan) for run in row.runs]
    return [getattr(run, column) for run in row.runs]


def _tasks(rows: Sequence[ScoreRow]) -> set[str]:
    return {task for row in rows if row.kind != "published" for run in row.runs for task in run.tasks}


def _shown(value: float) -> float:
    """The value as printed, so that equal prints are equally best."""
    return float(f"{value:.1f}")


def _mean(values: Sequence[float]) -> float:
    """Mean; NaN when there is no value."""
    return statistics.fmean(values) if values else math.nan
