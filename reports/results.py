"""What a report shows: answers to one benchmark, read from a run directory or from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from harness.api.benchmark import Benchmark, Task
from harness.config.study import BASE, ReportSection
from harness.config.variants import variants_by_method
from harness.study.declared import Declaration
from harness.study.scored import Points
from harness.vsibench.prompts import MODES
from harness.vsibench.records import Record
from reports.collect import CellResult, Collected, Evaluated
from reports.looks import Look, look_of, tests_of
from reports.statistics import MARGIN, Contrast, compare, default_pairs

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
        points: The figures by every scorer, by (method, seed).
        baselines: Answers that need no video: name, label, and figures by scorer.
        modes: Evaluation prompt by method, where it is known.
        planned: Seeds asked for, by method.
        variants: Groups of methods whose runs of equal seeds are compared as pairs.
        cells: Of a run directory, finished or not.
        footnotes: Remarks on the scores as a whole.
        look: The declared look that this is; ``report`` has its level.
        declared: What was declared, and when; None for answers made elsewhere.
        rule: Which checkpoint of a run these answers are of, in words, where it is not the last.
    """

    labels: Mapping[str, str]
    answers: pd.DataFrame
    records: Sequence[Record]
    benchmark: Benchmark
    title: str
    scorer: str
    report: ReportSection
    points: Mapping[tuple[str, int], Mapping[str, Points]] = field(default_factory=dict)
    baselines: Sequence[tuple[str, str, Mapping[str, Points]]] = ()
    modes: Mapping[str, str] = field(default_factory=dict)
    planned: Mapping[str, int] = field(default_factory=dict)
    variants: Sequence[tuple[str, ...]] = ()
    cells: Sequence[CellResult] = ()
    footnotes: tuple[str, ...] = ()
    declared: Declaration | None = None
    rule: str = ""
    look: Look | None = None

    def told(self, key: str) -> str:
        """When a quantity was declared or amended, as it follows its value; empty for answers made elsewhere."""
        return "" if self.declared is None else f", {self.declared.words(key)}"

    @property
    def margin(self) -> float:
        """Points from which on two methods are not equivalent."""
        return MARGIN if self.report.margin is None else self.report.margin

    @property
    def present(self) -> list[str]:
        """Methods with answers."""
        answered = set(self.answers["method"].unique())
        return [method for method in self.labels if method in answered]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs to test whose methods both have answers."""
        asked = self.report.pairs or default_pairs(list(self.labels))
        return [(a, b) for a, b in asked if a in self.present and b in self.present]

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


def results_of(collected: Collected, evaluated: Evaluated | None = None) -> Results:
    """The results of a run directory on one benchmark: the headline unless another is given."""
    study, found, methods = collected.study, evaluated or collected.headline, collected.description.methods
    reported = found.reported
    runs = reported[["method", "seed"]].drop_duplicates().itertuples(index=False)
    return Results(
        labels={m: f"{study.model.name} (base)" if m == BASE else f"+ {one.label}" for m, one in methods.items()},
        answers=reported,
        records=() if evaluated else collected.test.records,
        benchmark=found.benchmark,
        title=found.benchmark.described.title,
        scorer=found.scorer,
        report=tests_of(collected),
        look=look_of(collected),
        points={(method, seed): found.points_of(method, seed) for method, seed in runs},
        baselines=[(n, one.label, one.points) for n, one in found.benchmark.described.baselines.items()],
        modes={} if evaluated else {method: MODES[one.mode].letter for method, one in methods.items()},
        planned={method: collected.seeds for method in study.methods},
        variants=variants_by_method(study.methods) if study.report.paired_seeds else (),
        cells=collected.cells,
        declared=collected.declared,
        rule="" if study.evaluation.checkpoint == "last" else study.evaluation.rule,
    )


def compare_results(
    results: Results,
    answers: pd.DataFrame | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    checks: bool = True,
) -> list[Contrast]:
    """Every difference that a report tests.

    Args:
        results: What was answered.
        answers: Others in place of the reported ones: some runs, or scores by another scorer.
        pairs: Others than the declared ones.
        checks: Whether to check the tests by resampling.
    """
    more = {} if checks else {"resamples": 0}
    return compare(
        results.answers if answers is None else answers,
        results.pairs if pairs is None else pairs,
        benchmark=results.benchmark,
        alpha=results.report.alpha,
        margin=results.margin,
        variants=results.variants,
        **more,
    )


def missing_seeds(cells: Sequence[CellResult], method: str) -> str:
    """Which of a method's seeds did not finish, and why; empty if all did."""
    missing = [cell for cell in cells if cell.method == method and cell.state != "done"]
    return "; ".join(f"seed {cell.seed} {cell.state}: {cell.reason or 'not run yet'}" for cell in missing)
