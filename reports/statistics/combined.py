"""One estimate of a difference from several studies: a random-effects meta-analysis that knows what the studies share.

Studies on one benchmark ask about the same rooms, and studies of one model may report the same training runs. Their
errors then go together, so taking them as independent makes the combined interval too short and differences between
studies too small. Here the covariance is estimated from the rooms and runs that two studies have in common, and enters
the estimate, its interval and the test of heterogeneity.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.api.benchmark import Benchmark
from reports.statistics.contrast import Claim, Contrast

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The difference that one study found, B minus A in points.

    Attributes:
        study: Which.
        difference: The estimate.
        variance: Its squared standard error.
        claim: What it holds for.
        rooms: Each cluster's part of its error, by the cluster's name.
        runs: Each training run's part of its error, by what identifies the run; empty where the claim leaves it out.
    """

    study: str
    difference: float
    variance: float
    claim: Claim
    rooms: pd.Series[float]
    runs: pd.Series[float]


@dataclass(frozen=True)
class Combined:
    """What several studies say together about one difference, B minus A in points.

    Attributes:
        studies: Which.
        claim: ``methods`` if every study's is.
        difference: The weighted mean, for models or benchmarks like these.
        standard_error: Its standard error.
        df: Degrees of freedom of its t distribution, the number of studies less one.
        ci_low: Lower end of its interval.
        ci_high: Upper end.
        p: Two-sided p-value of no difference on average.
        tau: Standard deviation of the true differences between studies, in points.
        i2: Share in percent of the variation between estimates that is not error (Higgins and Thompson 2002).
        q: Cochran's Q, the errors' covariance included.
        q_p: p-value of no heterogeneity.
        correlation: Mean correlation of two studies' errors, from what they share.
    """

    studies: tuple[str, ...]
    claim: Claim
    difference: float
    standard_error: float
    df: int
    ci_low: float
    ci_high: float
    p: float
    tau: float
    i2: float
    q: float
    q_p: float
    correlation: float


def estimate_of(
    study: str,
    contrast: Contrast,
    answers: pd.DataFrame,
    runs: Mapping[tuple[str, int], tuple[str, float]],
    rules: Benchmark,
) -> Estimate:
    """A study's estimate with what other studies may share of its error.

    Args:
        study: Its name.
        contrast: An overall difference of its report.
        answers: Its reported answers: method, seed, question, type, cluster, score (0 to 1).
        runs: By (method, seed): what identifies the run's weights, and its overall score.
        rules: The benchmark, which weighs the types.
    """
    a, b = contrast.a, contrast.b
    keys = ["question", "type", "cluster"]
    means = {side: answers[answers["method"] == side].groupby(keys, observed=True)["score"].mean() for side in (a, b)}
    table = (100 * (means[b] - means[a])).rename("difference").reset_index()
    counts = Counter(table["type"].astype(str))
    weight = dict(zip(counts, rules.weights(counts)[1][0] / np.array(list(counts.values())), strict=True))
    own = table["difference"] - table.groupby("type", observed=True)["difference"].transform("mean")
    parts = (own * table["type"].astype(str).map(weight)).groupby(table["cluster"].astype(str)).sum()
    parts *= math.sqrt(len(parts) / max(1, len(parts) - 1))
    of_runs: dict[str, float] = {}
    for side, sign in ((a, -1), (b, 1)) if contrast.claim == "methods" else ():
        scores = {key: score for (method, _), (key, score) in runs.items() if method == side}
        n = len(scores)
        if n > 1:
            mean = math.fsum(scores.values()) / n
            of_runs |= {key: sign * (score - mean) / math.sqrt(n * (n - 1)) for key, score in scores.items()}
    return Estimate(
        study,
        contrast.difference,
        contrast.standard_error**2,
        contrast.claim,
        parts,
        pd.Series(of_runs, dtype=float),
    )


def covariance(estimates: Sequence[Estimate]) -> Array:
    """The covariance of the studies' errors: each one's variance, and what the rooms and runs of two have in common."""
    found = np.diag([one.variance for one in estimates])
    for i, first in enumerate(estimates):
        for j, second in enumerate(estimates[:i]):
            shared = [(x * y).sum() for x, y in ((first.rooms, second.rooms), (first.runs, second.runs))]  # by name
            found[i, j] = found[j, i] = sum(shared)
    return found


def combine_estimates(estimates: Sequence[Estimate], alpha: float) -> Combined | None:
    """The random-effects estimate; None where a study has no error to weigh it by.

    The variance between studies is DerSimonian and Laird's (1986), with the errors' covariance in Q (the multivariate
    form of Jackson et al. 2010); with independent errors both are theirs. The interval is Student's with as many
    degrees of freedom as studies less one, like Hartung and Knapp's, and never shorter than the errors imply, as Roever
    et al. (2015) advise.

    Args:
        estimates: Of two studies or more.
        alpha: Two-sided level of the interval.
    """
    effects, errors = np.array([one.difference for one in estimates]), covariance(estimates)
    own = np.diag(errors)
    if not (np.isfinite(errors).all() and (own > 0).all()):
        return None
    df = len(estimates) - 1
    inverse = np.linalg.pinv(errors)
    sums = inverse.sum(0)
    projection = inverse - np.outer(sums, sums) / sums.sum()
    q = float(effects @ projection @ effects)
    between = max(0.0, (q - df) / float(np.trace(projection)))
    weights = 1 / (between + own)
    weights /= weights.sum()
    # Errors that go against each other are rare and uncertain; taking them as independent is on the safe side.
    shared = max(0.0, float(weights @ (errors - np.diag(own)) @ weights))
    error = math.sqrt(float(weights**2 @ (own + between)) + shared)
    mean, half = float(weights @ effects), float(stats.t.ppf(1 - alpha / 2, df)) * error
    roots = np.sqrt(own)
    return Combined(
        studies=tuple(one.study for one in estimates),
        claim="methods" if all(one.claim == "methods" for one in estimates) else "checkpoints",
        difference=mean,
        standard_error=error,
        df=df,
        ci_low=mean - half,
        ci_high=mean + half,
        p=float(2 * stats.t.sf(abs(mean) / error, df)),
        tau=math.sqrt(between),
        i2=100 * max(0.0, 1 - df / q) if q > 0 else 0.0,
        q=q,
        q_p=float(stats.chi2.sf(q, df)),
        correlation=float((errors / np.outer(roots, roots))[np.triu_indices(len(own), 1)].mean()),
    )
