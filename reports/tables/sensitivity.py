"""How much of a score is the scorer: the same raw answers by every rule, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.config.study import BASE
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from reports.benchmarks.vsibench import VSIBench
from reports.tables.table import Cell, Column, Row, Table


def scored_by_all(answers: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """The benchmark's figures of every run by every scorer.

    Args:
        answers: One row an answer: method, seed, question, answer (raw text), and read where that is what is scored.
        records: The benchmark's.

    Returns:
        One row a method, seed and scorer: method, seed, scorer, overall, numeric_mean, choice_mean (points),
        unparsable (percent of questions).
    """
    if "read" in answers:
        answers = answers.assign(answer=answers["read"])
    by_key = {record.key: record for record in records}
    # The same short answer to the same question comes from many runs: each is scored once.
    unique = answers[["question", "answer"]].drop_duplicates()
    asked = [by_key[str(question)] for question in unique["question"]]
    types = unique["question"].map({key: record.question_type for key, record in by_key.items()})
    rows = []
    for name, scorer in SCORERS.items():
        items = [scorer.score(str(text), record) for text, record in zip(unique["answer"], asked, strict=True)]
        scored = unique.assign(
            question_type=types, score=[item.score for item in items], parsed=[item.parsed for item in items]
        )
        runs = answers[["method", "seed", "question", "answer"]].merge(scored, on=["question", "answer"])
        for (method, seed), run in runs.groupby(["method", "seed"], sort=True):
            figures = VSIBench().aggregate(run)
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "scorer": name,
                    "overall": figures["overall"],
                    "numeric_mean": figures["numeric_mean"],
                    "choice_mean": figures["choice_mean"],
                    "unparsable": 100 * (1 - float(run["parsed"].mean())),
                }
            )
    return pd.DataFrame(rows)


def sensitivity_table(
    scores: pd.DataFrame,
    labels: Mapping[str, str],
    *,
    benchmark: str = "VSI-Bench",
    headline: str = "official",
) -> Table:
    """One row a method, one column a scorer, means over seeds.

    Args:
        scores: As :func:`scored_by_all` gives them.
        labels: What to call the methods, in the order to show.
        benchmark: Name for the title.
        headline: The scorer behind the main table.
    """
    figures = {"overall": "Avg", "numeric_mean": "Numeric", "choice_mean": "Choice", "unparsable": "Unpars. %"}
    means: dict[Any, Any] = (
        scores.groupby(["method", "scorer"], sort=False)[list(figures)].mean().to_dict(orient="index")
    )
    present = [method for method in labels if (method, headline) in means]
    columns = [Column("Method", ("method",), align="left")]
    for key, head in figures.items():
        columns += [Column(f"{head}\n{name}", (f"{key}_{name}",), "{:.1f}") for name in SCORERS]
    columns.append(Column("Largest\ngap in Avg", ("gap",), "{:.1f}"))
    body = []
    for method in present:
        averages = [means[method, name]["overall"] for name in SCORERS]
        cells = [Cell((means[method, name][key],)) for key in figures for name in SCORERS]
        body.append(Row((Cell((method,), labels[method]), *cells, Cell((max(averages) - min(averages),)))))
    trained = {m: {name: means[m, name]["overall"] for name in SCORERS} for m in present if m != BASE}
    caption = [
        "The same raw answers by three rules, means over seeds.",
        f"{'; '.join(f'{name}: {scorer.summary}' for name, scorer in SCORERS.items())}.",
        f"All other tables are by “{headline}”.",
        _ranking(trained, labels),
    ]
    return Table(
        f"Scores on {benchmark} by scorer",
        tuple(columns),
        tuple(body),
        caption=" ".join(part for part in caption if part),
    )


def _ranking(averages: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> str:
    """Whether the rules agree on the order of the trained methods; description, not a test."""
    if len(averages) < 2:
        return ""
    orders = {}
    for name in SCORERS:
        scores = {method: of[name] for method, of in averages.items()}
        orders[name] = sorted(scores, key=scores.__getitem__, reverse=True)
    if len({tuple(order) for order in orders.values()}) == 1:
        return "All rules rank the methods alike."
    ranked = "; ".join(f"{name}: {', '.join(labels[m].removeprefix('+ ') for m in o)}" for name, o in orders.items())
    return f"The rules rank the methods differently, which no test takes into account ({ranked})."
