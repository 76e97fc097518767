"""Levels of declared looks: the level of a study is spent over them, so that stopping early costs no error.

A study that looks at its results after some seeds, and stops where they are decided, tests several times. Lan and
DeMets (1983, Biometrika 70) let each look spend a part of the level that depends only on how much of the information
is in: here the share of the seeds. Critical values follow from the joint normal distribution of the looks' statistics,
whose increments are independent (Armitage, McPherson and Rowe 1969). All looks share the rooms, so that their
statistics are more alike than the share of the seeds says, which makes the levels err on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from harness.config.sections import Spending

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(300)
_FAR = 8.5
"""Standard deviations beyond which a normal variable has no mass that matters."""


def spent(spending: Spending, alpha: float, fraction: float) -> float:
    """The part of a one-sided level that is spent when a share of the information is in (Lan and DeMets 1983).

    Args:
        spending: ``obrien-fleming`` spends little early and nearly all at the end; ``pocock`` about alike at each look.
        alpha: The one-sided level.
        fraction: The share, above 0 and at most 1.
    """
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * fraction)
    return float(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(fraction)))


@lru_cache(maxsize=4096)
def critical_values(fractions: tuple[float, ...], alpha: float, spending: Spending) -> tuple[float, ...]:
    """The standard normal critical value of each look of a one-sided test.

    Args:
        fractions: The shares of the information at the looks, rising to 1.
        alpha: The one-sided level over all looks.
        spending: As in :func:`spent`.
    """
    found: list[float] = []
    points, mass = np.zeros(1), np.ones(1)
    before = spent_before = 0.0
    for fraction in fractions:
        step, total = math.sqrt(fraction - before), spent(spending, alpha, fraction)

        def excess(end: float, points=points, mass=mass, step=step, part=total - spent_before) -> float:  # type: ignore[no-untyped-def]
            return float(mass @ stats.norm.sf((end - points) / step)) - part

        far = _FAR * math.sqrt(fraction)
        end = far if excess(far) >= 0 else float(optimize.brentq(excess, -far, far, xtol=1e-12))
        found.append(end / math.sqrt(fraction))
        # What goes on: the sum's density below the critical value, at the nodes of a quadrature.
        half = (end + far) / 2
        nodes = half * _NODES + end - half
        density = stats.norm.pdf((nodes[:, None] - points) / step) @ mass / step
        points, mass = nodes, half * _WEIGHTS * density
        before, spent_before = fraction, total
    return tuple(found)


def look_level(looks: Sequence[int], seeds: int, alpha: float, tests: int, spending: Spending) -> float:
    """The level at which Holm's procedure over some pairs tests at one look, two-sided.

    Holm's step with r pairs left tests at an r-th of it. That must be no more than what the same look of a study with
    one pair and level alpha / r tests at, two-sided for a difference and one-sided for equivalence. The smallest over
    all steps serves them all (the group sequential Holm procedure of Ye et al. 2013, but with one level for all).

    Args:
        looks: Seeds at each look, rising.
        seeds: Those of this look.
        alpha: The level of the study.
        tests: The number of pairs.
        spending: As in :func:`spent`.

    Returns:
        The level, rounded down to three digits.
    """
    fractions, at = tuple(look / looks[-1] for look in looks), list(looks).index(seeds)
    level = min(
        share * float(stats.norm.sf(critical_values(fractions, alpha / share, spending)[at]))
        for share in range(1, 2 * tests + 1)
    )
    unit = 10.0 ** (math.floor(math.log10(level)) - 2)
    return float(f"{math.floor(level / unit) * unit:.3g}")
