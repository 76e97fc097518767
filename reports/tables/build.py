"""Every table of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.config.study import BASE
from reports.declared import amended_notes, declared_sentences
from reports.results import Results, compare_results
from reports.statistics import Contrast, compare
from reports.tables.compute import AgainstCompute
from reports.tables.holds import Holds
from reports.tables.looks import look_sentences
from reports.tables.pairs import pairs_table, tasks_table
from reports.tables.published import published_footnote, published_rows
from reports.tables.runs import Runs, collapse_notes, collapse_sentences, runs_of, runs_tables
from reports.tables.scores import ScoreRow, score_rows, scores_table
from reports.tables.sensitivity import sensitivity_tables
from reports.tables.table import Table
from reports.tables.verdicts import Verdict, common, said_once, verdicts


@dataclass(frozen=True)
class Tables:
    """Every table of a report, and the contrasts behind them.

    Attributes:
        scores: The main table.
        rows: What it shows.
        contrasts: Every difference that was tested.
        verdicts: What the differences in the overall score say.
        sensitivity: Scores and differences by every scorer; none where the benchmark has one scorer only.
        pairs: Differences in the overall score; None without two methods.
        tasks: Differences by task; None without two methods or without tasks.
        common: What a reader must know to judge the verdicts and what is not about one pair alone, a sentence each.
        additional: The scores on each additional benchmark, by its name.
        compute: Score against compute; None where it is not known.
        holds: Whether the verdicts hold on the additional benchmarks; None without any.
        runs: Every run's score, which collapsed, and what differences are without those; with their tables.
    """

    scores: Table
    rows: Sequence[ScoreRow]
    contrasts: Sequence[Contrast]
    verdicts: Sequence[Verdict]
    sensitivity: Sequence[Table]
    pairs: Table | None
    tasks: Table | None
    common: tuple[str, ...] = ()
    additional: Mapping[str, Table] = field(default_factory=dict)
    compute: AgainstCompute | None = None
    runs: Runs | None = None
    holds: Holds | None = None


def build_tables(results: Results, *, with_published: bool = False) -> Tables:
    """Every table of a report.

    Args:
        results: What was answered.
        with_published: Show published rows below ours, which are VSI-Bench's.
    """
    settings, benchmark = results.report, results.benchmark
    found, runs = compare_results(results), runs_of(results)
    rows, footnotes = score_rows(results), results.footnotes
    if (with_published or settings.with_published) and benchmark.published:
        rows += published_rows()
        footnotes = (*footnotes, published_footnote(results.records))
    sensitivity, scorers_say = sensitivity_tables(results, found)
    judged, alike = said_once(
        [
            replace(v, notes=(*v.notes, *collapse_notes(results, runs, v.a, v.b), *amended_notes(results, v.a, v.b)))
            for v in verdicts(results, found)
        ]
    )
    return Tables(
        scores_table(results, rows, found, footnotes=footnotes),
        rows,
        found,
        judged,
        sensitivity,
        pairs_table(results, found) if found else None,
        tasks_table(results, found) if found and results.tasks else None,
        (
            *look_sentences(results, found),
            *declared_sentences(results),
            *common(results, found),
            *alike,
            *collapse_sentences(results, runs, found),
            *scorers_say,
        )
        if found
        else (),
        runs=replace(runs, tables=runs_tables(results, runs)),
    )


def additional_table(results: Results) -> Table:
    """The scores on an additional benchmark, with differences from the base model that are described and not tested."""
    pairs = [(BASE, method) for method in results.present if method != BASE and BASE in results.present]
    found = compare(results.answers, pairs, benchmark=results.benchmark, alpha=results.report.alpha, resamples=0)
    described = [replace(c, verdict="undecided", p_holm=math.nan, note="") for c in found]
    return scores_table(results, score_rows(results), described, tested=False)
