"""How much scores depend on the scorer: the same raw answers scored by every rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.config.study import BASE
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from reports.benchmarks.vsibench import VSIBench
from reports.tables.table import Cell, Column, Row, Table
from reports.text import sentences


def scored_by_all(answers: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """The benchmark's figures of every run by every scorer.

    Args:
        answers: One row per answer: method, seed, question, answer (raw text), and read, the part that is scored, where
            it differs.
        records: The benchmark's.

    Returns:
        One row per method, seed and scorer: method, seed, scorer, overall, numeric_mean, choice_mean (points),
        unparsable (percent of questions).
    """
    if "read" in answers:
        answers = answers.assign(answer=answers["read"])
    by_key = {record.key: record for record in records}
    # Many runs give the same short answer to a question: each is scored once.
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
    benchmark: str,
    headline: str,
) -> Table:
    """One row per method, one column per scorer, means over seeds.

    Args:
        scores: As :func:`scored_by_all` returns them.
        labels: Display names of the methods, in display order.
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
    caption = sentences(
        f"The same raw answers scored by {len(SCORERS)} rules, means over seeds.",
        f"{'; '.join(f'{name}: {scorer.summary}' for name, scorer in SCORERS.items())}.",
        f"All other tables use “{headline}”.",
        _ranking(trained, labels),
    )
    return Table(f"Scores on {benchmark} by scorer", tuple(columns), tuple(body), caption)


def _ranking(averages: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> str:
    """Whether the rules agree on the order of the trained methods; descriptive, not a test."""
    if len(averages) < 2:
        return ""
    orders = {}
    for name in SCORERS:
        scores = {method: of[name] for method, of in averages.items()}
        orders[name] = sorted(scores, key=scores.__getitem__, reverse=True)
    if len({tuple(order) for order in orders.values()}) == 1:
        return "All rules rank the methods in the same order."
    ranked = "; ".join(f"{name}: {', '.join(labels[m].removeprefix('+ ') for m in o)}" for name, o in orders.items())
    return f"The rules rank the methods differently ({ranked}), which no test accounts for."
