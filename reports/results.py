"""What a report shows: the answers, read from a run directory or from files, and every table made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from harness.api.benchmark import Benchmark, Task
from harness.config.study import BASE, ReportSection
from harness.vsibench.prompts import MODES
from harness.vsibench.records import Record
from reports.benchmarks import VSIBench
from reports.collect import CellResult, Collected, Evaluated, methods_of
from reports.statistics import Contrast, compare, default_pairs
from reports.tables import (
    ScoreRow,
    Table,
    Verdict,
    missing_seeds,
    pairs_table,
    published_footnote,
    published_rows,
    run_score,
    scored_by_all,
    scores_table,
    sensitivity_table,
    tasks_table,
    verdicts,
)

MOST_COLUMNS = 8
"""Question types that get a column each where the benchmark declares no tasks; with more there is none."""


@dataclass(frozen=True)
class Results:
    """Answers to one benchmark by several methods.

    Attributes:
        labels: What to call each method, in the order of the tables; ``base`` is the untrained model.
        answers: One row an answer of the reported checkpoints: method, model, seed, question, type, cluster, score
            (0 to 1), parsed, answer (raw text), and truncated where it is known.
        records: The questions.
        benchmark: The rules that they were scored and are averaged by.
        title: The benchmark's name in titles.
        scorer: The scorer behind ``score``.
        report: Margin, level and pairs.
        train: Training records, for the baselines; None when there are none.
        modes: Evaluation prompt by method, where it is known.
        planned: Seeds asked for, by method.
        cells: Of a run directory, finished or not.
        footnotes: Remarks on the scores as a whole.
    """

    labels: Mapping[str, str]
    answers: pd.DataFrame
    records: Sequence[Record]
    benchmark: Benchmark
    title: str
    scorer: str
    report: ReportSection
    train: Sequence[Record] | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    planned: Mapping[str, int] = field(default_factory=dict)
    cells: Sequence[CellResult] = ()
    footnotes: tuple[str, ...] = ()

    @property
    def present(self) -> list[str]:
        """Methods with answers."""
        answered = set(self.answers["method"].unique())
        return [method for method in self.labels if method in answered]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The declared pairs whose methods both have answers."""
        declared = self.report.pairs or default_pairs(list(self.labels))
        return [(a, b) for a, b in declared if a in self.present and b in self.present]

    @property
    def short_labels(self) -> dict[str, str]:
        """Labels as running text has them."""
        return {name: label.removeprefix("+ ") for name, label in self.labels.items()}

    @property
    def tasks(self) -> Sequence[Task]:
        """The tasks that get a column."""
        if self.benchmark.tasks:
            return self.benchmark.tasks
        found = self.benchmark.tasks_of(self.answers["type"].unique())
        return found if 1 < len(found) <= MOST_COLUMNS else ()

    @property
    def clusters(self) -> int:
        """Number of clusters, such as rooms, that the questions are about."""
        return int(self.answers["cluster"].nunique())


@dataclass(frozen=True)
class Tables:
    """Every table of a report, and the contrasts behind them.

    Attributes:
        scores: The main table.
        contrasts: Every difference that was tested.
        verdicts: What the differences in the overall score say.
        sensitivity: The same answers by every scorer; None where the benchmark has one scorer only.
        pairs: Differences in the overall score; None without two methods.
        tasks: Differences by task; None without two methods or without tasks.
        additional: The scores on each additional benchmark, by its name.
    """

    scores: Table
    contrasts: Sequence[Contrast]
    verdicts: list[Verdict]
    sensitivity: Table | None = None
    pairs: Table | None = None
    tasks: Table | None = None
    additional: Mapping[str, Table] = field(default_factory=dict)


def results_of(collected: Collected, evaluated: Evaluated | None = None) -> Results:
    """The results of a run directory on one benchmark: the headline unless another is given."""
    study, found = collected.study, evaluated or collected.headline
    methods = methods_of(collected)
    views = {method: study if method == BASE else study.for_method(method) for method in methods}
    return Results(
        labels={m: f"{study.model.name} (base)" if m == BASE else f"+ {study.label(m)}" for m in methods},
        answers=found.reported,
        records=found.records,
        benchmark=found.benchmark,
        title=found.benchmark.title(found.records, study.data.benchmark),
        scorer=found.scorer,
        report=study.report,
        train=collected.train.records,
        modes={} if evaluated else {method: MODES[view.prompt.evaluation].letter for method, view in views.items()},
        planned={method: study.seeds for method in study.methods},
        cells=collected.cells,
    )


def build_tables(results: Results, *, with_published: bool = False) -> Tables:
    """Every table of a report.

    Args:
        results: What was answered.
        with_published: Show published rows below ours, which are VSI-Bench's.
    """
    settings, pairs, benchmark = results.report, results.pairs, results.benchmark
    found = compare(results.answers, pairs, benchmark=benchmark, alpha=settings.alpha, margin=settings.margin)
    rows, footnotes = _rows(results), results.footnotes
    if (with_published or settings.with_published) and isinstance(benchmark, VSIBench):
        rows += published_rows()
        footnotes = (*footnotes, published_footnote(results.records))
    called = results.short_labels
    tables = Tables(
        _scores_table(results, rows, found, footnotes=footnotes),
        found,
        [],
    )
    if len(benchmark.scorers) > 1:
        by_all = scored_by_all(results.answers, results.records, benchmark)
        sensitivity = sensitivity_table(
            by_all, results.labels, benchmark=benchmark, title=results.title, headline=results.scorer
        )
        tables = replace(tables, sensitivity=sensitivity)
    if not pairs:
        return tables
    return replace(
        tables,
        verdicts=verdicts(found, results.cells, called, alpha=settings.alpha, answers=results.answers),
        pairs=pairs_table(found, called, title=results.title, alpha=settings.alpha),
        tasks=tasks_table(found, called, title=results.title, tasks=results.tasks, alpha=settings.alpha)
        if results.tasks
        else None,
    )


def additional_table(results: Results) -> Table:
    """The scores on an additional benchmark, with differences from the base model that are described and not tested."""
    pairs = [(a, b) for a, b in default_pairs(list(results.labels)) if a == BASE and {a, b} <= set(results.present)]
    found = compare(results.answers, pairs, benchmark=results.benchmark, alpha=results.report.alpha, resamples=0)
    described = [replace(c, verdict="undecided", p_holm=math.nan, note="") for c in found]
    return _scores_table(results, _rows(results), described, tested=False)


def _scores_table(
    results: Results,
    rows: Sequence[ScoreRow],
    contrasts: Sequence[Contrast],
    *,
    footnotes: Sequence[str] = (),
    tested: bool = True,
) -> Table:
    return scores_table(
        rows,
        contrasts,
        benchmark=results.benchmark,
        title=results.title,
        tasks=results.tasks,
        scorer=results.scorer,
        alpha=results.report.alpha,
        footnotes=footnotes,
        tested=tested,
    )


def _rows(results: Results) -> list[ScoreRow]:
    return [_method_row(results, method) for method in results.labels] + _baseline_rows(results)


def _method_row(results: Results, method: str) -> ScoreRow:
    mine = results.answers[results.answers["method"] == method]
    return ScoreRow(
        method,
        results.labels[method],
        "base" if method == BASE else "method",
        [_run_score(group, results.benchmark) for _, group in mine.groupby("seed", sort=True)],
        results.modes.get(method, ""),
        results.planned.get(method, 1),
        missing_seeds(results.cells, method),
    )


def _run_score(answers: pd.DataFrame, benchmark: Benchmark) -> dict[str, float]:
    shares = {"unparsable": 100 * (1 - float(answers["parsed"].mean()))}
    if "truncated" in answers:
        shares["truncated"] = 100 * float(answers["truncated"].astype(bool).mean())
    return run_score(benchmark.figures(answers["type"].tolist(), answers["score"].tolist()), **shares)


def _baseline_rows(results: Results) -> list[ScoreRow]:
    """Answers that need no video: a reader sees at once what a score is worth."""
    rows = []
    for name, label, answers in results.benchmark.baselines(results.records, results.train):
        scored = results.benchmark.question_scores(results.records, answers, results.scorer)
        rows.append(ScoreRow(name, label, "baseline", [_run_score(pd.DataFrame(scored), results.benchmark)]))
    return rows
