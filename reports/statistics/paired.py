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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray

from harness.api.benchmark import Benchmark
from harness.config.study import BASE
from reports.statistics.answers import Answers, lay_out, select
from reports.statistics.contrast import MARGIN, OVERALL, SEEDS_FOR_METHODS, Claim, Contrast, checked, judge
from reports.statistics.inference import Inference, Part, infer, probability_better
from reports.statistics.resampling import (
    RESAMPLES,
    SEED,
    Array,
    ClusterSums,
    bootstrap_interval,
    cluster_sums,
    permutation_p,
)


def compare(
    frame: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    benchmark: Benchmark,
    alpha: float = 0.05,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
) -> list[Contrast]:
    """Compare pairs of methods on the overall score and on every task present.

    One ordinary least squares of the per-question differences (each side first averaged over its
    seeds) on indicators of the question types gives all contrasts of a pair and their clustered
    covariance. With at least three seeds on both sides (``base`` may have one: it is not trained) the
    variance between runs is added and the degrees of freedom are Welch-Satterthwaite's. ``overall`` is
    checked by a permutation test and a bootstrap over clusters.

    Args:
        frame: Answers of one model, with columns :data:`reports.statistics.answers.COLUMNS`, in any order.
        pairs: (A, B) names: the method to subtract, and the one it is subtracted from.
        benchmark: Whose answers they are; it weighs the question types.
        alpha: Two-sided level of interval and verdict.
        margin: Points from which on two methods are not equivalent, declared before the results are seen.
        resamples: Draws of each cross-check; 0 for none.

    Returns:
        For every pair ``overall`` first, then the tasks in the benchmark's order; absent tasks give no contrast.
        Holm's correction covers ``overall`` of all pairs, and apart from it the tasks of each pair.

    Raises:
        UserError: The frame lacks columns or rows, has missing, impossible or repeated scores, is of several models,
            a pair names a method without answers, or two methods (or two seeds of one) answered different questions.
    """
    answers = lay_out(frame)
    return judge([c for a, b in pairs for c in _contrasts(answers, a, b, benchmark, alpha, margin, resamples)], alpha)


def default_pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Each method against the base model, then all pairs of methods, in the order given."""
    trained = [m for m in methods if m != BASE]
    against_base = [(BASE, m) for m in trained] if BASE in methods else []
    return against_base + list(itertools.combinations(trained, 2))


def _contrasts(
    answers: Answers, a: str, b: str, benchmark: Benchmark, alpha: float, margin: float, resamples: int
) -> list[Contrast]:
    """All contrasts of one pair, not yet corrected or judged."""
    wide, questions = select(answers, a, b)
    types, onehot, tasks, weights = _design(questions, benchmark)
    runs: dict[str, Array] = {side: 100 * np.asarray(wide[side], dtype=np.float64) for side in (a, b)}
    type_means = {side: onehot.T.astype(float) @ scores / onehot.sum(0)[:, None] for side, scores in runs.items()}
    per_run = {side: weights @ means for side, means in type_means.items()}
    clusters = pd.factorize(questions["cluster"], sort=True)[0]
    per_question = _round(runs[b].mean(1) - runs[a].mean(1))
    difference, variance = _clustered(per_question, onehot, weights, clusters)
    claim = _claim(runs)
    same_seeds = list(wide[a].columns) == list(wide[b].columns)
    clusters_of_type = [len(np.unique(clusters[onehot[:, j]])) for j in range(len(types))]
    found = []
    for i, task in enumerate((OVERALL, *tasks)):
        used: NDArray[np.bool_] = np.asarray(onehot[:, weights[i] > 0].any(axis=1))
        n_clusters = len(np.unique(clusters[used]))
        lonely = [t for j, t in enumerate(types) if weights[i, j] > 0 and clusters_of_type[j] < 2]
        parts: list[Part] = [(float(variance[i]), n_clusters - 1)]
        if claim == "methods":
            of_runs = [per_run[side][i] for side in (a, b) if per_run[side].shape[1] > 1]
            parts += [(float(scores.var(ddof=1)) / len(scores), len(scores) - 1) for scores in of_runs]
        if lonely or math.isnan(variance[i]):
            drawn = Inference(
                note=f"no test: questions of one {benchmark.cluster} only ({', '.join(lonely) or 'all questions'})"
            )
        else:
            drawn = infer(
                float(difference[i]), parts, n_clusters, alpha=alpha, margin=margin, cluster=benchmark.cluster
            )
        contrast = Contrast(
            a=a,
            b=b,
            task=task,
            claim=claim,
            difference=float(difference[i]),
            p_holm=math.nan,
            family="confirmatory" if task == OVERALL else "exploratory",
            n_questions=int(used.sum()),
            n_rooms=n_clusters,
            seeds_a=runs[a].shape[1],
            seeds_b=runs[b].shape[1],
            model=answers.model,
            seeds=min([runs[side].shape[1] for side in (a, b) if side != BASE], default=1),
            margin=margin,
            cluster=benchmark.cluster,
            **asdict(drawn),
            **_run_pairs(per_run[a][i], per_run[b][i], same_seeds),
        )
        found.append(_alike(contrast, per_question, used))
    if resamples and not math.isnan(found[0].p):
        sums = cluster_sums(per_question, onehot, weights[0], clusters)
        found[0] = _cross_checked(found[0], sums, float(variance[0]), alpha, resamples)
    return found


def _claim(runs: Mapping[str, Array]) -> Claim:
    """What a pair's runs allow; one run of the base model is enough: it is not trained."""
    enough = [len(of.T) >= SEEDS_FOR_METHODS or (side == BASE and len(of.T) == 1) for side, of in runs.items()]
    return "methods" if all(enough) else "checkpoints"


def _run_pairs(scores_a: Array, scores_b: Array, same_seeds: bool) -> dict[str, Any]:
    """P(B beats A) over the pairs of runs, and how the runs of equal seeds go together."""
    if len(scores_a) == len(scores_b) == 1:
        return {}
    found: dict[str, Any] = {
        "p_b_beats_a": probability_better(scores_a, scores_b),
        "run_pairs": len(scores_a) * len(scores_b),
    }
    if same_seeds and len(scores_a) >= SEEDS_FOR_METHODS and scores_a.std() > 0 and scores_b.std() > 0:
        found["seed_correlation"] = float(np.corrcoef(scores_a, scores_b)[0, 1])
    return found


def _alike(contrast: Contrast, per_question: Array, used: NDArray[np.bool_]) -> Contrast:
    """Without any differing score there is no variance to test with: equal on the whole benchmark is equivalent."""
    if math.isnan(contrast.p) or per_question[used].any():
        return contrast
    if per_question.any():
        return replace(contrast, note="both sides score alike on every question of this task, so no test applies")
    return replace(contrast, verdict="equivalent", note="both sides score alike on every question")


def _cross_checked(contrast: Contrast, sums: ClusterSums, variance: float, alpha: float, resamples: int) -> Contrast:
    """Add the two checks of the t-test over clusters, and a note where they decide otherwise."""
    n, cluster = contrast.n_rooms, contrast.cluster
    clusters_only = infer(contrast.difference, [(variance, n - 1)], n, alpha=alpha, margin=1.0, cluster=cluster)
    low, high = bootstrap_interval(sums, alpha, resamples) if variance else (math.nan, math.nan)
    found = replace(
        contrast,
        p_rooms=clusters_only.p,
        p_permutation=permutation_p(sums, resamples),
        ci_boot_low=low,
        ci_boot_high=high,
        resamples=resamples,
        resampling_seed=SEED,
    )
    return checked(found, alpha)


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


def _design(questions: pd.DataFrame, benchmark: Benchmark) -> tuple[list[str], NDArray[np.bool_], list[str], Array]:
    """The types present (t,), their (n, t) indicators, the tasks, and the weights (1 + tasks, t) of type means."""
    kinds = questions["type"].to_numpy(object)
    types = benchmark.ordered_types(kinds)
    onehot = np.stack([kinds == t for t in types], axis=1)
    tasks, weights = benchmark.weights(dict(zip(types, onehot.sum(0).tolist(), strict=True)))
    return types, onehot, tasks, weights
