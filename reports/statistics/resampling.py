"""Sign flips and a bootstrap over clusters: they check the clustered t-test without assuming normality.

Where clusters are few or unequal, the sign flips are more than a check, see :mod:`reports.statistics.inference`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reports.statistics.inference import LARGEST, Array, Asked, Evidence

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

    @property
    def shares(self) -> Array:
        """Each cluster's share of the weights, (clusters,); they sum to 1."""
        shares: Array = (self.questions / self.questions.sum(0)) @ self.weights
        return shares

    @property
    def effective(self) -> float:
        """Kish's effective number of clusters, by each one's share of the questions' squared weights."""
        squares = self.questions @ (self.weights / self.questions.sum(0)) ** 2
        return float(squares.sum() ** 2 / (squares**2).sum())

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


def sign_flips(totals: Array, shares: Array, asked: Asked, resamples: int = RESAMPLES) -> Evidence:
    """The test in which the methods' names are swapped at random within clusters, and the interval that inverts it.

    Swapping the clusters of a set S takes twice their part from a difference. A difference of delta is therefore as
    likely as the observed one or less so in the share of sets whose own difference, the sum of their totals over the
    sum of their shares, is delta or more, or delta or less: the ends of the interval are order statistics of the sets'
    differences (Hartigan 1969, "typical values"). Exact when all sets can be listed (2 to the number of clusters).

    Args:
        totals: Each cluster's part of the difference, (clusters,) or (draws, clusters).
        shares: Each cluster's share of the weights, (clusters,).
        asked: Level, margin and correction.
        resamples: Number of sets.

    Returns:
        Numbers, or arrays (draws,). An end that no set can bound is the largest possible difference.
    """
    totals, shares = totals[..., shares > 0], shares[shares > 0]
    sets = _subsets(len(shares), resamples)
    weights = sets @ shares
    sets, weights = sets[weights > 0], weights[weights > 0]
    # Equal differences must be equal: rounding residue would break ties.
    found = np.sort(np.round((totals @ sets.T) / weights, 9), axis=-1)
    among = found.shape[-1] + 1  # with the empty set, which leaves all as it is

    def share(of: NDArray[np.bool_]) -> Any:
        return (of.sum(-1) + 1) / among

    ends = []
    for level in (asked.alpha, asked.alpha / asked.tests):
        outside = math.ceil(level * among / 2 - 1e-9) - 1
        low, high = (-LARGEST, LARGEST) if outside < 1 else (found[..., outside - 1], found[..., -outside])
        ends += [low + 0 * found[..., 0], high + 0 * found[..., 0]]
    return Evidence(
        np.minimum(2 * np.minimum(share(found <= 0), share(found >= 0)), 1.0),
        np.maximum(share(found >= asked.margin), share(found <= -asked.margin)),
        *ends,
    )


@lru_cache(maxsize=4)
def _subsets(clusters: int, resamples: int) -> Array:
    """Sets of clusters as indicators, (sets, clusters): all but the empty one, or as many random ones."""
    if clusters < 60 and 2**clusters <= resamples + 1:
        numbers = np.arange(1, 2**clusters)
        return (numbers[:, None] >> np.arange(clusters) & 1).astype(float)
    return np.random.default_rng(SEED).integers(0, 2, (resamples, clusters)).astype(float)


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
