"""Size of the test over several studies whose errors share rooms; taking them as independent must fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reports.statistics.combined import Estimate, combine_estimates

ROOMS, DRAWS, ALPHA = 60, 250, 0.05
NAMES = [f"room {i}" for i in range(ROOMS)]


def null_draw(rng: np.random.Generator, studies: int, shared: float, tau: float) -> list[Estimate]:
    """Studies without a difference on average: errors of rooms (variance 1, correlated by ``shared``) and of runs."""
    own = rng.standard_normal((studies, ROOMS)) * np.sqrt(1 - shared)
    rooms = np.sqrt(ROOMS) * (own + rng.standard_normal(ROOMS) * np.sqrt(shared))
    found = []
    for study, mine in enumerate(rooms):
        difference = mine.mean() + 0.5 * rng.standard_normal() + tau * rng.standard_normal()
        parts = pd.Series((mine - mine.mean()) / ROOMS * np.sqrt(ROOMS / (ROOMS - 1)), index=NAMES)
        variance = float((parts**2).sum()) + 0.25 * rng.chisquare(4) / 4
        none = pd.Series(dtype=float)
        found.append(Estimate(str(study), float(difference), variance, "methods", parts, none))
    return found


@pytest.mark.parametrize(("studies", "shared", "tau"), [(5, 0.7, 0.0), (5, 0.0, 2.0), (3, 0.3, 0.5)])
def test_the_size_holds_with_and_without_shared_rooms(studies: int, shared: float, tau: float) -> None:
    rng = np.random.default_rng([studies, int(10 * shared), int(10 * tau)])
    rejected, naive = 0, 0
    for _ in range(DRAWS):
        draw = null_draw(rng, studies, shared, tau)
        found = combine_estimates(draw, ALPHA)
        apart = combine_estimates([replace(one, rooms=pd.Series(dtype=float)) for one in draw], ALPHA)
        assert found and apart
        rejected += found.p < ALPHA
        naive += apart.p < ALPHA
    assert rejected / DRAWS <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / DRAWS)
    if shared > 0.5:
        assert naive / DRAWS > 0.08  # as if the rooms were others in every study
