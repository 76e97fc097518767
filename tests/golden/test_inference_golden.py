"""Equivalence, detectable effects and run pairs against statsmodels, scipy and counting."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from harness.vsibench.types import QUESTION_TYPES
from reports.benchmarks.vsibench import VSIBench
from reports.statistics import paired
from reports.statistics.inference import (
    Asked,
    better_interval,
    combine,
    equivalence_p,
    holm,
    minimum_detectable_effect,
    probability_better,
    smallest_equivalence_margin,
)
from reports.statistics.resampling import bootstrap_interval, cluster_sums, sign_flips

compare = partial(paired.compare, benchmark=VSIBench())


def one_question_a_room(rng: np.random.Generator, n: int, shift: float) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Then the clustered regression is the plain paired t-test."""
    a, b = rng.uniform(0.2, 0.6, n), rng.uniform(0.2, 0.6, n) + shift
    columns = {"question": [f"q{i}" for i in range(n)], "cluster": [f"r{i}" for i in range(n)]}
    frame = pd.DataFrame(columns).assign(type="object_counting", model="m", seed=0)
    return pd.concat([frame.assign(method="a", score=a), frame.assign(method="b", score=b)]), a, b


@pytest.mark.parametrize(("shift", "margin"), [(0.0, 5.0), (0.03, 6.0), (-0.1, 4.0)])
def test_equivalence_is_the_two_one_sided_tests_of_statsmodels(shift: float, margin: float) -> None:
    frame, a, b = one_question_a_room(np.random.default_rng(4), 50, shift)
    found = compare(frame, [("a", "b")], margin=margin)[1]
    assert found.p == pytest.approx(stats.ttest_rel(b, a).pvalue, rel=1e-9)
    expected, *_ = ttost_paired(100 * b, 100 * a, -margin, margin)
    assert found.p_equivalence == pytest.approx(expected, rel=1e-9)


def test_equivalence_p_is_the_larger_of_both_sides() -> None:
    difference, error, df, margin = -0.4, 0.5, 12.3, 1.0
    above = stats.t.sf((difference + margin) / error, df)
    below = stats.t.cdf((difference - margin) / error, df)
    assert equivalence_p(difference, error, df, margin) == pytest.approx(max(above, below), rel=1e-12)
    assert equivalence_p(1.0, error, df, 1.0) == 0.5


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.01])
@pytest.mark.parametrize("n", [5, 20, 288])
def test_the_detectable_effect_is_that_of_statsmodels_power_analysis(n: int, alpha: float) -> None:
    size = TTestPower().solve_power(nobs=n, alpha=alpha, power=0.8, alternative="two-sided")
    ours = minimum_detectable_effect(1 / math.sqrt(n), n - 1, alpha)
    assert ours == pytest.approx(size, rel=2e-4)


def test_the_detectable_effect_is_the_sum_of_two_quantiles_for_many_rooms() -> None:
    quantiles = stats.t.isf(0.025, 287) + stats.t.ppf(0.8, 287)
    assert minimum_detectable_effect(0.65, 287) == pytest.approx(0.65 * quantiles, rel=1e-3)


@pytest.mark.parametrize(("df", "alpha"), [(2, 0.05), (4, 0.05), (8, 0.05 / 6), (287, 0.05)])
def test_equal_methods_are_equivalent_within_the_smallest_margin_four_times_in_five(df: float, alpha: float) -> None:
    """By integrating over the estimated variance."""
    margin, critical = smallest_equivalence_margin(1.0, df, alpha), stats.t.isf(alpha, df)

    def found(chi: float) -> float:
        room = margin - critical * chi / math.sqrt(df)
        return float(stats.chi.pdf(chi, df) * (2 * stats.norm.cdf(max(room, 0.0)) - 1))

    edge = margin / critical * math.sqrt(df)
    assert integrate.quad(found, 0, edge, limit=200)[0] == pytest.approx(0.8, abs=1e-3)


def test_the_smallest_margin_is_the_sum_of_two_quantiles_for_many_rooms() -> None:
    quantiles = stats.norm.isf(0.05) + stats.norm.isf(0.1)
    assert smallest_equivalence_margin(0.65, 1e6) == pytest.approx(0.65 * quantiles, rel=1e-3)
    assert math.isnan(smallest_equivalence_margin(math.nan, math.nan))


def test_variances_add_with_satterthwaite_degrees_of_freedom() -> None:
    # Two equal components of 4 df each: the mean of two independent s^2 has 8.
    assert combine([(1.5, 4), (1.5, 4)]) == pytest.approx((3.0, 8.0))
    assert combine([(0.0, 7), (0.0, 2)]) == (0.0, 7)
    few, many = np.array([1.0, 4.0, 9.0]), np.array([2.0, 2.5, 2.6, 3.1, 3.3, 4.0, 4.4])
    welch = stats.ttest_ind(few, many, equal_var=False)
    parts = [(float(of.var(ddof=1)) / len(of), len(of) - 1) for of in (few, many)]
    assert combine(parts)[1] == pytest.approx(welch.df, rel=1e-12)


@pytest.mark.parametrize("p", [[0.01, 0.02, 0.021], [0.04, 0.001, 0.03, 0.9], [0.2], [0.5, 0.5]])
def test_the_correction_is_holms_of_statsmodels(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist(), rel=1e-12)


def test_the_interval_for_b_beats_a_is_that_of_as_few_comparisons_as_there_are_runs() -> None:
    """Clopper and Pearson's, from published tables: 5 of 5: .4782 to 1; 1 of 5: .0051 to .7164; 3 of 3: .2924."""
    assert better_interval(1.0, 5, 9, 0.05) == pytest.approx((0.4782, 1.0), abs=1e-4)
    assert better_interval(0.2, 7, 5, 0.05) == pytest.approx((0.0051, 0.7164), abs=1e-4)
    assert better_interval(1.0, 0, 3, 0.05) == pytest.approx((0.2924, 1.0), abs=1e-4)  # the base model does not vary


def test_run_pairs_are_counted() -> None:
    a, b = [30.0, 31.5, 31.5], [31.0, 31.5, 33.0, 28.0]
    wins = sum(1.0 if y > x else 0.5 if y == x else 0.0 for x, y in itertools.product(a, b))
    assert probability_better(a, b) == pytest.approx(wins / 12)
    assert probability_better(a, b) == pytest.approx(stats.mannwhitneyu(b, a).statistic / 12)
    assert probability_better(b, a) == pytest.approx(1 - wins / 12)
    assert probability_better([5.0], [5.0]) == 0.5


def test_the_permutation_is_exact_when_it_can_be() -> None:
    """Five rooms, 32 sign flips: counted by hand."""
    totals = np.array([1.0, 2.0, 0.5, -0.25, 3.0])
    flips = [abs(np.dot(signs, totals)) for signs in itertools.product((1, -1), repeat=5)]
    expected = np.mean([flip >= abs(totals.sum()) - 1e-12 for flip in flips])
    sums = cluster_sums(5 * totals, np.ones((5, 1), bool), np.ones(1), np.arange(5))
    assert sums.totals == pytest.approx(totals)
    assert float(sign_flips(sums.totals, sums.shares, Asked(0.05, 1.0)).p) == pytest.approx(expected)


def test_rooms_add_up_to_the_difference_and_the_bootstrap_to_scipys_own() -> None:
    rng = np.random.default_rng(2)
    n, types = 400, 3
    rooms, kinds = np.sort(rng.integers(0, 40, n)), rng.integers(0, types, n)
    onehot = kinds[:, None] == np.arange(types)
    difference = rng.normal(2, 30, n) + 10 * rng.normal(size=40)[rooms]
    weights = np.array([0.5, 0.25, 0.25])
    sums = cluster_sums(difference, onehot, weights, rooms)
    macro = weights @ [difference[kinds == k].mean() for k in range(types)]
    assert sums.totals.sum() == pytest.approx(macro)
    assert sums.score_of(np.arange(40)[None]) == pytest.approx(macro)

    def again(drawn: np.ndarray) -> float:  # one resample at a time, from the questions themselves
        taken = np.concatenate([np.flatnonzero(rooms == room) for room in drawn])
        return float(weights @ [difference[taken][kinds[taken] == k].mean() for k in range(types)])

    slow = stats.bootstrap((np.arange(40),), again, vectorized=False, method="BCa", n_resamples=300, rng=883)
    assert bootstrap_interval(sums, 0.05, 300) == pytest.approx(tuple(slow.confidence_interval), rel=1e-9)


def routes(seed: int) -> tuple[float, float, float, float]:
    """p of both tests, and the widths of both intervals, on one draw of clustered data."""
    rng = np.random.default_rng(seed)
    rooms, per_room = 60, 20
    kind, room = np.tile(QUESTION_TYPES, rooms * per_room // 10), np.repeat(np.arange(rooms), per_room)
    columns = {"question": np.arange(len(kind)).astype(str), "type": kind, "cluster": room.astype(str)}
    frames = []
    for method, shift in (("a", 0.0), ("b", 0.01)):
        score = 0.5 + shift + rng.normal(0, 0.06, rooms)[room] + rng.normal(0, 0.2, len(kind))
        frames.append(pd.DataFrame(columns).assign(method=method, model="m", seed=0, score=score.clip(0, 1)))
    c = compare(pd.concat(frames), [("a", "b")])[0]
    assert c.p_rooms == c.p  # one run a side: rooms are the only chance
    return c.p, c.p_permutation, c.ci_high - c.ci_low, c.ci_boot_high - c.ci_boot_low


def test_the_three_routes_agree_on_well_behaved_data() -> None:
    for seed in range(12):
        p, permuted, width, booted = routes(seed)
        assert permuted == pytest.approx(p, abs=0.04)
        assert booted == pytest.approx(width, rel=0.12)
