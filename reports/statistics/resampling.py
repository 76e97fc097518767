"""Two cross-checks of the clustered t-test that assume no normality: sign flips and a bootstrap over clusters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

RESAMPLES = 9999
"""Draws of each cross-check."""

SEED = 883
"""Seed of each cross-check; stored with its results."""

_BATCH = 1000


@dataclass(frozen=True)
class ClusterSums:
    """What a difference is made of, by cluster.

    Attributes:
        differences: Sums of per-question differences, in points, (clusters, types).
        questions: Numbers of questions, (clusters, types).
        weights: Weight of each type's mean in the score, (types,), summing to 1.
    """

    differences: Array
    questions: Array
    weights: Array

    @property
    def totals(self) -> Array:
        """Each cluster's part of the difference, (clusters,); they sum to it."""
        totals: Array = (self.differences / self.questions.sum(0)) @ self.weights
        return totals

    def score_of(self, clusters: NDArray[Any], axis: int = -1) -> Array:
        """The difference on resampled clusters: type means first, then the mean over the types that are there.

        Args:
            clusters: Indices of clusters, (..., n), with repetition.
            axis: Always the last; the name is scipy's.
        """
        flat = clusters.reshape(-1, clusters.shape[axis]).astype(np.intp)
        size = len(self.differences)
        place = (np.arange(len(flat))[:, None] * size + flat).ravel()
        drawn = np.bincount(place, minlength=len(flat) * size).reshape(len(flat), size)
        counts = drawn @ self.questions
        means = np.divide(drawn @ self.differences, counts, out=np.zeros_like(counts), where=counts > 0)
        score: Array = (means @ self.weights / ((counts > 0) @ self.weights)).reshape(clusters.shape[:-1])
        return score


def cluster_sums(
    difference: Array, onehot: NDArray[np.bool_], weights: Array, clusters: NDArray[np.intp]
) -> ClusterSums:
    """Add up per-question differences (n,), of types (n, t) with weights (t,), by cluster (n,)."""
    sums = [np.bincount(clusters[of], difference[of], minlength=clusters.max() + 1) for of in onehot.T]
    counts = [np.bincount(clusters[of], minlength=clusters.max() + 1).astype(float) for of in onehot.T]
    return ClusterSums(np.stack(sums, 1), np.stack(counts, 1), weights)


def permutation_p(sums: ClusterSums, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value with the methods' names swapped at random within clusters.

    Exact when the swaps are few enough to be listed (2 to the number of clusters).
    """
    found = stats.permutation_test(
        (sums.totals,),
        lambda totals, axis=-1: totals.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        rng=SEED,
    )
    return float(found.pvalue)


def bootstrap_interval(sums: ClusterSums, alpha: float, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987) over clusters; NaN where it is degenerate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(len(sums.totals)),),
            sums.score_of,
            vectorized=True,
            axis=-1,
            method="BCa",
            confidence_level=1 - alpha,
            n_resamples=resamples,
            batch=_BATCH,
            rng=SEED,
        ).confidence_interval
    return float(found.low), float(found.high)
