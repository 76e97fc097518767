"""The main table of a comparison: scores in the layout of the paper's Table 2.

It depends on scores and contrasts only, not on dates or durations, so the same answers give the same bytes. Layout and
column order follow Table 2 of arXiv 2504.00883 and VSI-Bench's own tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.config.study import BASE
from harness.vsibench.scoring import means_of_tasks
from harness.vsibench.types import TASKS
from reports.statistics.contrast import OVERALL, Contrast, level
from reports.tables.pairs import HEADS, claim_footnotes, difference_cell, overall, p_text, test_caption
from reports.tables.table import Cell, Column, Part, Row, Table
from reports.text import sentences

Kind = Literal["base", "method", "baseline", "published"]

BASELINES = "Baselines, not tested"
PUBLISHED = "Published elsewhere, never tested against ours"

MEANS = ("numeric_mean", "choice_mean", "without_counting")
"""Averages of some of the tasks, as fields of a :class:`RunScore`."""

AIDS = Part(
    "reading aids",
    "Means over the tasks with numeric answers, over those with lettered answers, and over all but object counting, "
    "where a constant answer scores high; shares of answers that the scorer could not parse and that were cut off at "
    "the token limit.",
)
"""What a reader needs to judge an average."""

_AID_HEADS = ("Numeric\nmean", "Choice\nmean", "Without\ncounting", "Unparsable\n%", "Truncated\n%")


@dataclass(frozen=True)
class RunScore:
    """The score of one run (one checkpoint), in points.

    Attributes:
        tasks: Score by task; tasks without questions are left out. The three direction levels are one task.
        unparsable: Percentage of answers that the scorer could not parse.
        truncated: Percentage of answers cut off at the token limit.
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
        """The mean without object counting, where a constant answer beats published models."""
        return means_of_tasks(self.tasks).overall_without_counting


@dataclass(frozen=True)
class ScoreRow:
    """One row of the scores table.

    Attributes:
        name: The method's name, as in the contrasts; a baseline's own name.
        label: What the table shows, for example ``+ GRPO``.
        kind: Baselines and published rows are set apart and take no part in bold or tests.
        runs: One score per finished seed; one for the base model and for baselines.
        mode: Letter of the evaluation prompt.
        seeds_planned: Seeds the study asked for.
        note: A remark below the table, for example why a seed is missing.
        printed: The published average, which need not be the mean of the tasks.
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
    contrasts: Sequence[Contrast],
    *,
    benchmark: str,
    scorer: str,
    alpha: float,
    footnotes: Sequence[str] = (),
) -> Table:
    """The main table: scores by task, difference to the base model with interval and corrected p.

    Args:
        rows: Base, methods and baselines in display order; baselines and published rows come last in any case.
        contrasts: Of one model.
        benchmark: Name for the title.
        scorer: Name of the scorer behind all numbers.
        alpha: Level of the tests.
        footnotes: Remarks on the whole table.

    Raises:
        ValueError: The contrasts are of several models.
    """
    found = overall(contrasts)
    against_base = {c.b: c for c in found if c.a == BASE}
    ordered = sorted(rows, key=lambda row: ("", BASELINES, PUBLISHED).index(row.group))
    columns = (
        Column("Method", ("method",), align="left"),
        Column("Eval\nmode", ("eval_mode",), align="left"),
        Column("Seeds", ("seeds_done", "seeds_planned")),
        Column("Avg", (OVERALL, "overall_sd")),
        *(Column(HEADS[task], (task, f"{task}_sd")) for task in TASKS),
        Column(f"Difference from base\n[{level(alpha)} CI]", ("difference_to_base", "ci_low", "ci_high")),
        Column("Holm\np", ("p_holm",)),
        *(
            Column(head, (name,), "{:.1f}", part=AIDS)
            for head, name in zip(_AID_HEADS, (*MEANS, "unparsable", "truncated"), strict=True)
        ),
    )
    best = _best(ordered)
    body = tuple(
        Row(_score_cells(row, against_base.get(row.name), best), row.group, light=row.kind == "published")
        for row in ordered
    )
    tested = list(against_base.values())
    repeated = any(len(row.runs) > 1 for row in ordered)
    caption = sentences(
        f"Scores from 0 to 100 by the scorer “{scorer}”; Avg is the unweighted mean of the {len(_tasks(rows))} tasks.",
        "With several seeds: mean ± standard deviation over seeds." if repeated else "",
        "Bold: the highest of base and methods in each column (not a test)." if best else "",
        test_caption(tested, alpha, pairs=len(found)),
    )
    whole = Table(
        title=f"Scores on {benchmark}",
        columns=columns,
        rows=body,
        caption=caption,
        footnotes=(*claim_footnotes(tested), *footnotes),
    )
    return whole.without_empty("eval_mode", "difference_to_base", "p_holm")


def _score_cells(row: ScoreRow, contrast: Contrast | None, best: Mapping[str, float]) -> tuple[Cell, ...]:
    means = {name: _mean(_values(row, name)) for name in MEANS}
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
        Cell((None,)) if contrast is None else Cell((contrast.p_holm,), p_text(contrast.p_holm)),
        *(Cell((mean,), bold=ranked and _shown(mean) == best.get(name)) for name, mean in means.items()),
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
    """Highest mean of base and methods in each column, as printed; none with fewer than two."""
    ranked = [row for row in rows if not row.group and row.runs]
    best = {}
    for column in (OVERALL, *TASKS, *MEANS):
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
    """The value as printed, so that ties in print are ties for the best."""
    return float(f"{value:.1f}")


def _mean(values: Sequence[float]) -> float:
    """Mean; NaN when there is no value."""
    return statistics.fmean(values) if values else math.nan
