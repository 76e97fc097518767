"""Paired comparison of two methods on one benchmark: nine contrasts, two claims, two families.

Every question is answered by both sides, so the unit of analysis is the per-question difference.
Questions about one room share its video and are not independent, so standard errors are clustered
by room (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640, advises both). Training
again with another seed is a second source of chance, so a claim about *methods* adds the variance
between runs; a claim about *checkpoints* does not, and says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from harness.data.records import QUESTION_TYPES, TASKS, task_of
from harness.errors import UserError
from reports.answers import Answers, by_model, select

BASE = "base"
"""The method name of the untrained model: one run, without training chance."""

OVERALL = "overall"
"""The task name of the macro score: the plain mean of the tasks."""

SEEDS_FOR_METHODS = 3
"""Fewest seeds a side that allow a claim about methods instead of checkpoints."""

Array = NDArray[np.float64]
Claim = Literal["checkpoints", "methods"]
Family = Literal["confirmatory", "exploratory"]
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Contrast:
    """One difference, B minus A, in points (0 to 100), with its uncertainty.

    Attributes:
        a: The method subtracted.
        b: The method it is subtracted from.
        task: One of the eight tasks, or ``overall`` for their mean.
        claim: ``checkpoints``: these trained models, on rooms like these. ``methods``: the methods,
            trained again and asked about new rooms.
        difference: Mean of B minus mean of A, over seeds and questions.
        standard_error: Its standard error; NaN when it cannot be estimated (``note`` says why).
        df: Degrees of freedom of the t distribution.
        ci_low: Lower end of the interval at level 1 - alpha, not corrected for multiplicity.
        ci_high: Upper end.
        p: Two-sided p-value.
        p_holm: ``p`` after Holm's correction inside the family.
        family: ``confirmatory`` for overall, ``exploratory`` for the tasks.
        n_questions: Questions that enter this contrast.
        n_rooms: Rooms (clusters) that enter it.
        seeds_a: Runs of A.
        seeds_b: Runs of B.
        verdict: ``better`` or ``worse`` (B than A) where ``p_holm`` is below alpha, else ``undecided``.
        model: The base model that both were trained from.
        note: Why there is no test, or why it is not the usual one; empty otherwise.
    """

    a: str
    b: str
    task: str
    claim: Claim
    difference: float
    standard_error: float
    df: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    family: Family
    n_questions: int
    n_rooms: int
    seeds_a: int
    seeds_b: int
    verdict: Verdict = "undecided"
    model: str = ""
    note: str = ""


def compare_pair(frame: pd.DataFrame, a: str, b: str, *, alpha: float = 0.05) -> list[Contrast]:
    """Compare two methods on every task present and on their mean.

    One ordinary least squares of the per-question differences (each side first averaged over its
    seeds) on indicators of the raw question types gives all contrasts and their room-clustered
    covariance. With at least three seeds on both sides (``base`` needs one: it is not trained) the
    variance between runs is added and the degrees of freedom are Welch-Satterthwaite's.

    Args:
        frame: Answers of one model, with columns :data:`reports.answers.COLUMNS`, in any order.
        a: The method to subtract.
        b: The method it is subtracted from.
        alpha: Two-sided level of interval and verdict.

    Returns:
        ``overall`` first, then the tasks in VSI-Bench's order; absent tasks give no contrast.
        Holm's correction covers the tasks of this pair; ``overall`` is alone in its family.

    Raises:
        UserError: The frame lacks columns or rows, has missing, impossible or repeated scores,
            or the two methods (or two seeds of one) answered different questions.
    """
    models = by_model(frame)
    if len(models) > 1:
        raise UserError(f"answers of several models ({', '.join(m.model for m in models)}): compare one at a time")
    return _judge(_contrasts(models[0], a, b, alpha), alpha)


def compare_all(
    frame: pd.DataFrame, pairs: Sequence[tuple[str, str]] | None = None, *, alpha: float = 0.05
) -> pd.DataFrame:
    """Compare every declared pair, correcting ``overall`` over all of them (Holm).

    Args:
        frame: As for :func:`compare_pair`; several models are compared each with itself, in one family.
        pairs: (A, B) names; by default :func:`default_pairs` of the methods in alphabetical order.
        alpha: Two-sided level.

    Returns:
        One row for each :class:`Contrast`, its fields as columns, in the order of the pairs.

    Raises:
        UserError: As :func:`compare_pair`; or a pair names a method without answers.
    """
    found: list[Contrast] = []
    for answers in by_model(frame):
        names = sorted(answers.scores.columns.unique("method"))
        for a, b in default_pairs(names) if pairs is None else pairs:
            found += _contrasts(answers, a, b, alpha)
    return pd.DataFrame([asdict(c) for c in _judge(found, alpha)], columns=[f.name for f in fields(Contrast)])


def default_pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Each method against the base model, then all pairs of methods, in the order given."""
    trained = [m for m in methods if m != BASE]
    against_base = [(BASE, m) for m in trained] if BASE in methods else []
    return against_base + list(itertools.combinations(trained, 2))


def run_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Score of every run: rows (model, method, seed), columns the tasks present and ``overall``, in points.

    The three direction levels are averaged without weights first; ``overall`` is the plain mean of
    the tasks present, as VSI-Bench's official evaluation does it.

    Raises:
        UserError: As :func:`compare_pair`.
    """
    rows: dict[tuple[str, str, int], dict[str, float]] = {}
    for answers in by_model(frame):
        for method in answers.scores.columns.unique("method"):
            wide, questions = select(answers, method, method)
            types, onehot = _indicators(questions)
            names, weights = _contrast_matrix(types)
            values = weights @ _type_means(onehot, _points(wide, method))
            for seed, column in zip(wide[method].columns, values.T, strict=True):
                rows[answers.model, method, int(seed)] = dict(zip(names, column.tolist(), strict=True))
    scores = pd.DataFrame.from_dict(rows, orient="index")
    scores.index = pd.MultiIndex.from_tuples(list(rows), names=["model", "method", "seed"])
    return scores[[name for name in (*TASKS, OVERALL) if name in scores]]


def _contrasts(answers: Answers, a: str, b: str, alpha: float) -> list[Contrast]:
    """All contrasts of one pair, not yet corrected or judged."""
    wide, questions = select(answers, a, b)
    types, onehot = _indicators(questions)
    names, weights = _contrast_matrix(types)
    runs: dict[str, Array] = {side: _points(wide, side) for side in (a, b)}
    rooms = pd.factorize(questions["room"], sort=True)[0]
    difference, room_variance = _clustered(runs[b].mean(1) - runs[a].mean(1), onehot, weights, rooms)
    claim: Claim = (
        "methods" if all(side == BASE or runs[side].shape[1] >= SEEDS_FOR_METHODS for side in (a, b)) else "checkpoints"
    )
    seed_variances = []
    for side in (a, b) if claim == "methods" else ():
        k = runs[side].shape[1]
        if side != BASE:
            per_run = weights @ _type_means(onehot, runs[side])
            seed_variances.append((per_run.var(axis=1, ddof=1) / k, k - 1))

    rooms_of_type = [len(np.unique(rooms[onehot[:, j]])) for j in range(len(types))]
    found = []
    for i, task in enumerate(names):
        used = onehot[:, weights[i] > 0].any(1)
        n_rooms = len(np.unique(rooms[used]))
        lonely = [t for j, t in enumerate(types) if weights[i, j] > 0 and rooms_of_type[j] < 2]
        parts = [(float(room_variance[i]), n_rooms - 1)]
        parts += [(float(variance[i]), df) for variance, df in seed_variances]
        found.append(
            Contrast(
                a=a,
                b=b,
                task=task,
                claim=claim,
                difference=float(difference[i]),
                p_holm=math.nan,
                family="confirmatory" if task == OVERALL else "exploratory",
                n_questions=int(used.sum()),
                n_rooms=n_rooms,
                seeds_a=runs[a].shape[1],
                seeds_b=runs[b].shape[1],
                model=answers.model,
                **_infer(float(difference[i]), parts, n_rooms, lonely, alpha),
            )
        )
    return found


def _clustered(
    difference: Array, onehot: NDArray[np.bool_], weights: Array, rooms: NDArray[np.intp]
) -> tuple[Array, Array]:
    """Contrasts (c,) of per-question differences (n,) and their room-clustered variances (c,).

    Values within 1e-10 points of zero are rounding residue and returned as exact zeros.
    """
    model = sm.OLS(difference, onehot.astype(float))
    if rooms.max() < 1 or len(difference) <= onehot.shape[1]:
        effect: Array = weights @ model.fit().params
        return _round(effect), np.full(len(weights), math.nan)
    # Design matrices, not a formula: patsy looks names such as C up in the caller's frame.
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": rooms}, use_t=True)
    test = fit.t_test(weights)
    error = _round(np.nan_to_num(np.ravel(test.sd)))  # the square root of a variance of -1e-34 is NaN
    return _round(np.ravel(test.effect)), error**2


def _round(points: Array) -> Array:
    rounded: Array = np.round(points, 10) + 0.0  # turns -0.0 into 0.0
    return rounded


def _infer(
    difference: float, parts: list[tuple[float, int]], n_rooms: int, lonely: list[str], alpha: float
) -> dict[str, Any]:
    """Interval and p-value from independent variance components (variance, df), rooms first.

    The variances add; the degrees of freedom are Welch-Satterthwaite's (Satterthwaite 1946, eq. 17).
    """
    total = sum(variance for variance, _ in parts)
    if lonely or math.isnan(total):
        where = ", ".join(lonely) or "all questions"
        keys = ("standard_error", "df", "ci_low", "ci_high", "p")
        return dict.fromkeys(keys, math.nan) | {"note": f"no test: questions of one room only ({where})"}
    if total == 0:
        # All rooms agree exactly: t has no scale, the sign-flip test over rooms still has a p-value.
        p = 1.0 if difference == 0 else 2.0 ** (1 - n_rooms)
        note = "" if difference == 0 else "same difference in every room: p from the sign test over rooms"
        interval = {"ci_low": difference, "ci_high": difference}
        return {"standard_error": 0.0, "df": float(n_rooms - 1), "p": p, "note": note} | interval
    df = total**2 / sum(variance**2 / df for variance, df in parts)
    error = math.sqrt(total)
    half = float(stats.t.ppf(1 - alpha / 2, df)) * error
    return {
        "standard_error": error,
        "df": df,
        "ci_low": difference - half,
        "ci_high": difference + half,
        "p": float(2 * stats.t.sf(abs(difference) / error, df)),
        "note": "",
    }


def _judge(contrasts: list[Contrast], alpha: float) -> list[Contrast]:
    """Correct by Holm inside each family and give the verdicts.

    One family holds ``overall`` of all pairs; each pair's tasks are a family of their own.
    A contrast without a test counts as p = 1, so that it never makes the others easier.
    """
    families: dict[tuple[str, ...], list[int]] = {}
    for i, c in enumerate(contrasts):
        families.setdefault(() if c.task == OVERALL else (c.model, c.a, c.b), []).append(i)
    judged = list(contrasts)
    for members in families.values():
        raw = [1.0 if math.isnan(contrasts[i].p) else contrasts[i].p for i in members]
        for i, corrected in zip(members, _holm(raw), strict=True):
            c = contrasts[i]
            p_holm = math.nan if math.isnan(c.p) else float(corrected)
            verdict: Verdict = "undecided"
            if p_holm < alpha:
                verdict = "better" if c.difference > 0 else "worse"
            judged[i] = replace(c, p_holm=p_holm, verdict=verdict)
    return judged


def _holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979).

    As ``statsmodels...multipletests``, which collects all garbage at each call: 0.1 s a family here.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(c) for c in corrected]


def _contrast_matrix(types: Sequence[str]) -> tuple[list[str], Array]:
    """Names and (1 + tasks, types) weights: the mean over tasks, then each task over its raw types."""
    tasks = [t for t in TASKS if t in {task_of(q) for q in types}]
    member = np.array([[task_of(q) == task for q in types] for task in tasks], dtype=float)
    per_task = member / member.sum(1, keepdims=True)
    return [OVERALL, *tasks], np.vstack([per_task.mean(0), per_task])


def _indicators(questions: pd.DataFrame) -> tuple[list[str], NDArray[np.bool_]]:
    """The raw types present (t,), in VSI-Bench's order, and their (n, t) indicators."""
    kinds = questions["type"].to_numpy(object)
    types = [t for t in QUESTION_TYPES if t in set(kinds)]
    return types, np.stack([kinds == t for t in types], axis=1)


def _points(wide: pd.DataFrame, method: str) -> Array:
    """Scores (n, k) of the k runs of a method, 0 to 100."""
    return 100 * np.asarray(wide[method], dtype=np.float64)


def _type_means(onehot: NDArray[np.bool_], scores: Array) -> Array:
    """Means (t, k) of (n, k) scores over the questions of each raw type."""
    return onehot.T.astype(float) @ scores / onehot.sum(0)[:, None]
