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
import pandas as pd
from scipy import stats

from harness.api.benchmark import Benchmark
from harness.config.study import BASE
from harness.errors import UserError
from harness.vsibench.published import published_counts
from harness.vsibench.rooms import published_rooms
from reports.benchmarks import VSIBench
from reports.statistics.contrast import SEEDS_FOR_METHODS
from reports.statistics.inference import combine, minimum_detectable_effect, smallest_equivalence_margin
from reports.statistics.paired import compare, default_pairs


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
        runs: Of one method's overall score between training runs; several for a range of assumptions.
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
        scale = self.layout.effective / layout.effective
        return scale * (self.rooms**2 + self.rooms_per_run**2 / k)


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


def spread_from(answers: pd.DataFrame, benchmark: Benchmark, name: str) -> Spread:
    """The spread that a finished run shows.

    Args:
        answers: Columns :data:`reports.statistics.answers.COLUMNS`, of one model.
        benchmark: Whose answers they are.
        name: What to call the run.

    Raises:
        UserError: There are not two methods to take a difference of, or its error cannot be estimated.
    """
    methods = sorted(answers["method"].unique(), key=lambda method: method != BASE)
    pairs = default_pairs(methods)
    pairs = [pair for pair in pairs if BASE not in pair] or pairs
    if not pairs:
        raise UserError(f"`--pilot {name}`: it has answers of one method only; a difference needs two")
    parts = np.array([_room_parts(answers, benchmark, a, b) for a, b in pairs])
    if np.isnan(parts).any():
        raise UserError(f"`--pilot {name}`: its questions are of too few {benchmark.cluster}s to estimate an error")
    by_question = answers.drop_duplicates("question")
    layout = layout_of(name, benchmark, by_question["type"].tolist(), by_question["cluster"].tolist())
    runs, found = _run_spread(answers, benchmark)
    source = f"the pilot {name}: {len(pairs)} pairs, {found}"
    rooms, per_run = np.sqrt(parts.mean(axis=0))
    return Spread(float(rooms), float(per_run), runs or default_spread().runs, layout, source)


def _room_parts(answers: pd.DataFrame, benchmark: Benchmark, a: str, b: str) -> tuple[float, float]:
    """The lasting and the per-run variance over rooms of B minus A."""
    runs = [answers[answers["method"] == side] for side in (a, b)]
    seeds = [sorted(side["seed"].unique()) for side in runs]
    single = [
        _room_variance(
            pd.concat([side[side["seed"] == of[i % len(of)]] for side, of in zip(runs, seeds, strict=True)]),
            benchmark,
            a,
            b,
        )
        for i in range(max(len(of) for of in seeds))
    ]
    one = math.fsum(single) / len(single)
    shrink = sum(1 / len(of) for of in seeds) / 2
    if shrink == 1:  # one run a side: their shares are not known, and the defaults' are taken
        default = default_spread()
        lasting = one * default.rooms**2 / (default.rooms**2 + default.rooms_per_run**2)
        return lasting, one - lasting
    mean = _room_variance(pd.concat(runs), benchmark, a, b)
    per_run = min(max((one - mean) / (1 - shrink), 0.0), one)
    return one - per_run, per_run


def _room_variance(answers: pd.DataFrame, benchmark: Benchmark, a: str, b: str) -> float:
    """Squared room-clustered error of the difference of mean answers: one merged run a side."""
    merged = answers.groupby(
        ["question", "type", "cluster", "model", "method"], as_index=False, sort=False, observed=True
    )["score"].mean()
    return compare(merged.assign(seed=0), [(a, b)], benchmark=benchmark, resamples=0)[0].standard_error ** 2


def _run_spread(answers: pd.DataFrame, benchmark: Benchmark) -> tuple[tuple[float, ...], str]:
    """Standard deviation between runs of a method, pooled, and the upper end of its 95% interval."""
    counts = Counter(answers.drop_duplicates("question")["type"])
    weights = pd.Series(benchmark.weights(counts)[1][0], index=list(counts))
    means = answers.groupby(["model", "method", "seed", "type"], observed=True)["score"].mean().unstack()
    scores = 100 * (means * weights).sum(axis=1)
    by_method = scores.groupby(["model", "method"])
    df = int((by_method.count() - 1).sum())
    squares = float((by_method.var(ddof=1).fillna(0) * (by_method.count() - 1)).sum())
    if df < 1 or squares == 0:
        return (), "one run a method, so that the spread of training runs is assumed"
    found, high = math.sqrt(squares / df), math.sqrt(squares / stats.chi2.ppf(0.025, df))
    return (found, high), f"training runs vary by {found:.2f} points, at most {high:.2f} (95%), with {df} df"


def detectable(spread: Spread, layout: Layout, k: int, runs: float | None, alpha: float, tests: int = 1) -> float:
    """The difference between two methods with k runs each that is found with 80% power.

    Args:
        spread: How far scores vary.
        layout: The benchmark planned.
        k: Runs a method.
        runs: Standard deviation between training runs, for a claim about methods; None for one about checkpoints.
        alpha: Two-sided level.
        tests: For the worst case of Holm's correction over so many pairs.

    Returns:
        Points; NaN where the number of runs forbids the claim.
    """
    error, df = _planned_error(spread, layout, k, runs)
    return minimum_detectable_effect(error, df, alpha / tests)


def smallest_margin(spread: Spread, layout: Layout, k: int, runs: float | None, alpha: float, tests: int = 1) -> float:
    """The smallest margin within which equal methods with k runs each are found equivalent with 80% power.

    The arguments are those of :func:`detectable`; each of the two one-sided tests has level alpha / tests.

    Returns:
        Points; NaN where the number of runs forbids the claim.
    """
    error, df = _planned_error(spread, layout, k, runs)
    return smallest_equivalence_margin(error, df, alpha / tests)


def _planned_error(spread: Spread, layout: Layout, k: int, runs: float | None) -> tuple[float, float]:
    """The standard error of a difference and its degrees of freedom; NaN where the number of runs forbids the claim."""
    parts = [(spread.room_variance(k, layout), layout.rooms - 1)]
    if runs is not None:
        if k < SEEDS_FOR_METHODS:
            return math.nan, math.nan
        parts += [(runs**2 / k, k - 1)] * 2
    variance, df = combine(parts)
    return math.sqrt(variance), df


def smallest_detectable(spread: Spread, layout: Layout, alpha: float) -> float:
    """The difference in points that any number of runs would find with 80% power: what the rooms alone allow."""
    return minimum_detectable_effect(math.sqrt(spread.room_variance(10**6, layout)), layout.rooms - 1, alpha)
