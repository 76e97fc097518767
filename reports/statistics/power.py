"""What a study could find before it is run: the minimum detectable effect for its seeds, questions and rooms.

The variance of a difference between two methods with k runs each has three parts: one of the rooms that no number of
runs removes, one of the rooms that differs from run to run and shrinks with k, and that of the runs' own scores.
The last enters only claims about methods. Effects are those that a two-sided t-test finds with 80% power.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from harness.api.benchmark import Benchmark
from harness.vsibench.published import published_counts
from harness.vsibench.rooms import published_rooms
from reports.benchmarks import VSIBench
from reports.statistics.contrast import SEEDS_FOR_METHODS
from reports.statistics.inference import (
    Array,
    Asked,
    Clusters,
    Part,
    Runs,
    median_unbiased,
    minimum_detectable_effect,
    smallest_equivalence_margin,
    tested,
)
from reports.statistics.resampling import SEED
from reports.statistics.runs import guarded

POWER = 0.8

PLANNED_DRAWS = 4000
"""Draws behind a planned effect; its error is about one percent."""


@dataclass(frozen=True)
class Layout:
    """Questions and clusters of a benchmark.

    Attributes:
        name: What it is.
        questions: Number of questions.
        rooms: Number of clusters.
        cluster: What questions of one cluster share, in one word.
        effective: Kish's effective number of questions under the score's weights, 1 / sum of squared weights.
    """

    name: str
    questions: int
    rooms: int
    cluster: str
    effective: float


def layout_of(name: str, benchmark: Benchmark, types: Sequence[str], rooms: Sequence[str]) -> Layout:
    """The layout of a benchmark's questions with these types and rooms."""
    counts = Counter(types)
    overall = benchmark.weights(counts)[1][0]
    squares = sum(weight**2 / n for weight, n in zip(overall, counts.values(), strict=True))
    return Layout(name, len(types), len(set(rooms)), benchmark.cluster, 1 / float(squares))


def vsi_bench_layout() -> Layout:
    """The layout of the full VSI-Bench."""
    types = [kind for kind, n in published_counts().items() for _ in range(n)]
    found = layout_of("the full VSI-Bench", VSIBench(), types, [])
    return replace(found, rooms=len(published_rooms()))


@dataclass(frozen=True)
class Spread:
    """How far scores vary; standard deviations of a difference between two methods, in points.

    Attributes:
        rooms: Over rooms, the part that stays however many runs there are.
        rooms_per_run: Over rooms, the part that is new in every run (one run a side).
        runs: Of one method's overall score between training runs, its part by question included; several for a range
            of assumptions, or the estimate between the ends of its interval.
        layout: The benchmark they hold for.
        source: Where they come from.
    """

    rooms: float
    rooms_per_run: float
    runs: tuple[float, ...]
    layout: Layout
    source: str

    @property
    def typical(self) -> float:
        """The middle of the range of assumptions on ``runs``, or what was measured."""
        return self.runs[len(self.runs) // 2] if len(self.runs) > 2 else self.runs[0]

    def room_variance(self, k: int, layout: Layout) -> float:
        """Variance over rooms of a difference of k runs a side, scaled to another benchmark's effective questions."""
        return self._scale(layout) * (self.rooms**2 + self.rooms_per_run**2 / k)

    def run_variance(self, runs: float, layout: Layout) -> float:
        """Variance between runs of a method on another benchmark, given their standard deviation on this one.

        Runs differ by question as well: that part grows as a benchmark has fewer of them, the rest stays.
        """
        questions = self.rooms_per_run**2 / 2
        return max(runs**2 - questions, 0.0) + self._scale(layout) * questions

    def _scale(self, layout: Layout) -> float:
        return self.layout.effective / layout.effective


def default_spread() -> Spread:
    """A clustered standard error of 0.65 for one pair of runs and 0.50 to 0.54 for means, as simulated on VSI-Bench.

    The simulation has methods that agree on 81% of the questions, and runs of one method on 86%. How far training
    runs vary is known for few published models; retraining one moved its score by 1.3 (VG-LLM, issue 66).
    """
    return Spread(
        0.47,
        0.45,
        (0.3, 0.5, 1.0, 1.5),
        vsi_bench_layout(),
        "defaults: a clustered standard error of 0.65 points for one pair of runs on the full VSI-Bench, "
        "and training runs that vary by 0.3 to 1.5 points (standard deviation)",
    )


def detectable(spread: Spread, layout: Layout, k: int, runs: float | None, alpha: float, tests: int = 1) -> float:
    """The difference between two methods with k runs each that is found with 80% power.

    Args:
        spread: How far scores vary.
        layout: The benchmark planned.
        k: Runs a method.
        runs: Standard deviation between training runs on the spread's benchmark, for a claim about methods; None for
            one about checkpoints.
        alpha: Two-sided level.
        tests: For the worst case of Holm's correction over so many pairs.

    Returns:
        Points; NaN where the number of runs forbids the claim.
    """
    if runs is None:
        error = math.sqrt(spread.room_variance(k, layout))
        return minimum_detectable_effect(error, layout.rooms - 1, alpha / tests)
    if k < SEEDS_FOR_METHODS:
        return math.nan
    difference, half = _planned(spread, layout, k, runs, alpha / tests, tests)
    return float(np.quantile(half - difference, POWER))


def smallest_margin(spread: Spread, layout: Layout, k: int, runs: float | None, alpha: float, tests: int = 1) -> float:
    """The smallest margin within which equal methods with k runs each are found equivalent with 80% power.

    The arguments are those of :func:`detectable`; each of the two one-sided tests has level alpha / tests.

    Returns:
        Points; NaN where the number of runs forbids the claim.
    """
    if runs is None:
        error = math.sqrt(spread.room_variance(k, layout))
        return smallest_equivalence_margin(error, layout.rooms - 1, alpha / tests)
    if k < SEEDS_FOR_METHODS:
        return math.nan
    difference, half = _planned(spread, layout, k, runs, 2 * alpha / tests, tests)
    return float(np.quantile(half + np.abs(difference), POWER))


def _planned(spread: Spread, layout: Layout, k: int, runs: float, level: float, tests: int) -> tuple[Array, Array]:
    """Estimated differences of equal methods, and half-widths of their intervals, as a report would find them.

    The larger of two tests has no distribution in a book, so that it is drawn: as many methods as make up the pairs,
    with equal variances. The clustered variance and that of the runs both hold how runs differ by question, which is
    why the test is a little shy.
    """
    rng = np.random.default_rng(SEED)
    methods = max(2, (math.isqrt(8 * tests + 1) - 1) // 2)
    variance = spread.run_variance(runs, layout)
    found = variance * rng.chisquare(k - 1, (methods, PLANNED_DRAWS)) / (k - 1)
    rooms = spread.room_variance(k, layout) * rng.chisquare(layout.rooms - 1, PLANNED_DRAWS) / (layout.rooms - 1)
    df = methods * (k - 1)
    own: list[Part] = [(of / k, k - 1) for of in found[:2]]
    both = Runs(guarded(own, df), [(2 * median_unbiased(found.mean(0), df) / k, df)])
    half = tested(0.0, Clusters(rooms, layout.rooms, layout.cluster), both, Asked(level, 1.0))[1].ci_high
    error = math.sqrt(spread.room_variance(10**9, layout) + 2 * variance / k)
    middles = (np.arange(PLANNED_DRAWS) + 0.5) / PLANNED_DRAWS
    return error * rng.permutation(stats.norm.ppf(middles)), half


def smallest_detectable(spread: Spread, layout: Layout, alpha: float, tests: int = 1) -> float:
    """The difference in points that any number of runs would find with 80% power: what the rooms alone allow."""
    error = math.sqrt(spread.room_variance(10**9, layout))
    return minimum_detectable_effect(error, layout.rooms - 1, alpha / tests)
