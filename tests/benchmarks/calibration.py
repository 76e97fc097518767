"""Does the procedure keep what it promises? Answers are drawn at VSI-Bench's layout, thousands of times, and compared.

    PYTHONPATH=. python tests/benchmarks/calibration.py          # 2,000 draws a design, one table
    PYTHONPATH=. python tests/benchmarks/calibration.py 400      # fewer draws

How answers are drawn, and what of them varies, says ``calibration_answers.py``.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from calibration_answers import ROOMS, Drawn, Layout, Study, simulate, study, vsi_bench
from numpy.typing import NDArray
from tabulate import tabulate

from reports.benchmarks import VSIBench
from reports.statistics.inference import Array, Asked, better_interval
from reports.statistics.power import Spread, detectable, layout_of, smallest_margin

ALPHA = 0.05


def holm_rejects(p: Array, alpha: float = ALPHA) -> NDArray[np.bool_]:
    """Which of the p-values (..., m) Holm's procedure rejects."""
    order = np.argsort(p, -1)
    m = p.shape[-1]
    stepped = np.take_along_axis(p, order, -1) < alpha / (m - np.arange(m))
    rejected = np.zeros(p.shape, bool)
    np.put_along_axis(rejected, order, np.logical_and.accumulate(stepped, -1), -1)
    return rejected


@dataclass(frozen=True)
class Row:
    """One line of the table: a rate with its Monte-Carlo error, and its bound if there is one."""

    design: str
    measure: str
    rate: float
    draws: int
    most: float = math.nan
    least: float = math.nan

    @property
    def error(self) -> float:
        """Standard error at the bound, else at the rate."""
        p = next((one for one in (self.most, self.least) if not math.isnan(one)), self.rate)
        return math.sqrt(p * (1 - p) / self.draws)

    @property
    def holds(self) -> bool:
        """Within two standard errors of its bound."""
        return not (self.rate > self.most + 2 * self.error or self.rate < self.least - 2 * self.error)


def family(of: Study, *, guards: bool = True) -> Array:
    """p-values of all pairs, (draws, pairs)."""
    pairs = list(itertools.combinations(range(of.scores.shape[2]), 2))
    return np.stack([of.compare(pair, Asked(ALPHA, 1.0, len(pairs)), guards=guards).p for pair in pairs], -1)


def single(drawn: Drawn) -> Iterator[Row]:
    """One comparison: size, coverage, and how the parts of the sides' variances matter."""
    asked, n = Asked(ALPHA, 1.0), drawn.runs.shape[1]
    for k, pair, run_sd in (
        (1, (1, 2), (0.0, 0.0)),
        *((k, (1, 2), sd) for k in (3, 5) for sd in ((0.45, 0.45), (1.1, 1.1), (2.3, 2.3), (0.3, 2.3))),
        *((k, (0, 1), (sd,)) for k in (3, 5) for sd in (1.1, 2.3)),
    ):
        found = study(drawn, k, run_sd).compare(pair, asked)
        sides = "base / " * (pair[0] == 0) + " / ".join(f"{sd:g}" for sd in run_sd)
        design = f"one pair, k={k}" + (f", run SD {sides}" if k > 1 else "")
        yield Row(design, "size", float((found.p < ALPHA).mean()), n, most=ALPHA)
        yield Row(design, "coverage", float(((found.ci_low <= 0) & (found.ci_high >= 0)).mean()), n, least=1 - ALPHA)
        assert (((found.ci_low > 0) | (found.ci_high < 0)) == (found.p < ALPHA)).all()


def families(drawn: Drawn) -> Iterator[Row]:
    """All pairs of equal methods: at least one false verdict; and power for a true effect of the last method."""
    n = drawn.runs.shape[1]
    designs = [(1, (0.0,) * m) for m in (3, 5)]
    designs += [(k, (sd,) * m) for k in (3, 5) for m in (3, 5) for sd in (1.1, 2.3)]
    designs += [(k, sds) for k in (3, 5) for sds in ((0.45, 0.45, 2.3), (0.45, 0.45, 0.45, 0.45, 2.3))]
    for k, run_sd in designs:
        pairs = math.comb(len(run_sd) + 1, 2)
        of = " / ".join(f"{sd:g}" for sd in (run_sd if len(set(run_sd)) > 1 else run_sd[:1]))
        design = f"{pairs} pairs, k={k}" + (f", run SD {of}" if k > 1 else "")
        p = family(study(drawn, k, run_sd))
        yield Row(design, "family-wise error", float((p.min(-1) * pairs < ALPHA).mean()), n, most=ALPHA)
    for k, points in ((3, 4.0), (5, 3.0)):
        p = family(study(drawn, k, (1.1,) * 3, (0.0, 0.0, points)))
        rate = holm_rejects(p)[:, -1].mean()
        yield Row(f"6 pairs, k={k}, run SD 1.1, {points:g} points", "power", float(rate), n)


def paired(drawn: Drawn) -> Iterator[Row]:
    """Two variants of one method by runs of equal seeds: size, and power for 2.5 points, unpaired for comparison."""
    asked, n = Asked(ALPHA, 1.0), drawn.runs.shape[1]
    for k, rho in ((3, -0.5), (3, 0.0), (3, 0.5), (3, 0.8), (3, 0.93), (5, 0.93)):
        equal = study(drawn, k, (1.1, 1.1), rho=rho)
        a, b = equal.scores[0, :, 1:3].transpose(1, 0, 2).reshape(2, n, -1)
        inside = np.corrcoef((a - a.mean(1, keepdims=True)).ravel(), (b - b.mean(1, keepdims=True)).ravel())[0, 1]
        design = f"variants, k={k}, run SD 1.1, correlation of effects {rho:g}, of scores {inside:.2f}"
        yield Row(design, "size", float((equal.compare((1, 2), asked).p < ALPHA).mean()), n, most=ALPHA)
        different = study(drawn, k, (1.1, 1.1), (0.0, 2.5), rho=rho)
        yield Row(design, "power", float((different.compare((1, 2), asked).p < ALPHA).mean()), n)
        alone = different.compare((1, 2), asked, guards=False)
        yield Row(design, "power by the pair's own variance", float((alone.p < ALPHA).mean()), n)
        unpaired = Study(drawn, k, different.scores)
        yield Row(design, "power unpaired", float((unpaired.compare((1, 2), asked).p < ALPHA).mean()), n)


def heavy_tails(drawn: Drawn) -> Iterator[Row]:
    """One comparison where a run's effect has no finite variance."""
    for k in (3, 5):
        found = study(drawn, k, (1.1, 1.1), tails=2).compare((1, 2), Asked(ALPHA, 1.0))
        rate = float((found.p < ALPHA).mean())
        yield Row(f"one pair, k={k}, run effects 1.1 t(2)", "size", rate, drawn.runs.shape[1], most=ALPHA)


def too_few_runs(drawn: Drawn) -> Iterator[Row]:
    """One or two runs read as a claim about methods, which a report refuses; hence no bound."""
    for k in (1, 2):
        found = study(drawn, k, (1.1, 1.1)).compare((1, 2), Asked(ALPHA, 1.0))
        rate = float((found.p < ALPHA).mean())
        yield Row(f"one pair, k={k}, run SD 1.1", "size if read as about methods", rate, drawn.runs.shape[1])


def collapses(drawn: Drawn) -> Iterator[Row]:
    """A run of B loses 25 points now and then and gains on A otherwise, so that the true means are equal.

    No interval for a mean of few runs can cover here, hence no bounds: a report shows runs, not only means.
    """
    rng, lost, n = np.random.default_rng(7), 25.0, drawn.runs.shape[1]
    for k, rate in ((3, 0.2), (5, 0.05), (5, 0.1), (5, 0.2)):
        calm = study(drawn, k, (0.5, 0.5))
        collapsed = rng.random((n, k)) < rate
        scores = calm.scores.copy()
        scores[:, :, 2, :k] += lost * rate - lost * collapsed
        found = replace(calm, scores=scores).compare((1, 2), Asked(ALPHA, 1.0))
        none = ~collapsed.any(1)
        better = (found.p < ALPHA) & (found.ci_low > 0)
        covers = [(found.ci_low <= true) & (found.ci_high >= true) for true in (0.0, lost * rate)]
        design = f"one pair, k={k}, {rate:.0%} of runs collapse by {lost:g}"
        yield Row(design, "no run collapsed", float(none.mean()), n)
        yield Row(design, "better, if no run collapsed", float(better[none].mean()), int(none.sum()))
        yield Row(design, "covers the mean", float(covers[0].mean()), n)
        yield Row(design, "covers the typical run, if no run collapsed", float(covers[1][none].mean()), int(none.sum()))


def run_pairs(draws: int) -> Iterator[Row]:
    """The interval for the probability that a run of B beats one of A."""
    rng = np.random.default_rng(10)
    for k in (3, 5, 10):
        for name, alike, gain in (
            *((f"normal, B ahead by {gain:g} SD", 1.0, gain) for gain in (0.0, 0.7, 1.5, 3.0)),
            *((f"normal, SD .3 / 2.3, B ahead by {gain:g}", 0.3, gain) for gain in (0.7, 3.0, 5.0)),
            *((f"t(2), B ahead by {gain:g}", -1.0, gain) for gain in (0.0, 3.0)),
            *((f"20% of B's runs collapse, B ahead by {gain:g} SD", 0.0, gain) for gain in (0.7, 5.0)),
        ):
            covers, wins = _covered(rng, draws, k, alike, gain)
            yield Row(f"B beats A, k={k}, {name} ({wins:.2f})", "coverage", covers, draws, least=1 - ALPHA)


def _covered(rng: np.random.Generator, draws: int, k: int, kind: float, gain: float) -> tuple[float, float]:
    """How often the interval covers the probability that a run of B beats one of A, and that probability."""

    def runs(n: int) -> tuple[Array, Array]:
        if kind < 0:
            return rng.standard_t(2, (draws, n)), gain + rng.standard_t(2, (draws, n))
        spread_a, spread_b = (kind, 2.3) if 0 < kind < 1 else (1.0, 1.0)
        a, b = spread_a * rng.standard_normal((draws, n)), gain + spread_b * rng.standard_normal((draws, n))
        return a, b - 25 * (rng.random((draws, n)) < 0.2) if kind == 0 else b

    a, b = runs(1000)
    true = float((b > a).mean())
    a, b = runs(k)
    shares = (b[:, :, None] > a[:, None, :]).mean((1, 2))
    ends = {share: better_interval(share, k, k, ALPHA) for share in np.unique(shares).tolist()}
    covered = [ends[share][0] <= true <= ends[share][1] for share in shares.tolist()]
    return float(np.mean(covered)), true


def equivalence(drawn: Drawn, spread: Spread) -> Iterator[Row]:
    """False equivalence at the margin, and how often equal methods are found equivalent within the planned one."""
    n = drawn.runs.shape[1]
    for k, sd in ((1, None), (3, 0.5), (3, 1.1), (5, 0.5), (5, 1.1)):
        margin = smallest_margin(spread, spread.layout, k, sd, ALPHA)
        design = f"one pair, k={k}" + (f", run SD {sd:g}" if sd else "") + f", planned margin {margin:.1f}"
        run_sd = (sd or 0.0,) * 2
        for measure, effect, bound in (
            ("equivalent at the margin", margin, {"most": ALPHA}),
            ("equivalent if equal", 0.0, {}),
        ):
            found = study(drawn, k, run_sd, (0.0, effect)).compare((1, 2), Asked(ALPHA, margin))
            yield Row(design, measure, float((found.p_equivalence < ALPHA).mean()), n, **bound)


def planned_power(drawn: Drawn, spread: Spread) -> Iterator[Row]:
    """The effect that a plan promises to detect, as the hardest of all pairs."""
    n = drawn.runs.shape[1]
    for k, sd in ((3, 1.1), (5, 1.1), (5, 2.3)):
        effect = detectable(spread, spread.layout, k, sd, ALPHA, 6)
        p = family(study(drawn, k, (sd,) * 3, (0.0, 0.0, effect)))[:, -1]
        yield Row(
            f"6 pairs, k={k}, run SD {sd:g}, planned {effect:.1f}", "power at level/6", float((p * 6 < ALPHA).mean()), n
        )


def tasks(drawn: Drawn) -> Iterator[Row]:
    """Reports in which nothing differs and some task is marked."""
    n = drawn.runs.shape[1]
    for k, m in ((1, 3), (1, 5), (3, 3), (3, 5)):
        of = study(drawn, k, (1.1 if k > 1 else 0.0,) * m)
        pairs = list(itertools.combinations(range(m + 1), 2))
        asked = Asked(ALPHA, 1.0, len(pairs) * (len(drawn.runs) - 1))
        p = np.stack([of.compare(pair, asked, task).p for pair in pairs for task in range(1, len(drawn.runs))], -1)
        rate = float((p.min(-1) * asked.tests < ALPHA).mean())
        yield Row(f"task marks, {len(pairs)} pairs, k={k}", "family-wise error", rate, n, most=ALPHA)


def unequal_rooms(draws: int) -> Iterator[Row]:
    """One room with many questions: size and coverage of one comparison."""
    rng, asked = np.random.default_rng(5), Asked(ALPHA, 1.0)
    for rooms, in_one in ((20, 0.5), (40, 0.5), (ROOMS, 0.3), (6, 0.0), (15, 0.0)):
        drawn = simulate(6, draws, vsi_bench(rng, rooms, in_one, 1283), (1, 3), methods=3, totals=True)
        for k in (1, 3):
            found = study(drawn, k, (1.1 if k > 1 else 0.0,) * 2).compare((1, 2), asked)
            where = f"{in_one:.0%} of the questions in one of {rooms} rooms" if in_one else f"{rooms} rooms"
            design = f"{where} ({drawn.effective:.1f} effective), k={k}"
            yield Row(design, "size", float((found.p < ALPHA).mean()), draws, most=ALPHA)
            covers = (found.ci_low <= 0) & (found.ci_high >= 0)
            yield Row(design, "coverage", float(covers.mean()), draws, least=1 - ALPHA)


def subsets(draws: int) -> Iterator[Row]:
    """One comparison of checkpoints on a part of the benchmark, whole rooms."""
    rng = np.random.default_rng(8)
    for questions, rooms in ((60, 3), (240, 13), (1600, 90)):
        drawn = simulate(9, draws, vsi_bench(rng, rooms, 0.0, questions), (1,), methods=3, totals=True)
        found = study(drawn, 1, (0.0, 0.0)).compare((1, 2), Asked(ALPHA, 1.0))
        rate = float((found.p < ALPHA).mean())
        yield Row(f"{questions} questions in {rooms} rooms, k=1", "size", rate, draws, most=ALPHA)


def spread_of(drawn: Drawn, layout: Layout) -> Spread:
    """What the answers are made of, for plans."""
    one, five = (float(drawn.variance[k, 1, 2][0].mean()) for k in (1, 5))
    per_run = (one - five) / (1 - 1 / 5)
    told = layout_of("drawn", VSIBench(), layout.types.tolist(), [str(room) for room in layout.rooms])
    return Spread(math.sqrt(one - per_run), math.sqrt(per_run), (1.1,), told, "drawn")


def main(draws: int) -> None:
    """Print the table."""
    started = time.process_time()
    layout = vsi_bench(np.random.default_rng(3))
    drawn = simulate(4, draws, layout, (1, 2, 3, 5))
    spread = spread_of(drawn, layout)
    rows = [
        *single(drawn),
        *families(drawn),
        *heavy_tails(drawn),
        *too_few_runs(drawn),
        *paired(drawn),
        *equivalence(drawn, spread),
        *planned_power(drawn, spread),
        *collapses(drawn),
        *run_pairs(draws),
        *tasks(drawn),
        *unequal_rooms(draws),
        *subsets(draws),
    ]
    lines = [
        (
            row.design,
            row.measure,
            f"{row.rate:.3f}",
            f"{row.error:.3f}",
            f"at most {row.most:g}"
            if row.most == row.most
            else f"at least {row.least:g}"
            if row.least == row.least
            else "",
            "" if row.holds else "FAILS",
        )
        for row in rows
    ]
    print(
        tabulate(
            lines, ["design", "measure", "rate", "MC error", "bound", ""], tablefmt="github", disable_numparse=True
        )
    )
    failing = sum(not row.holds for row in rows)
    print(
        f"\n{draws:,} draws a design, {time.process_time() - started:.0f} CPU seconds; clustered error of a pair with "
        f"one run each {math.hypot(spread.rooms, spread.rooms_per_run):.2f} points; {failing} of {len(rows)} rates out "
        "of bounds by more than two Monte-Carlo errors"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
