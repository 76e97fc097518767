"""Paired comparison of two methods on one benchmark: the overall score and every task, two claims, two families.

Every question is answered by both sides, so the unit of analysis is the per-question difference.
Questions about one room share its video and are not independent, so standard errors are clustered
by room, or by what else the benchmark's questions share (Miller 2024, "Adding Error Bars to Evals",
arXiv 2411.00640, advises both). Training again with another seed is a second source of chance, so a
claim about *methods* adds the variance between runs; a claim about *checkpoints* does not, and says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray

from harness.api.benchmark import Benchmark
from harness.config.study import BASE
from reports.statistics.answers import Answers, lay_out, same_answers, select
from reports.statistics.contrast import MARGIN, OVERALL, SEEDS_FOR_METHODS, Claim, Contrast, checked, judge
from reports.statistics.inference import (
    FEW_CLUSTERS,
    Array,
    Asked,
    Clusters,
    Inference,
    Runs,
    better_interval,
    infer,
    probability_better,
    student,
)
from reports.statistics.resampling import RESAMPLES, SEED, ClusterSums, bootstrap_interval, cluster_sums, sign_flips
from reports.statistics.runs import RunVariances, design, run_scores


def compare(
    frame: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    benchmark: Benchmark,
    alpha: float = 0.05,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    variants: Sequence[Collection[str]] = (),
) -> list[Contrast]:
    """Compare pairs of methods on the overall score and on every task present.

    One ordinary least squares of the per-question differences (each side first averaged over its
    seeds) on indicators of the question types gives all contrasts of a pair and their clustered
    covariance. With at least three seeds on both sides (``base`` may have one: it is not trained) the
    variance between runs is added and the degrees of freedom are Welch-Satterthwaite's; it is estimated
    from the pair's own runs and from those of all trained methods, and the larger p-value counts. ``overall``
    is checked by sign flips and a bootstrap over clusters.

    Args:
        frame: Answers of one model, with columns :data:`reports.statistics.answers.COLUMNS`, in any order; with a
            column ``answer`` (raw text), methods all of whose answers are the same are found equivalent.
        pairs: (A, B) names: the method to subtract, and the one it is subtracted from.
        benchmark: Whose answers they are; it weighs the question types.
        alpha: Two-sided level of interval and verdict.
        margin: Points from which on two methods are not equivalent, declared before the results are seen.
        resamples: Draws of each cross-check; 0 for none.
        variants: Groups of methods that share starting weights and order of data at equal seeds, declared beforehand:
            within a group, runs of equal seeds are compared as pairs.

    Returns:
        For every pair ``overall`` first, then the tasks in the benchmark's order; absent tasks give no contrast.
        Holm's correction covers ``overall`` of all pairs, and apart from it all tasks of all pairs.

    Raises:
        UserError: The frame lacks columns or rows, has missing, impossible or repeated scores, is of several models,
            a pair names a method without answers, or two methods (or two seeds of one) answered different questions.
    """
    answers = lay_out(frame)
    study = RunVariances(answers, benchmark, variants)
    sides = [_Sides(answers, a, b, benchmark) for a, b in pairs]
    sizes = {True: len(pairs), False: sum(len(one.tasks) for one in sides)}
    asked = {of: Asked(alpha, margin, max(size, 1)) for of, size in sizes.items()}
    return judge([c for one in sides for c in _contrasts(one, study, asked[True], asked[False], resamples)], alpha)


def default_pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Each method against the base model, then all pairs of methods, in the order given."""
    trained = [m for m in methods if m != BASE]
    against_base = [(BASE, m) for m in trained] if BASE in methods else []
    return against_base + list(itertools.combinations(trained, 2))


class _Sides:
    """Two methods' answers to the same questions, laid out for every contrast of the pair.

    Attributes:
        tasks: The tasks present.
        onehot: Indicators of the question types, (n, t).
        weights: Of the type means in ``overall`` and the tasks, (1 + tasks, t).
        runs: Each side's scores in points, (n, runs).
        distinct: How many of them are not another's answers again.
        clusters: Each question's, (n,).
        per_question: Difference of the sides' means, (n,).
    """

    def __init__(self, answers: Answers, a: str, b: str, benchmark: Benchmark) -> None:
        self.a, self.b, self.model, self.word = a, b, answers.model, benchmark.cluster
        wide, questions = select(answers, a, b)
        self.types, self.onehot, self.tasks, self.weights = design(questions, benchmark)
        self.runs: dict[str, Array] = {side: 100 * np.asarray(wide[side], dtype=np.float64) for side in (a, b)}
        self.distinct = {side: answers.distinct[side] for side in (a, b)}
        self.seeds = {side: list(wide[side].columns) for side in (a, b)}
        self.per_run = {side: run_scores(runs, self.onehot, self.weights) for side, runs in self.runs.items()}
        self.clusters: NDArray[np.intp] = pd.factorize(questions["cluster"], sort=True)[0]
        self.per_question = _round(self.runs[b].mean(1) - self.runs[a].mean(1))
        self.same_answers = not self.per_question.any() and same_answers(answers, a, b)

    @property
    def claim(self) -> Claim:
        """What the runs allow; one run of the base model is enough: it is not trained."""
        enough = [
            n >= SEEDS_FOR_METHODS or (side == BASE and len(self.runs[side].T) == 1)
            for side, n in self.distinct.items()
        ]
        return "methods" if all(enough) else "checkpoints"

    @property
    def same_seeds(self) -> bool:
        """Whether both sides have the same seeds."""
        return self.seeds[self.a] == self.seeds[self.b]


def _contrasts(
    pair: _Sides, study: RunVariances, confirmatory: Asked, exploratory: Asked, resamples: int
) -> list[Contrast]:
    """All contrasts of one pair, not yet corrected or judged."""
    a, b, claim = pair.a, pair.b, pair.claim
    difference, variance = _clustered(pair.per_question, pair.onehot, pair.weights, pair.clusters)
    paired = claim == "methods" and pair.same_seeds and study.paired(a, b)
    found = []
    for i, task in enumerate((OVERALL, *pair.tasks)):
        used: NDArray[np.bool_] = np.asarray(pair.onehot[:, pair.weights[i] > 0].any(axis=1))
        asked = confirmatory if task == OVERALL else exploratory
        runs = (
            study.of(task, (a, b), [pair.per_run[side][i] for side in (a, b)], paired) if claim == "methods" else Runs()
        )
        sums = cluster_sums(pair.per_question, pair.onehot, pair.weights[i], pair.clusters)
        clusters = _clusters(sums, float(variance[i]), pair.word, asked, resamples, check=task == OVERALL)
        contrast = Contrast(
            a=a,
            b=b,
            task=task,
            claim=claim,
            difference=float(difference[i]),
            p_holm=math.nan,
            family="confirmatory" if task == OVERALL else "exploratory",
            n_questions=int(used.sum()),
            n_rooms=clusters.n,
            seeds_a=pair.runs[a].shape[1],
            seeds_b=pair.runs[b].shape[1],
            model=pair.model,
            seeds=min([pair.runs[side].shape[1] for side in (a, b) if side != BASE], default=1),
            margin=asked.margin,
            cluster=pair.word,
            paired_seeds=paired,
            effective_rooms=sums.effective,
            share_of_rooms=_share(clusters.variance, runs),
            **asdict(_tested(pair, i, float(difference[i]), clusters, runs, asked)),
            **_run_pairs(pair, i, confirmatory.alpha),
        )
        contrast = _alike(contrast, bool(pair.per_question[used].any()), pair.same_answers)
        if task == OVERALL and resamples and not math.isnan(contrast.p):
            contrast = _cross_checked(contrast, sums, clusters, asked, resamples)
        found.append(contrast)
    return found


def _tested(pair: _Sides, i: int, difference: float, clusters: Clusters, runs: Runs, asked: Asked) -> Inference:
    """The tests of one contrast, or why there are none."""
    types = [j for j in range(len(pair.types)) if pair.weights[i, j] > 0]
    lonely = [pair.types[j] for j in types if len(np.unique(pair.clusters[pair.onehot[:, j]])) < 2]
    if lonely or math.isnan(clusters.variance):
        where = ", ".join(lonely) or "all questions"
        return Inference(note=f"no test: questions of one {pair.word} only ({where})")
    return infer(difference, clusters, runs, asked)


def _clusters(sums: ClusterSums, variance: float, word: str, asked: Asked, resamples: int, *, check: bool) -> Clusters:
    """The error from clusters; sign flips where they are needed, or where they check ``overall``."""
    n, effective = int((sums.shares > 0).sum()), sums.effective
    needed = (check and resamples) or effective < FEW_CLUSTERS or not variance
    flips = sign_flips(sums.totals, sums.shares, asked, resamples or RESAMPLES) if needed and n > 1 else None
    return Clusters(variance, n, word, effective, flips)


def _share(variance: float, runs: Runs) -> float:
    """The clusters' share of a difference's variance."""
    total = variance + sum(part for part, _ in runs.own)
    return variance / total if runs.own and total else math.nan


def _run_pairs(pair: _Sides, i: int, alpha: float) -> dict[str, Any]:
    """P(B beats A) over the pairs of runs, and how the runs of equal seeds go together; ``i`` is the task's place."""
    scores_a, scores_b = pair.per_run[pair.a][i], pair.per_run[pair.b][i]
    if len(scores_a) == len(scores_b) == 1:
        return {}
    share = probability_better(scores_a, scores_b)
    untrained = pair.a == BASE and len(scores_a) == 1, pair.b == BASE and len(scores_b) == 1
    runs_a, runs_b = (0 if alone else len(of) for alone, of in zip(untrained, (scores_a, scores_b), strict=True))
    low, high = better_interval(share, runs_a, runs_b, alpha)
    found: dict[str, Any] = {
        "p_b_beats_a": share,
        "run_pairs": len(scores_a) * len(scores_b),
        "p_b_beats_a_low": low,
        "p_b_beats_a_high": high,
    }
    if pair.same_seeds and len(scores_a) >= SEEDS_FOR_METHODS and scores_a.std() > 0 and scores_b.std() > 0:
        found["seed_correlation"] = float(np.corrcoef(scores_a, scores_b)[0, 1])
    return found


def _alike(contrast: Contrast, differs: bool, same_answers: bool) -> Contrast:
    """Without any differing score there is no variance over clusters to test with."""
    if math.isnan(contrast.p) or differs:
        return contrast
    if same_answers:
        return replace(contrast, verdict="equivalent", note="both sides gave the same answer to every question")
    if contrast.standard_error:
        note = "both sides score alike in the mean on every question, so that their runs are the only chance"
    else:
        note = "both sides score alike on every question, so no test applies"
    return replace(contrast, note=note)


def _cross_checked(contrast: Contrast, sums: ClusterSums, clusters: Clusters, asked: Asked, resamples: int) -> Contrast:
    """Add the two checks of the t-test over clusters, and a note where they decide otherwise."""
    variance = clusters.variance
    low, high = bootstrap_interval(sums, asked.alpha, resamples) if variance else (math.nan, math.nan)
    p_permutation = float(clusters.flips.p) if clusters.flips else math.nan
    rooms = float(student(contrast.difference, [(variance, clusters.n - 1)], asked).p) if variance else p_permutation
    found = replace(
        contrast,
        p_rooms=rooms,
        p_permutation=p_permutation,
        ci_boot_low=low,
        ci_boot_high=high,
        resamples=resamples,
        resampling_seed=SEED,
    )
    return checked(found, asked.alpha)


def _clustered(
    difference: Array, onehot: NDArray[np.bool_], weights: Array, clusters: NDArray[np.intp]
) -> tuple[Array, Array]:
    """Contrasts (c,) of per-question differences (n,) and their clustered variances (c,).

    Values within 1e-10 points of zero are rounding residue and returned as exact zeros.
    """
    model = sm.OLS(difference, onehot.astype(float))
    if clusters.max() < 1 or len(difference) <= onehot.shape[1]:
        effect: Array = weights @ model.fit().params
        return _round(effect), np.full(len(weights), math.nan)
    # Design matrices, not a formula: patsy looks names such as C up in the caller's frame.
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    with np.errstate(invalid="ignore"):
        test = fit.t_test(weights)
    error = _round(np.nan_to_num(np.ravel(test.sd)))  # the square root of a variance of -1e-34 is NaN
    return _round(np.ravel(test.effect)), error**2


def _round(points: Array) -> Array:
    rounded: Array = np.round(points, 10) + 0.0  # turns -0.0 into 0.0
    return rounded
