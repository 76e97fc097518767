"""From a difference and its variance components to intervals, p-values and a detectable effect.

Several tests of one difference are combined by taking the largest p-value and the hull of the intervals: an interval
then excludes zero exactly where the p-value rejects. :func:`tested` takes arrays of differences as well, so that
the calibration study runs this code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

Array = NDArray[np.float64]

Part = tuple[Any, float]
"""An independent component: the variance of a difference, a number or an array, and its degrees of freedom."""

FEW_CLUSTERS = 20.0
"""Effective number of clusters below which the t-test over clusters rejects too often, and sign flips join it."""

LARGEST = 100.0
"""Points: no difference of two scores is larger."""

_NODES = 2000
"""Quantiles of an estimated variance over which a probability is averaged."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a difference.

    Attributes:
        alpha: Two-sided level.
        margin: The difference from which on two methods are not equivalent, in points.
        tests: Number of differences that are corrected together.
    """

    alpha: float
    margin: float
    tests: int = 1


@dataclass(frozen=True)
class Evidence:
    """What one test says; numbers, or arrays of one shape.

    Attributes:
        p: Two-sided p-value of no difference.
        p_equivalence: p-value of a difference as large as the margin or larger (TOST).
        ci_low: Lower end of the interval at level 1 - alpha.
        ci_high: Upper end.
        joint_low: Lower end of the simultaneous interval, at level 1 - alpha / tests (Bonferroni).
        joint_high: Upper end.
    """

    p: Any
    p_equivalence: Any
    ci_low: Any
    ci_high: Any
    joint_low: Any
    joint_high: Any


@dataclass(frozen=True)
class Inference:
    """What can be said about one difference; NaN where nothing can.

    Attributes:
        standard_error: Root of the summed components behind the interval.
        df: Degrees of freedom of the t distribution behind it.
        ci_low: As in :class:`Evidence`, as all that follow but the last four.
        ci_high: Upper end.
        joint_low: Lower end.
        joint_high: Upper end.
        p: Two-sided p-value.
        p_equivalence: p-value of the margin.
        mde: The true difference that such a design finds with 80% power, after correction.
        mde_low: Lower end of its interval at level 1 - alpha: the standard error is itself an estimate.
        mde_high: Upper end.
        note: Why there is no test, or why it is not the usual one.
    """

    standard_error: float = math.nan
    df: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    joint_low: float = math.nan
    joint_high: float = math.nan
    p: float = math.nan
    p_equivalence: float = math.nan
    mde: float = math.nan
    mde_low: float = math.nan
    mde_high: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Clusters:
    """The part of the error that comes from clusters, such as rooms.

    Attributes:
        variance: Clustered variance of the difference, a number or an array.
        n: Number of clusters.
        word: What a cluster is.
        effective: Their effective number.
        flips: What sign flips over them say; None where it is not needed.
    """

    variance: Any
    n: int
    word: str
    effective: float = math.inf
    flips: Evidence | None = None

    @property
    def few(self) -> bool:
        """Whether the t-test over clusters needs the sign flips beside it."""
        return self.effective < FEW_CLUSTERS and self.flips is not None


@dataclass(frozen=True)
class Runs:
    """The part that comes from training runs, estimated twice; empty for a claim about checkpoints.

    Attributes:
        own: From the pair's own runs.
        pooled: With the variance that is pooled over the study's methods.
    """

    own: Sequence[Part] = ()
    pooled: Sequence[Part] = ()

    @property
    def estimates(self) -> list[Sequence[Part]]:
        """Both, or the one there is."""
        return [self.own, self.pooled] if self.pooled else [self.own]


def infer(difference: float, clusters: Clusters, runs: Runs, asked: Asked) -> Inference:
    """Test one difference against zero and against the margin.

    The t-test is made with both estimates of the variance between runs, and sign flips over the clusters join it where
    they are few; the largest p-value and the hull of the intervals are returned. Three runs say little of their
    variance, so that Satterthwaite's approximation alone, although fine at 0.05, is several times too liberal in the
    tail where corrected p-values are decided; the pooled variance has more degrees of freedom.

    Args:
        difference: The estimate, in points.
        clusters: The error from clusters.
        runs: The error from training runs.
        asked: Level, margin and correction.
    """
    if clusters.variance + sum(variance for variance, _ in runs.own) == 0:
        return _constant(difference, clusters)
    designs, found = tested(difference, clusters, runs, asked)
    planned = [combine(parts) for parts in designs]
    total, df = max(planned, key=lambda one: math.sqrt(one[0]) * float(stats.t.isf(asked.alpha / 2, one[1])))
    # A checkpoint claim on few clusters is decided by flips, which need a larger effect than the t-test.
    more = max(_flipped_variance(clusters, asked.alpha) - designs[0][0][0], 0.0) if clusters.few else 0.0
    level = asked.alpha / asked.tests
    effect = max(minimum_detectable_effect(math.sqrt(one + more), of, level) for one, of in planned)
    if effect > LARGEST:
        effect = math.nan
    low, high = (math.sqrt(df / float(stats.chi2.ppf(q, df))) for q in (1 - asked.alpha / 2, asked.alpha / 2))
    return Inference(
        math.sqrt(total),
        float(df),
        **{name: float(getattr(found, name)) for name in Evidence.__dataclass_fields__},
        mde=effect,
        mde_low=effect * low,
        mde_high=effect * high,
        note=_few_clusters(clusters) if clusters.few else "",
    )


def tested(difference: Any, clusters: Clusters, runs: Runs, asked: Asked) -> tuple[list[list[Part]], Evidence]:
    """The variance components of each t-test, and what all tests agree on; for arrays of differences too."""
    variance = clusters.variance
    if clusters.few and runs.own:
        variance = np.maximum(variance, _flipped_variance(clusters, asked.alpha))
    designs = [[(variance, float(clusters.n - 1)), *parts] for parts in runs.estimates]
    found = [student(difference, parts, asked) for parts in designs]
    if clusters.few and clusters.flips is not None:
        found.append(clusters.flips)
    return designs, weakest(*found)


def _few_clusters(clusters: Clusters) -> str:
    n, word = clusters.n, clusters.word
    counts = f"the larger p of the t-test and of sign flips over {word}s counts"
    if n < FEW_CLUSTERS:
        return f"there are only {n} {word}s: {counts}"
    return f"the questions weigh on {n} {word}s as unevenly as on {clusters.effective:.0f} equal ones: {counts}"


def _constant(difference: float, clusters: Clusters) -> Inference:
    """All clusters and runs agree exactly: t has no scale, but sign flips over clusters still give a p-value."""
    df, word = float(clusters.n - 1), clusters.word
    if difference == 0:
        return Inference(0.0, df, 0.0, 0.0, 0.0, 0.0, 1.0)
    assert clusters.flips is not None
    flips = clusters.flips
    low, high, joint_low, joint_high = map(float, (flips.ci_low, flips.ci_high, flips.joint_low, flips.joint_high))
    note = f"same difference in every {word}: p and interval from the sign test over {word}s"
    return Inference(0.0, df, low, high, joint_low, joint_high, float(flips.p), note=note)


def _flipped_variance(clusters: Clusters, alpha: float) -> Any:
    """The variance with which the t-test would have the sign flips' interval."""
    assert clusters.flips is not None
    half = (clusters.flips.ci_high - clusters.flips.ci_low) / 2
    return (half / float(stats.t.isf(alpha / 2, clusters.n - 1))) ** 2


def student(difference: Any, parts: Sequence[Part], asked: Asked) -> Evidence:
    """The t-test of a difference with these variance components, which are not all zero."""
    total, df = combine(parts)
    error = np.sqrt(total)
    half, joint = (error * stats.t.isf(level / 2, df) for level in (asked.alpha, asked.alpha / asked.tests))
    return Evidence(
        2 * stats.t.sf(np.abs(difference) / error, df),
        equivalence_p(difference, error, df, asked.margin),
        difference - half,
        difference + half,
        difference - joint,
        difference + joint,
    )


def weakest(*evidence: Evidence) -> Evidence:
    """What all tests agree on: the largest p-values and the hull of the intervals."""
    joined = {
        name: (np.minimum if name.endswith("low") else np.maximum).reduce([getattr(one, name) for one in evidence])
        for name in Evidence.__dataclass_fields__
    }
    return Evidence(**joined)


def combine(parts: Sequence[Part]) -> tuple[Any, Any]:
    """The sum of independent variances and its degrees of freedom (Satterthwaite 1946, eq. 17)."""
    total = sum(variance for variance, _ in parts)
    if np.ndim(total) == 0 and total == 0:
        return 0.0, parts[0][1]
    return total, total**2 / sum(variance**2 / df for variance, df in parts)


def median_unbiased(variance: Any, df: Any) -> Any:
    """An estimate of a variance that is too small half of the time; the usual one is so in 63% with two degrees."""
    return variance * df / stats.chi2.ppf(0.5, df)


def equivalence_p(difference: Any, error: Any, df: Any, margin: float) -> Any:
    """The larger p-value of two one-sided t-tests against -margin and +margin (Schuirmann 1987)."""
    return stats.t.sf((margin - np.abs(difference)) / error, df)


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


def better_interval(share: float, runs_a: int, runs_b: int, alpha: float) -> tuple[float, float]:
    """An interval for the probability that a run of B scores higher than one of A.

    Clopper and Pearson's, as if the lesser number of runs had been that many independent comparisons: the variance of
    the share is at most that of so many, whatever the distributions (van Dantzig 1951). So it is wide, and it holds
    where runs collapse or one method varies much more than the other, where normal and score intervals do not
    (``tests/benchmarks/calibration.py``). A side that is one run of an untrained model does not vary.

    Args:
        share: As :func:`probability_better` gives it.
        runs_a: Runs of A; 0 for an untrained model.
        runs_b: Runs of B, likewise.
        alpha: 1 minus its level.
    """
    runs = min(number for number in (runs_a, runs_b) if number)
    low, high = proportion_confint(share * runs, runs, alpha, method="beta")
    return float(low), float(high)
