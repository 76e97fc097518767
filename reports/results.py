"""What the tables are made of, whether a run directory or files of answers hold it, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.config.study import BASE, ReportSection
from harness.vsibench.baselines import constant_answers, text_prior_answers
from harness.vsibench.prompts import MODES
from harness.vsibench.records import Record
from harness.vsibench.scoring import score_answers
from reports.benchmarks.vsibench import VSIBench
from reports.collect import CellResult, Collected, methods_of
from reports.statistics.contrast import from_frame, to_frame
from reports.statistics.paired import compare_all, default_pairs
from reports.tables import (
    RunScore,
    ScoreRow,
    Table,
    Verdict,
    pairs_table,
    published_footnote,
    published_rows,
    scored_by_all,
    scores_table,
    sensitivity_table,
    tasks_table,
    verdicts,
)


@dataclass(frozen=True)
class Results:
    """Answers to one benchmark by several methods.

    Attributes:
        labels: What to call each method, in the order of the tables; ``base`` is the untrained model.
        answers: One row an answer of the reported checkpoints: method, model, seed, question, type, room, score
            (0 to 1), parsed, answer (raw text), and truncated where it is known.
        records: The benchmark's records that were asked.
        train: Training records, for the baselines; None when there are none.
        benchmark: Its name in titles.
        scorer: The scorer behind ``score``.
        modes: Evaluation prompt by method, where it is known.
        report: Margin, level and pairs.
        planned: Seeds asked for, by method.
        cells: Of a run directory, finished or not.
        footnotes: Remarks on the scores as a whole.
    """

    labels: Mapping[str, str]
    answers: pd.DataFrame
    records: Sequence[Record]
    benchmark: str
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


@dataclass(frozen=True)
class Tables:
    """Every table of a report, and the contrasts behind them; pairs and tasks need two methods.

    ``beside`` holds one table for each benchmark beside the headline.
    """

    scores: Table
    sensitivity: Table
    contrasts: pd.DataFrame
    verdicts: list[Verdict]
    pairs: Table | None = None
    tasks: Table | None = None
    beside: tuple[Table, ...] = ()


def results_of(collected: Collected) -> Results:
    """The results of a run directory."""
    study = collected.study
    source = study.data.benchmark
    return Results(
        labels={m: f"{study.model.name} (base)" if m == BASE else f"+ {study.label(m)}" for m in methods_of(collected)},
        answers=collected.reported,
        records=collected.benchmark.records,
        benchmark=f"the embedded world ({source})" if source.startswith("world:") else "VSI-Bench",
        scorer=study.evaluation.scorer,
        report=study.report,
        train=collected.train.records,
        modes={
            method: MODES[(study if method == BASE else study.for_method(method)).prompt.evaluation].letter
            for method in methods_of(collected)
        },
        planned={method: study.seeds for method in study.methods},
        cells=collected.cells,
    )


def build_tables(results: Results, *, with_published: bool = False) -> Tables:
    """Every table of a report.

    Args:
        results: What was answered.
        with_published: Show published rows below ours.
    """
    settings, pairs = results.report, results.pairs
    contrasts = to_frame([])
    if pairs:
        contrasts = compare_all(results.answers, pairs, alpha=settings.alpha, margin=settings.margin)
    rows = [_method_row(results, method) for method in results.labels] + _baseline_rows(results)
    footnotes = results.footnotes
    if with_published or settings.with_published:
        rows += published_rows()
        footnotes = (*footnotes, published_footnote(results.records))
    named: dict[str, Any] = {"benchmark": results.benchmark, "alpha": settings.alpha}
    found = from_frame(contrasts)
    scores = scores_table(rows, found, scorer=results.scorer, footnotes=footnotes, **named)
    sensitivity = sensitivity_table(
        scored_by_all(results.answers, results.records),
        results.labels,
        benchmark=results.benchmark,
        headline=results.scorer,
    )
    if not pairs:
        return Tables(scores, sensitivity, contrasts, [])
    called = results.short_labels
    return Tables(
        scores,
        sensitivity,
        contrasts,
        verdicts(found, results.cells, called, alpha=settings.alpha, answers=results.answers),
        pairs_table(found, called, **named),
        tasks_table(found, called, **named),
    )


def _method_row(results: Results, method: str) -> ScoreRow:
    mine = results.answers[results.answers["method"] == method]
    missing = [cell for cell in results.cells if cell.method == method and cell.state != "done"]
    return ScoreRow(
        method,
        results.labels[method],
        "base" if method == BASE else "method",
        [_run_score(group) for _, group in mine.groupby("seed", sort=True)],
        results.modes.get(method, ""),
        results.planned.get(method, 1),
        "; ".join(f"seed {cell.seed} {cell.state}: {cell.reason or 'not run yet'}" for cell in missing),
    )


def _run_score(answers: pd.DataFrame) -> RunScore:
    figures = VSIBench().aggregate(answers.rename(columns={"type": "question_type"}))
    return RunScore(
        figures["tasks"],
        100 * (1 - float(answers["parsed"].mean())),
        100 * float(answers["truncated"].astype(bool).mean()) if "truncated" in answers else float("nan"),
    )


def _baseline_rows(results: Results) -> list[ScoreRow]:
    """Answers that need no video: a reader sees at once what a score is worth."""
    test = results.records
    if results.train is None:
        label = "Constant answer, best on this benchmark"
        found = [("constant", label, constant_answers(test, test))]
    else:
        found = [
            ("constant", "Constant answer", constant_answers(results.train, test)),
            ("text-prior", "Text only, no video", text_prior_answers(results.train, test)),
        ]
    rows = []
    for name, label, answers in found:
        scored = score_answers(test, answers, [results.scorer])
        rows.append(ScoreRow(name, label, "baseline", [_run_score(scored.rename(columns={"question_type": "type"}))]))
    return rows
