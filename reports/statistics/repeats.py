"""Runs of one method that are one run, or nearly: they would make the variance between runs look small."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.errors import UserError
from reports.text import listed

NEARLY = 0.995
"""Share of equal answers, or scores, from which on two runs are said to be nearly the same."""


class Alike(NamedTuple):
    """The two runs of a method that are most alike.

    Attributes:
        seeds: Theirs.
        answers: Share of questions that they gave the same raw answer to.
        scores: Share of questions that they have the same score on.
        same: All seeds whose runs gave the same answers as another's, by group.
    """

    seeds: tuple[int, int]
    answers: float
    scores: float
    same: tuple[tuple[int, ...], ...]


def alike_runs(answers: pd.DataFrame) -> dict[str, Alike]:
    """By method with several seeds, how alike its runs are; columns method, seed, question, score, answer.

    Nothing where the raw answers are not known.
    """
    found: dict[str, Alike] = {}
    if "answer" not in answers:
        return found
    for method, rows in answers.groupby("method", sort=False, observed=True):
        if rows["seed"].nunique() < 2:
            continue
        given = rows.assign(answer=pd.factorize(rows["answer"])[0]).pivot(
            index="question", columns="seed", values=["answer", "score"]
        )
        pairs = [
            (
                (int(a), int(b)),
                float(np.mean(given["answer"][a] == given["answer"][b])),
                float(np.mean(given["score"][a] == given["score"][b])),
            )
            for a, b in itertools.combinations(given["answer"].columns, 2)
        ]
        groups: list[list[int]] = []
        for (a, b), same, _ in pairs:
            if same == 1:
                known = next((group for group in groups if a in group), None)
                if known is None:
                    groups.append([a, b])
                elif b not in known:
                    known.append(b)
        most = max(pairs, key=lambda pair: max(pair[1:]))
        found[str(method)] = Alike(*most, tuple(tuple(group) for group in groups))
    return found


def distinct_runs(answers: pd.DataFrame) -> dict[str, int]:
    """By method, the number of runs of which no two gave the same answer to every question."""
    numbers = answers.groupby("method", observed=True)["seed"].nunique()
    found = {str(method): int(n) for method, n in numbers.items()}
    for method, alike in alike_runs(answers).items():
        found[method] -= sum(len(group) - 1 for group in alike.same)
    return found


def refuse_repeats(answers: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """Refuse one run's answers under several seeds of a method.

    Raises:
        UserError: Two runs of one method gave the same answer to every question; both are named.
    """
    for method, alike in alike_runs(answers).items():
        for group in alike.same:
            seeds = listed([str(seed) for seed in group])
            raise UserError(
                f"{labels[method]}, seeds {seeds}: the same answer to every question. One run under several seeds says "
                "nothing about other runs; give each run once, the base model's greedy answers too"
            )


def repeat_notes(answers: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """That two runs of a method are the same or nearly, a sentence for each method that has a label."""
    found = []
    for method, alike in alike_runs(answers[answers["method"].isin(list(labels))]).items():
        label = labels[method]
        if alike.same:
            groups = listed([listed([str(seed) for seed in group]) for group in alike.same])
            found.append(
                f"The {label} runs of seeds {groups} gave the same answer to every question and count as one run."
            )
        elif max(alike.answers, alike.scores) >= NEARLY:
            what, share = ("answer", alike.answers) if alike.answers >= NEARLY else ("score", alike.scores)
            shown = "every question" if share == 1 else f"{100 * share:.1f}% of the questions"
            found.append(
                f"The {label} runs of seeds {alike.seeds[0]} and {alike.seeds[1]} have the same {what} on {shown}: "
                "runs that are nearly one run understate how much others would vary."
            )
    return found
