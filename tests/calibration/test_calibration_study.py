"""The calibration study runs the procedure that a report runs, and a few of its designs hold; naive ones do not."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from reports.benchmarks.vsibench import VSIBench
from reports.statistics import paired
from reports.statistics.inference import Asked, better_interval, probability_better

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import calibration_answers as study
from calibration import family

DRAWS = 400


def bound(rate: float) -> float:
    return rate + 3 * (rate * (1 - rate) / DRAWS) ** 0.5


@pytest.mark.parametrize(
    ("k", "methods", "rooms", "in_one", "variants"),
    [(1, 3, 30, 0.0, False), (3, 3, 30, 0.0, False), (3, 4, 12, 0.5, False), (3, 3, 25, 0.0, True)],
)
def test_its_vectorised_copy_equals_compare(k: int, methods: int, rooms: int, in_one: float, variants: bool) -> None:
    rng = np.random.default_rng(8)
    layout = study.vsi_bench(rng, rooms, in_one, 500)
    scores = study.draw(rng, layout, 2, methods, k)
    scores = np.clip(scores + rng.normal(0, 0.02, scores.shape[1:]), 0, 1)
    drawn = study.summarise(scores, layout, (k,), totals=True)
    of = study.Study(drawn, k, drawn.runs, variants)
    columns = {"question": np.arange(len(layout.types)).astype(str), "type": layout.types, "model": "m"}
    columns["cluster"] = layout.rooms.astype(str)
    names = ["base", *"abcde"][:methods]
    pairs = list(itertools.combinations(range(methods), 2))
    for i in range(2):
        frame = pd.concat(
            pd.DataFrame(columns).assign(method=name, seed=seed, score=scores[:, i, m, seed])
            for m, name in enumerate(names)
            for seed in range(k if m else 1)
        )
        named = [(names[a], names[b]) for a, b in pairs]
        found = paired.compare(
            frame, named, benchmark=VSIBench(), resamples=0, margin=2.0, variants=[names[1:]] if variants else ()
        )
        for pair, c in zip(pairs, found[::9], strict=True):
            expected = of.compare(pair, Asked(0.05, 2.0, len(pairs)))
            ours = (c.p, c.ci_low, c.ci_high, c.joint_low, c.joint_high)
            theirs = [getattr(expected, name)[i] for name in ("p", "ci_low", "ci_high", "joint_low", "joint_high")]
            assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)
            assert c.paired_seeds == (variants and pair[0] > 0)


@pytest.mark.slow
def test_families_keep_their_error_with_few_seeds_and_the_pairs_own_variance_does_not() -> None:
    layout = study.vsi_bench(np.random.default_rng(3), 60, 0.0, 600)
    drawn = study.simulate(4, DRAWS, layout, (3,))
    for run_sd in ((5.0,) * 5, (1.0, 1.0, 1.0, 1.0, 5.0)):
        of = study.study(drawn, 3, run_sd)
        errors = [float((family(of, guards=guards).min(-1) * 15 < 0.05).mean()) for guards in (True, False)]
        print(f"family-wise error, 15 pairs, run SD {run_sd}: {errors[0]:.3f}; unguarded {errors[1]:.3f}")
        assert errors[0] <= bound(0.05)
    lone = study.study(drawn, 3, (5.0,) * 5)
    assert (family(lone, guards=False).min(-1) * 15 < 0.05).mean() > 0.08


@pytest.mark.slow
def test_with_half_the_questions_in_one_room_the_sign_flips_keep_the_size_that_t_loses() -> None:
    layout = study.vsi_bench(np.random.default_rng(5), 20, 0.5, 400)
    drawn = study.simulate(6, DRAWS, layout, (1, 3), methods=3, totals=True)
    assert drawn.effective < 6
    asked = Asked(0.05, 1.0)
    for k in (1, 3):
        of = study.study(drawn, k, (0.0, 0.0))
        found, naive = of.compare((1, 2), asked), of.compare((1, 2), asked, guards=False)
        assert ((found.p < 0.05) == ((found.ci_low > 0) | (found.ci_high < 0))).all()
        print(f"size, k={k}: {(found.p < 0.05).mean():.3f}; t alone {(naive.p < 0.05).mean():.3f}")
        assert (found.p < 0.05).mean() <= bound(0.05)
        assert k > 1 or (naive.p < 0.05).mean() > 0.12


def test_the_interval_for_b_beats_a_holds_where_runs_collapse_and_pairs_of_runs_are_no_sample() -> None:
    """25 pairs of 5 by 5 runs taken as 25 independent ones cover far too little."""
    rng, found, naive = np.random.default_rng(2), 0, 0
    true = 0.8 * norm.cdf(2 / 2**0.5)
    for _ in range(1000):
        a, b = rng.standard_normal(5), 2 + rng.standard_normal(5) - 25 * (rng.random(5) < 0.2)
        share = probability_better(a, b)
        low, high = better_interval(share, 5, 5, 0.05)
        found += low <= true <= high
        low, high = proportion_confint(share * 25, 25, 0.05, method="beta")
        naive += low <= true <= high
    assert found >= 1000 * bound_below(0.95, 1000) and naive < 900


def bound_below(rate: float, draws: int) -> float:
    return rate - 3 * (rate * (1 - rate) / draws) ** 0.5
