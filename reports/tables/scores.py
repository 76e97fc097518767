"""The main table of a comparison: scores in the layout of Table 2 of arXiv 2504.00883.

It depends on scores and contrasts only, not on dates or durations, so the same answers give the same bytes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.api.benchmark import Benchmark, Figures, Task
from harness.config.study import BASE
from reports.statistics.contrast import OVERALL, Contrast, level
from reports.tables.pairs import claim_footnotes, difference_cell, overall, p_text, test_caption
from reports.tables.table import Cell, Column, Part, Row, Table
from reports.text import count, sentences

Kind = Literal["base", "method", "baseline", "published"]

BASELINES = "Baselines, not tested"
PUBLISHED = "Published elsewhere, never tested against ours"

_SHARES = {"unparsable": "Unparsable\n%", "truncated": "Truncated\n%"}


@dataclass(frozen=True)
class RunScore:
    """The score of one run (one checkpoint), in points.

    Attributes:
        figures: The overall score, the tasks and further means.
        unparsable: Percentage of answers that the scorer could not parse.
        truncated: Percentage of answers cut off at the token limit.
    """

    figures: Figures
    unparsable: float = math.nan
    truncated: float = math.nan

    def value(self, column: str) -> float:
        """The overall score, or that of a task or mean; NaN where it has no questions."""
        if column == OVERALL:
            return self.figures.overall
        return {**self.figures.tasks, **self.figures.means}.get(column, math.nan)


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
    benchmark: Benchmark,
    title: str,
    tasks: Sequence[Task],
    scorer: str,
    alpha: float,
    footnotes: Sequence[str] = (),
    tested: bool = True,
) -> Table:
    """The main table: scores by task, difference from the base model with interval and corrected p.

    Args:
        rows: Base, methods and baselines in display order; baselines and published rows come last in any case.
        contrasts: Of one model.
        benchmark: What the scores are averaged by.
        title: Its name for the title.
        tasks: Those that get a column.
        scorer: Name of the scorer behind all numbers.
        alpha: Level of the tests.
        footnotes: Remarks on the whole table.
        tested: Whether the differences are tested, not only described.

    Raises:
        ValueError: The contrasts are of several models.
    """
    found = overall(contrasts)
    against_base = {c.b: c for c in found if c.a == BASE}
    ordered = sorted(rows, key=lambda row: ("", BASELINES, PUBLISHED).index(row.group))
    aids = _reading_aids(benchmark)
    columns = (
        Column("Method", ("method",), align="left"),
        Column("Eval\nmode", ("eval_mode",), align="left"),
        Column("Seeds", ("seeds_done", "seeds_planned")),
        Column("Avg", (OVERALL, "overall_sd")),
        *(Column(task.head, (task.name, f"{task.name}_sd")) for task in tasks),
        Column(f"Difference from base\n[{level(alpha)} CI]", ("difference_to_base", "ci_low", "ci_high")),
        Column("Holm\np", ("p_holm",)),
        *(Column(head, (name,), "{:.1f}", part=aids) for name, head in (*benchmark.means.items(), *_SHARES.items())),
    )
    names = [task.name for task in tasks]
    best = _best(ordered, (OVERALL, *names, *benchmark.means))
    body = tuple(
        Row(
            _score_cells(row, against_base.get(row.name), best, names, list(benchmark.means)),
            row.group,
            light=row.kind == "published",
        )
        for row in ordered
    )
    compared = list(against_base.values())
    repeated = any(len(row.runs) > 1 for row in ordered)
    caption = sentences(
        f"Scores from 0 to 100 by the scorer “{scorer}”; Avg is {benchmark.average}.",
        "With several seeds: mean ± standard deviation over seeds." if repeated else "",
        "Bold: the highest of base and methods in each column (not a test)." if best else "",
        test_caption(compared, alpha, benchmark.cluster, pairs=len(found))
        if tested
        else _description(compared, benchmark),
    )
    whole = Table(
        title=f"Scores on {title}",
        columns=columns,
        rows=body,
        caption=caption,
        footnotes=(*claim_footnotes(compared), *footnotes),
    )
    return whole.without_empty("eval_mode", "difference_to_base", "p_holm")


def _reading_aids(benchmark: Benchmark) -> Part:
    """What a reader needs to judge an average."""
    means = f"{benchmark.means_caption}; shares" if benchmark.means_caption else "Shares"
    return Part(
        "reading aids",
        f"{means} of answers that the scorer could not parse and that were cut off at the token limit.",
    )


def _description(compared: Sequence[Contrast], benchmark: Benchmark) -> str:
    if not compared:
        return ""
    return (
        "Differences are paired by question, with intervals from standard errors clustered by "
        f"{benchmark.cluster} ({count(max(c.n_questions for c in compared), 'question')}, "
        f"{count(max(c.n_rooms for c in compared), benchmark.cluster)}). Descriptive only: no test and no other score "
        "includes them."
    )


def _score_cells(
    row: ScoreRow, contrast: Contrast | None, best: Mapping[str, float], tasks: Sequence[str], means: Sequence[str]
) -> tuple[Cell, ...]:
    ranked = not row.group
    done, planned = len(row.runs), row.seeds_planned
    if row.kind == "method":
        seeds = Cell((done, planned), str(done) if done == planned else f"{done} of {planned}", note=row.note)
    else:
        seeds = Cell((None, None), note=row.note if row.kind != "published" else "")
    average = _score_cell(_values(row, OVERALL), best.get(OVERALL) if ranked else None)
    mean_of = {name: _mean(_values(row, name)) for name in means}
    return (
        Cell((row.name,), row.label),
        Cell((row.mode or None,)),
        seeds,
        average if row.kind != "published" else replace(average, note=row.note),
        *(_score_cell(_values(row, task), best.get(task) if ranked else None) for task in tasks),
        Cell((None, None, None)) if contrast is None else difference_cell(contrast),
        Cell((None,)) if contrast is None else Cell((contrast.p_holm,), p_text(contrast.p_holm)),
        *(Cell((mean,), bold=ranked and _shown(mean) == best.get(name)) for name, mean in mean_of.items()),
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


def _best(rows: Sequence[ScoreRow], columns: Sequence[str]) -> dict[str, float]:
    """Highest mean of base and methods in each column, as printed; none with fewer than two."""
    ranked = [row for row in rows if not row.group and row.runs]
    best = {}
    for column in columns:
        means = [_shown(_mean(_values(row, column))) for row in ranked]
        means = [m for m in means if not math.isnan(m)]
        if len(means) > 1:
            best[column] = max(means)
    return best


def _values(row: ScoreRow, column: str) -> list[float]:
    """The column's value in each run."""
    if column == OVERALL and row.printed is not None:
        return [row.printed]
    return [run.value(column) for run in row.runs]


def _shown(value: float) -> float:
    """The value as printed, so that ties in print are ties for the best."""
    return float(f"{value:.1f}")


def _mean(values: Sequence[float]) -> float:
    """Mean; NaN when there is no value."""
    return statistics.fmean(values) if values else math.nan
