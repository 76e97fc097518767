"""Answers drawn at VSI-Bench's layout, and the procedure of a report on all draws at once.

Questions have the benchmark's numbers by type; how they fall to its 288 rooms is drawn, since only the counts are
known. A question's score follows from a normal latent variable: a part common to all methods, by room and by question;
a method's own, by room and by question; a run's own, by question. Two methods agree on about 81% of right-or-wrong
questions and two runs of a method on 86%, as measured on such models. A run's effect moves all its scores alike, so
that one set of answers serves every design.

The comparisons go through :func:`reports.statistics.inference.tested`, as a report's do, all draws at once;
``tests/calibration/test_calibration_study.py`` shows that they equal :func:`reports.statistics.compare` to 1e-9.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from harness.vsibench.published import published_counts
from harness.vsibench.types import NUMERIC_TYPES
from reports.benchmarks import VSIBench
from reports.statistics.inference import Array, Asked, Clusters, Evidence, Part, Runs, median_unbiased, tested
from reports.statistics.resampling import sign_flips
from reports.statistics.runs import guarded

ROOMS = 288
METHODS, SEEDS = 6, 5
"""The first method is the base model; one of its runs is used."""

SHARED_ROOM, SHARED, OWN_ROOM, OWN, RUN = 0.12, 0.715, 0.02, 0.05, 0.095
"""Variances of the parts of the latent variable."""


@dataclass(frozen=True)
class Layout:
    """Types (n,) and rooms (n,) of questions that are sorted by type."""

    types: NDArray[Any]
    rooms: NDArray[np.intp]

    @property
    def names(self) -> list[str]:
        """The types in order."""
        return list(dict.fromkeys(self.types))


def vsi_bench(rng: np.random.Generator, rooms: int = ROOMS, in_one: float = 0.0, questions: int = 5130) -> Layout:
    """The benchmark's types in equal proportion; a share of the questions may be about one room."""
    counts = published_counts()
    types = np.concatenate([np.full(round(n * questions / 5130), kind) for kind, n in counts.items()])
    where = rng.integers(0, rooms, len(types))
    return Layout(types, np.where(rng.random(len(types)) < in_one, 0, where))


def draw(rng: np.random.Generator, layout: Layout, draws: int, methods: int = METHODS, seeds: int = SEEDS) -> Array:
    """Scores (questions, draws, methods, seeds) of equally good methods."""
    n, rooms = len(layout.types), layout.rooms.max() + 1

    def normal(variance: float, *shape: int) -> NDArray[np.float32]:
        return np.float32(math.sqrt(variance)) * rng.standard_normal(shape, dtype=np.float32)

    latent = normal(RUN, n, draws, methods, seeds)
    own = normal(OWN, n, draws, methods) + normal(OWN_ROOM, rooms, draws, methods)[layout.rooms]
    own += (normal(SHARED, n, draws) + normal(SHARED_ROOM, rooms, draws)[layout.rooms])[..., None]
    latent += own[..., None]
    numeric = np.isin(layout.types, NUMERIC_TYPES)
    scores = np.empty(latent.shape)
    scores[numeric] = np.clip(np.round(4.5 + 3 * latent[numeric]), 0, 10) / 10
    scores[~numeric] = latent[~numeric] > 0.2
    return scores


@dataclass(frozen=True)
class Drawn:
    """What comparisons need of the scores, in points.

    Attributes:
        runs: Score of every run, (1 + tasks, draws, methods, seeds), overall first.
        variance: Clustered variance by number of seeds and pair of methods, (1 + tasks, draws).
        totals: Rooms' parts of the overall difference, likewise, (draws, rooms), where asked for.
        shares: Of the rooms, (rooms,).
        effective: Their effective number.
        rooms: Their number by contrast, (1 + tasks,).
    """

    runs: Array
    variance: dict[tuple[int, int, int], Array]
    totals: dict[tuple[int, int, int], Array]
    shares: Array
    effective: float
    rooms: list[int]

    def more(self, other: Drawn) -> Drawn:
        """With another's draws."""

        def join(mine: dict[Any, Array], others: dict[Any, Array], axis: int) -> dict[Any, Array]:
            return {key: np.concatenate([mine[key], others[key]], axis) for key in mine}

        return Drawn(
            np.concatenate([self.runs, other.runs], 1),
            join(self.variance, other.variance, 1),
            join(self.totals, other.totals, 0),
            self.shares,
            self.effective,
            self.rooms,
        )


def summarise(scores: Array, layout: Layout, numbers: Sequence[int], *, totals: bool = False) -> Drawn:
    """Reduce scores (questions, draws, methods, seeds) for comparisons with these numbers of seeds."""
    names, n = layout.names, len(layout.types)
    onehot = np.stack([layout.types == name for name in names], 1).astype(float)
    sizes = onehot.sum(0)
    _, of_types = VSIBench().weights(dict(zip(names, sizes.astype(int).tolist(), strict=True)))
    flat = 100 * scores.reshape(n, -1)
    means = (sparse.csr_array(onehot.T) @ flat) / sizes[:, None]
    runs = (of_types @ means).reshape(len(of_types), *scores.shape[1:])
    counts = sparse.csr_array((np.ones(n), (layout.rooms, np.arange(n))))
    rooms = counts.shape[0]
    correction = rooms / (rooms - 1) * (n - 1) / (n - len(names))
    methods, variance, parts = scores.shape[2], dict[tuple[int, int, int], list[Array]](), {}
    for i, weights in enumerate(of_types):
        used = np.flatnonzero(onehot @ (weights > 0))
        question = (onehot @ (weights / sizes))[used]
        members = counts[:, used] * question[None]
        whole = (members @ flat[used]).reshape(rooms, *scores.shape[1:])
        expected = ((members @ onehot[used]) @ means).reshape(whole.shape)
        for k in numbers:
            sides = (whole - expected)[..., :k].mean(-1)
            for a, b in itertools.combinations(range(methods), 2):
                seeds = sides if a else np.concatenate([(whole - expected)[:, :, :1, 0], sides[:, :, 1:]], 2)
                influence = seeds[:, :, b] - seeds[:, :, a]
                variance.setdefault((k, a, b), []).append(correction * (influence**2).sum(0))
                if totals and i == 0:
                    first = whole[:, :, a, :k].mean(-1) if a else whole[:, :, a, 0]
                    parts[k, a, b] = (whole[:, :, b, :k].mean(-1) - first).T
    squares = counts @ (onehot @ (of_types[0] / sizes)) ** 2
    return Drawn(
        runs,
        {key: np.stack(of) for key, of in variance.items()},
        parts,
        counts @ (onehot @ (of_types[0] / sizes)),
        float(squares.sum() ** 2 / (squares**2).sum()),
        [len(np.unique(layout.rooms[onehot @ (weights > 0) > 0])) for weights in of_types],
    )


def simulate(
    seed: int, draws: int, layout: Layout, numbers: Sequence[int], *, methods: int = METHODS, totals: bool = False
) -> Drawn:
    """Draw in small batches, which fit into memory."""
    rng, found, left = np.random.default_rng(seed), list[Drawn](), draws
    while left:
        batch = min(left, 20)
        found.append(summarise(draw(rng, layout, batch, methods, max(numbers)), layout, numbers, totals=totals))
        left -= batch
    joined = found[0]
    for one in found[1:]:
        joined = joined.more(one)
    return joined


@dataclass(frozen=True)
class Study:
    """Methods with their runs' effects on a benchmark; index 0 is the base model, which has one run.

    Attributes:
        drawn: The answers.
        k: Seeds of each method.
        scores: With the effects, (1 + tasks, draws, methods, seeds).
        groups: Whether all trained methods are variants of one, compared by runs of equal seeds.
    """

    drawn: Drawn
    k: int
    scores: Array
    paired: bool = False

    def compare(self, pair: tuple[int, int], asked: Asked, task: int = 0, *, guards: bool = True) -> Evidence:
        """The tests of a pair; without the guards, by the pair's own run variance and the t-test over rooms alone."""
        a, b = pair
        runs = self._runs(a, b, task)
        difference = self._mean(b, task) - self._mean(a, task)
        totals = self.drawn.totals.get((self.k, a, b)) if task == 0 else None
        flips = None
        if guards and totals is not None and self.drawn.effective < 20:
            shift = difference - totals.sum(-1)
            flips = _in_batches(totals + shift[:, None] * self.drawn.shares, self.drawn.shares, asked)
        variance = self.drawn.variance[self.k, a, b][task]
        clusters = Clusters(variance, self.drawn.rooms[task], "room", self.drawn.effective, flips)
        return tested(difference, clusters, runs if guards else Runs(runs.own), asked)[1]

    def _mean(self, method: int, task: int) -> Array:
        runs = self.scores[task, :, method]
        return runs[:, : self.k].mean(-1) if method else runs[:, 0]

    def _runs(self, a: int, b: int, task: int) -> Runs:
        """As :class:`reports.statistics.runs.RunVariances`, for all draws at once."""
        if self.k < 3:
            return Runs()
        k, trained = self.k, self.scores[task, :, 1:, : self.k]
        if self.paired and a:
            table = trained - trained.mean(1, keepdims=True)
            df = (trained.shape[1] - 1) * (k - 1)
            residual = table - table.mean(2, keepdims=True)
            own = (trained[:, b - 1] - trained[:, a - 1]).var(-1, ddof=1) / k
            return Runs([(own, k - 1)], [(2 * median_unbiased((residual**2).sum((1, 2)) / df, df) / k, df)])
        parts: list[Part] = [(trained[:, m - 1].var(-1, ddof=1) / k, k - 1) for m in (a, b) if m]
        df = trained.shape[1] * (k - 1)
        pooled = median_unbiased(trained.var(-1, ddof=1).mean(-1), df)
        return Runs(guarded(parts, df), [(pooled * len(parts) / k, df)])


def _in_batches(totals: Array, shares: Array, asked: Asked) -> Evidence:
    found = [sign_flips(part, shares, asked) for part in np.array_split(totals, max(len(totals) // 100, 1))]
    return Evidence(**{name: np.concatenate([getattr(one, name) for one in found]) for name in _FIELDS})


_FIELDS = tuple(Evidence.__dataclass_fields__)


def study(
    drawn: Drawn,
    k: int,
    run_sd: Sequence[float],
    effects: Sequence[float] = (),
    *,
    rho: float | None = None,
    tails: float = math.inf,
    seed: int = 1,
) -> Study:
    """Trained methods with these standard deviations between runs, and these true effects in points.

    The drawn answers vary between runs by themselves; what is missing to ``run_sd`` is added. ``rho`` is the
    correlation of added effects at equal seeds, with which the methods are taken as variants of one. With ``tails``
    the added effects have Student's t distribution with so many degrees of freedom, in place of the normal one.
    """
    rng, methods = np.random.default_rng(seed), len(run_sd) + 1
    scores = drawn.runs[:, :, :methods].copy()
    noise = drawn.runs[0].var(-1, ddof=1).mean() if drawn.runs.shape[-1] > 1 else 0.0
    draws, seeds = scores.shape[1], scores.shape[3]
    common = rng.standard_normal((draws, 1, seeds))
    for m, sd in enumerate(run_sd, start=1):
        shared = abs(rho or 0.0)
        sign = -1.0 if (rho or 0.0) < 0 and m % 2 else 1.0
        alone = rng.standard_normal((draws, seeds)) if math.isinf(tails) else rng.standard_t(tails, (draws, seeds))
        own = math.sqrt(1 - shared) * alone
        effect = sign * math.sqrt(shared) * common[:, 0] + own
        scores[:, :, m] += math.sqrt(max(sd**2 - noise, 0.0)) * effect
        scores[:, :, m] += effects[m - 1] if effects else 0.0
    return Study(drawn, k, scores, paired=rho is not None)
