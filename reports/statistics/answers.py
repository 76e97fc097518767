"""Scored answers of several methods as one long table: checked, then laid out for paired comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import pandas as pd

from harness.errors import UserError, first_few, unknown_name
from reports.statistics.repeats import distinct_runs

COLUMNS = ("method", "model", "seed", "question", "type", "cluster", "score")
"""Columns of the input: one row for one answer, ``score`` in [0, 1]; the others as in
:class:`harness.api.benchmark.QuestionScore`."""


@dataclass(frozen=True)
class Answers:
    """Checked answers of one model: a question x (method, seed) table, and each question's type and cluster.

    ``rows`` is the long table, ``distinct`` the number of each method's runs that are not another's answers again.
    """

    model: str
    scores: pd.DataFrame
    questions: pd.DataFrame
    rows: pd.DataFrame
    distinct: Mapping[str, int]


def same_answers(answers: Answers, a: str, b: str) -> bool:
    """Whether all runs of two methods gave the same answer to every question; by their scores, where that is all."""
    given = "answer" if "answer" in answers.rows else "score"
    of_both = answers.rows[answers.rows["method"].isin([a, b])]
    return bool((of_both.groupby("question", observed=True)[given].nunique() == 1).all())


def select(answers: Answers, a: str, b: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answers of two methods, question x (method, seed), and their questions (type, cluster).

    Raises:
        UserError: A name has no answers, or the runs did not all answer the same questions.
    """
    known = list(answers.scores.columns.unique("method"))
    for name in (a, b):
        if name not in known:
            raise unknown_name(f"pair {a}, {b}", name, known)
    wide = answers.scores[list(dict.fromkeys([a, b]))].dropna(how="all")
    gaps = wide.isna()
    if gaps.to_numpy().any():
        lines = []
        for run in gaps.columns:
            lacking = [str(q) for q in gaps.index[gaps[run]]]
            if lacking:
                method, seed = cast(tuple[str, int], run)
                lines.append(f"  {method}, seed {seed}, lacks {len(lacking)}: {first_few(lacking)}")
        raise UserError(
            f"{a} and {b} answered different questions; evaluate both on the same benchmark files:\n" + "\n".join(lines)
        )
    return wide, answers.questions.loc[wide.index]


def lay_out(frame: pd.DataFrame) -> Answers:
    """Check the long table (columns :data:`COLUMNS`) and lay it out.

    Raises:
        UserError: A column or value is missing, there are several models, a score is NaN or outside [0, 1], a run
            answers a question twice, or a question has two clusters or types.
    """
    _refuse_malformed(frame)
    questions = frame[["question", "type", "cluster"]].drop_duplicates().set_index("question").sort_index()
    twice = questions.index[questions.index.duplicated()]
    if len(twice):
        raise UserError(f"question {twice[0]!r} has two clusters or two types: {_show(questions.loc[[twice[0]]])}")
    scores = frame.pivot(index="question", columns=["method", "seed"], values="score").sort_index(axis=1)
    return Answers(str(frame["model"].iloc[0]), scores, questions, frame, distinct_runs(frame))


def _refuse_malformed(frame: pd.DataFrame) -> None:
    missing = [c for c in COLUMNS if c not in frame]
    if missing:
        raise UserError(f"answers lack the column(s) {', '.join(missing)}; needed: {', '.join(COLUMNS)}")
    if frame.empty:
        raise UserError("no answers to compare: the table has no rows")
    models = frame["model"].dropna().unique()
    if len(models) > 1:
        raise UserError(f"answers of several models ({', '.join(map(str, models))}): compare one at a time")
    keys = [c for c in COLUMNS if c != "score"]
    score = pd.to_numeric(frame["score"], errors="coerce")
    checks = {
        "a missing value": frame[keys].isna().any(axis=1),
        "a score that is NaN (an answer without a score counts as 0, write 0)": score.isna(),
        "a score outside [0, 1]": ~score.between(0, 1),
        "a second answer of the same run to the same question": frame.duplicated(["method", "seed", "question"]),
    }
    for what, bad in checks.items():
        if bad.any():
            more = f" ({int(bad.sum())} rows in all)" if bad.sum() > 1 else ""
            raise UserError(f"answers contain {what}: {_show(frame.loc[bad].head(1))}{more}")


def _show(rows: pd.DataFrame) -> str:
    return "; ".join(
        ", ".join(f"{key} {value!r}" for key, value in row.items()) for row in rows.to_dict(orient="records")
    )
