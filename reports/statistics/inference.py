"""From a difference and its variance components to an interval, p-values and a detectable effect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

Part = tuple[float, int]
"""An independent variance component: the variance of the difference and its degrees of freedom."""

_NODES = 2000
"""Quantiles of an estimated variance over which a probability is averaged."""


@dataclass(frozen=True)
class Inference:
    """What can be said about one difference; NaN where nothing can.

    Attributes:
        standard_error: Root of the summed components.
        df: Degrees of freedom of the t distribution.
        ci_low: Lower end of the interval at level 1 - alpha.
        ci_high: Upper end.
        p: Two-sided p-value of no difference.
        p_equivalence: p-value of a difference as large as the margin or larger (TOST).
        mde: The true difference that such a design finds with 80% power.
        note: Why there is no test, or why it is not the usual one.
    """

    standard_error: float = math.nan
    df: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    p: float = math.nan
    p_equivalence: float = math.nan
    mde: float = math.nan
    note: str = ""


def infer(
    difference: float, parts: Sequence[Part], n_clusters: int, *, alpha: float, margin: float, cluster: str
) -> Inference:
    """Test one difference against zero and against the margin.

    Args:
        difference: The estimate, in points.
        parts: Its independent variance components, clusters first.
        n_clusters: Number of clusters, such as rooms, behind it.
        alpha: Two-sided level.
        margin: The difference from which on two methods are not equivalent, in points.
        cluster: What a cluster is, in one word.
    """
    total, df = combine(parts)
    if total == 0:
        # All clusters agree exactly: t has no scale, but the sign-flip test over clusters still gives a p-value.
        p = 1.0 if difference == 0 else 2.0 ** (1 - n_clusters)
        note = "" if difference == 0 else f"same difference in every {cluster}: p from the sign test over {cluster}s"
        return Inference(0.0, float(n_clusters - 1), difference, difference, p, note=note)
    error = math.sqrt(total)
    half = float(stats.t.ppf(1 - alpha / 2, df)) * error
    return Inference(
        error,
        df,
        difference - half,
        difference + half,
        float(2 * stats.t.sf(abs(difference) / error, df)),
        equivalence_p(difference, error, df, margin),
        minimum_detectable_effect(error, df, alpha),
    )


def combine(parts: Sequence[Part]) -> tuple[float, float]:
    """The sum of independent variances and its degrees of freedom (Satterthwaite 1946, eq. 17)."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, parts[0][1]
    return total, total**2 / sum(variance**2 / df for variance, df in parts)


def equivalence_p(difference: float, error: float, df: float, margin: float) -> float:
    """The larger p-value of two one-sided t-tests against -margin and +margin (Schuirmann 1987)."""
    return float(stats.t.sf((margin - abs(difference)) / error, df))


def minimum_detectable_effect(error: float, df: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided t-test finds with the given power.

    Args:
        error: Standard error that the design has.
        df: Its degrees of freedom.
        alpha: Two-sided level; alpha / m for the worst case of Holm's correction over m pairs.
        power: Probability of finding it.
    """
    if math.isnan(error):
        return math.nan
    return error * _noncentrality(round(df, 3), alpha, power)


@lru_cache(maxsize=10_000)
def _noncentrality(df: float, alpha: float, power: float) -> float:
    """The noncentrality at which t exceeds its two-sided critical value with this probability.

    The other tail, below one part in ten thousand at any power of interest, is left out.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, df))
    simple = critical + float(stats.t.ppf(power, df))  # exact for many degrees of freedom, too small for few
    return float(optimize.brentq(lambda nc: stats.nct.sf(critical, df, nc) - power, 0.9 * critical, 1.5 * simple))


def smallest_equivalence_margin(error: float, df: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The margin within which two one-sided t-tests find equal methods equivalent with the given power.

    Args:
        error: Standard error that the design has.
        df: Its degrees of freedom.
        alpha: One-sided level of each test; alpha / m for the worst case of Holm's correction over m pairs.
        power: Probability of finding it where the true difference is 0.
    """
    if math.isnan(error):
        return math.nan
    return error * _relative_margin(round(df, 3), alpha, power)


@lru_cache(maxsize=10_000)
def _relative_margin(df: float, alpha: float, power: float) -> float:
    """The margin over the standard error: the difference is normal, its estimated error an independent chi."""
    middles = (np.arange(_NODES) + 0.5) / _NODES
    needed = float(stats.t.isf(alpha, df)) * np.sqrt(stats.chi2.ppf(middles, df) / df)

    def missing(margin: float) -> float:
        return float(np.mean(2 * stats.norm.cdf(np.maximum(margin - needed, 0)) - 1)) - power

    return float(optimize.brentq(missing, 0.0, float(needed[-1]) + 10.0))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979); NaN counts as 1, so that it never makes the others easier.

    As ``statsmodels...multipletests``, which collects all garbage at each call: 0.1 s a family here.
    """
    raw = np.nan_to_num(np.asarray(p, dtype=float), nan=1.0)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    corrected = np.empty(len(raw))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(c) for c in corrected]


def probability_better(a: ArrayLike, b: ArrayLike) -> float:
    """Share of the pairs of one run of A and one of B in which B scores higher; a tie counts half.

    Mann and Whitney's U over the number of pairs; recommended in addition to the difference by Bouthillier et al. 2021
    (arXiv 2103.03098).
    """
    wins = np.sign(np.subtract.outer(np.asarray(b), np.asarray(a)))
    return float((wins.mean() + 1) / 2)
