"""Runs that collapse: how many of a method's runs did, and what their number leaves open.

A mean over few runs says little of a method that collapses now and then: with collapses of 25 points in 10% of runs,
59% of studies with five seeds see none, and most of those call the method better although the true means are equal
(``tests/benchmarks/calibration.py``). So runs are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from statsmodels.stats.proportion import proportion_confint


@dataclass(frozen=True)
class Collapses:
    """How many of a method's runs collapsed.

    Attributes:
        runs: The method's runs.
        seeds: Of those that collapsed.
        low: Lower end of the exact interval (Clopper and Pearson 1934) for the share of runs that collapse.
        high: Upper end.
        most: The one-sided upper limit at the same level: a greater share is excluded.
    """

    runs: int
    seeds: tuple[int, ...]
    low: float
    high: float
    most: float


def collapses(scores: Mapping[int, float], base: float, below: float, alpha: float) -> Collapses:
    """Count a method's collapsed runs.

    Args:
        scores: Its runs' scores in points, by seed; at least one.
        base: The base model's.
        below: A run that ends more than this many points below it has collapsed.
        alpha: 1 minus the level of the interval and of the limit.
    """
    seeds = tuple(seed for seed, score in sorted(scores.items()) if score < base - below)
    low, high = proportion_confint(len(seeds), len(scores), alpha, method="beta")
    _, most = proportion_confint(len(seeds), len(scores), 2 * alpha, method="beta")
    return Collapses(len(scores), seeds, float(low), float(high), float(most))
