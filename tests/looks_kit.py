"""Simulated studies that are looked at several times: scores by method, run and room, tested as a report tests them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from reports.statistics.inference import Asked, Clusters, Runs, median_unbiased, tested
from reports.statistics.runs import guarded

Array = NDArray[np.float64]
Levels = Mapping[int, float]
"""By the seeds of a look."""

ROOMS = 288
LASTING, PER_RUN = 0.47, 0.45
"""Standard deviations over rooms of a difference, in points: the part that all looks share, and that of one run."""
CHUNK = 250


@dataclass(frozen=True)
class Study:
    """A simulated design.

    Attributes:
        run_sds: Of each trained method, the standard deviation between its runs in points.
        effects: Of each, the true gain over the base model.
        base: Whether the base model, of one run, is compared too.
        margin: Of equivalence; by default out of reach.
    """

    run_sds: Sequence[float]
    effects: Sequence[float] = ()
    base: bool = False
    margin: float = 1e-9

    @property
    def sides(self) -> list[tuple[float, float, int]]:
        """Run SD, effect and most runs of each side."""
        effects = self.effects or [0.0] * len(self.run_sds)
        trained = [(sd, effect, 10**6) for sd, effect in zip(self.run_sds, effects, strict=True)]
        return [(0.0, 0.0, 1)] * self.base + trained

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.sides)), 2))

    @property
    def equal(self) -> NDArray[np.bool_]:
        """Which pairs have no true difference."""
        return np.array([self.sides[a][1] == self.sides[b][1] for a, b in self.pairs])


def p_values(
    study: Study, looks: Sequence[int], draws: int, rng: np.random.Generator
) -> dict[int, tuple[Array, Array]]:
    """By look, the p-values of no difference and of the margin, (draws, pairs)."""
    parts = [_chunk(study, looks, min(CHUNK, draws - at), rng) for at in range(0, draws, CHUNK)]
    return {look: tuple(np.concatenate([part[look][i] for part in parts]) for i in (0, 1)) for look in looks}  # type: ignore[misc]


def _chunk(study: Study, looks: Sequence[int], n: int, rng: np.random.Generator) -> dict[int, tuple[Array, Array]]:
    scale, scores = (ROOMS / 2) ** 0.5, []
    for sd, effect, most in study.sides:
        k = min(looks[-1], most)
        one = rng.normal(effect, LASTING * scale, (n, 1, ROOMS)) + rng.normal(0, PER_RUN * scale, (n, k, ROOMS))
        scores.append(one + rng.normal(0, sd, (n, k, 1)) if sd else one)
    found = {}
    for look in looks:
        sides = [one[:, :look] for one in scores]
        runs = [one.mean(2) for one in sides]
        trained = [one.var(1, ddof=1) for one in runs if one.shape[1] > 1]
        df = len(trained) * (look - 1)
        pooled = median_unbiased(np.mean(trained, axis=0), df)
        different, alike = [], []
        for a, b in study.pairs:
            rooms = sides[b].mean(1) - sides[a].mean(1)
            difference, variance = rooms.mean(1), rooms.var(1, ddof=1) / ROOMS
            several = [one for one in (runs[a], runs[b]) if one.shape[1] > 1]
            own = [(one.var(1, ddof=1) / look, look - 1) for one in several]
            error = Runs(guarded(own, df), [(pooled * len(several) / look, df)])
            said = tested(difference, Clusters(variance, ROOMS, "room"), error, Asked(0.05, study.margin))[1]
            different.append(said.p)
            alike.append(said.p_equivalence)
        found[look] = np.stack(different, 1), np.stack(alike, 1)
    return found


def holm(p: Array) -> Array:
    """Holm's correction of each row."""
    order = np.argsort(p, axis=1)
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, 1) * np.arange(p.shape[1], 0, -1), axis=1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(stepped, 1), axis=1)
    return corrected


@dataclass(frozen=True)
class Outcome:
    """Rates over the draws.

    Attributes:
        false: Studies that call equal methods different at the look at which they stop.
        ever: Those that do so at any look that they have.
        found: Pairs that truly differ and are called different at the end.
        equivalent: Pairs that are called equivalent at the end.
        seeds: Mean number of seeds at the end.
    """

    false: float
    ever: float
    found: float
    equivalent: float
    seeds: float


def outcome(study: Study, p: Mapping[int, tuple[Array, Array]], levels: Levels) -> Outcome:
    """What becomes of studies that stop at the first look at which every pair is decided.

    Args:
        study: The design.
        p: As :func:`p_values` gives them.
        levels: Of each look.
    """
    n, equal = len(next(iter(p.values()))[0]), study.equal
    running, ever, seeds = np.ones(n, bool), np.zeros(n, bool), np.zeros(n)
    different, alike = np.zeros((n, len(equal)), bool), np.zeros((n, len(equal)), bool)
    for look, alpha in levels.items():
        now = holm(p[look][0]) < alpha
        same = (holm(p[look][1]) < alpha) & ~now
        ever |= running & (now & equal).any(1)
        different[running], alike[running], seeds[running] = now[running], same[running], look
        running = running & ~(now | same).all(1)
    truly = ~equal
    found = float(different[:, truly].mean()) if truly.any() else 0.0
    false = float((different & equal).any(1).mean())
    return Outcome(false, float(ever.mean()), found, float(alike.mean()), float(seeds.mean()))
