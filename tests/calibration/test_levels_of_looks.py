"""Declared looks keep the level of a study; a test at the full level at each look does not."""

from __future__ import annotations

import numpy as np
import pytest
from looks_kit import Study, outcome, p_values
from scipy.stats import multivariate_normal, norm

from reports.statistics import look_level
from reports.statistics.looks import critical_values, spent

LOOKS = (3, 5, 8)
THIRDS, FIFTHS = (1 / 3, 2 / 3, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("spending", "fractions", "published"),
    [  # of ldbounds and gsDesign, one-sided .025
        ("obrien-fleming", THIRDS, (3.7103, 2.5114, 1.9930)),
        ("obrien-fleming", FIFTHS, (4.8769, 3.3569, 2.6803, 2.2898, 2.0310)),
        ("pocock", FIFTHS, (2.4380, 2.4268, 2.4101, 2.3966, 2.3859)),
    ],
)
def test_critical_values_are_the_published_ones(
    spending: str, fractions: tuple[float, ...], published: tuple[float, ...]
) -> None:
    assert critical_values(fractions, 0.025, spending) == pytest.approx(published, abs=2e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
def test_the_joint_normal_distribution_spends_what_was_planned(spending: str) -> None:
    share = np.array(LOOKS) / LOOKS[-1]
    correlation = np.sqrt(np.minimum.outer(share, share) / np.maximum.outer(share, share))
    found = np.array(critical_values(tuple(share), 0.025, spending))  # type: ignore[arg-type]
    for k in (1, 2, 3):
        none = multivariate_normal.cdf(found[:k], cov=correlation[:k, :k], abseps=1e-7, releps=1e-7, rng=1)
        assert 1 - none == pytest.approx(spent(spending, 0.025, share[k - 1]), abs=2e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
@pytest.mark.parametrize("tests", [1, 3])
def test_no_step_of_holm_tests_above_what_its_look_may_spend(spending: str, tests: int) -> None:
    share = tuple(look / LOOKS[-1] for look in LOOKS)
    for at, look in enumerate(LOOKS):
        level = look_level(LOOKS, look, 0.05, tests, spending)  # type: ignore[arg-type]
        for left in range(1, tests + 1):
            two, one = (critical_values(share, 0.05 / left / sides, spending)[at] for sides in (2, 1))  # type: ignore[arg-type]
            assert level / left <= min(2 * norm.sf(two), norm.sf(one)) * (1 + 1e-9)
    assert look_level((5, 8), 8, 0.05, tests, spending) < 0.05  # type: ignore[arg-type]


def test_looks_keep_the_level_and_a_test_at_each_does_not() -> None:
    """One pair of equal methods; rooms are the same at all looks, runs vary by a point."""
    study, draws = Study((1.1, 1.1)), 3000
    p = p_values(study, LOOKS, draws, np.random.default_rng(5))
    limit = 0.05 + 2 * (0.05 * 0.95 / draws) ** 0.5
    for spending in ("obrien-fleming", "pocock"):
        levels = {look: look_level(LOOKS, look, 0.05, 1, spending) for look in LOOKS}  # type: ignore[arg-type]
        assert outcome(study, p, levels).ever <= limit, spending
    assert outcome(study, p, dict.fromkeys(LOOKS, 0.05)).ever > limit
