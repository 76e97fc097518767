"""How far scores vary, from a finished run directory: what a pilot tells a plan."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
from scipy import stats

from harness.api.benchmark import Benchmark
from harness.config.study import BASE
from harness.errors import UserError
from reports.statistics.paired import compare, default_pairs
from reports.statistics.power import Spread, default_spread, layout_of

UNMOVED = 0.95
"""Share of questions with the base model's score from which on a method has hardly been trained; between two runs of a
trained method it is about 0.86."""


def spread_from(answers: pd.DataFrame, benchmark: Benchmark, name: str) -> Spread:
    """The spread that a finished run shows.

    The error over rooms is that of the pairs between methods or with the base model, whichever is larger.

    Args:
        answers: Columns :data:`reports.statistics.answers.COLUMNS`, of one model.
        benchmark: Whose answers they are.
        name: What to call the run.

    Raises:
        UserError: There are not two methods to take a difference of, its error cannot be estimated, or no method moved
            from the base model.
    """
    methods = sorted(answers["method"].unique(), key=lambda method: method != BASE)
    pairs = default_pairs(methods)
    if not pairs:
        raise UserError(f"`--pilot {name}`: it has answers of one method only; a difference needs two")
    _refuse_unmoved(answers, name)
    of_base = [pair for pair in pairs if BASE in pair]
    groups = [group for group in (of_base, [pair for pair in pairs if pair not in of_base]) if group]
    parts = [np.array([_room_parts(answers, benchmark, a, b) for a, b in group]).mean(axis=0) for group in groups]
    rooms, per_run = max(parts, key=lambda one: float(one.sum()))
    if math.isnan(rooms):
        raise UserError(f"`--pilot {name}`: its questions are of too few {benchmark.cluster}s to estimate an error")
    by_question = answers.drop_duplicates("question")
    layout = layout_of(name, benchmark, by_question["type"].tolist(), by_question["cluster"].tolist())
    runs, found = _run_spread(answers, benchmark)
    source = f"the pilot {name}: {len(pairs)} pairs{', those with the base model included' if of_base else ''}, {found}"
    return Spread(math.sqrt(rooms), math.sqrt(per_run), runs or default_spread().runs, layout, source)


def _refuse_unmoved(answers: pd.DataFrame, name: str) -> None:
    """Answers that training has hardly changed vary little, which says nothing of a study that trains."""
    base = answers[answers["method"] == BASE].groupby("question", observed=True)["score"].mean()
    trained = answers[answers["method"] != BASE]
    if base.empty or trained.empty:
        return
    same = (trained["score"] - trained["question"].map(base)).abs() < 1e-9
    shares = same.groupby(trained["method"]).mean()
    if (shares >= UNMOVED).all():
        raise UserError(
            f"`--pilot {name}`: its methods score as the base model does on {shares.min():.0%} of the questions or "
            "more. They were hardly trained, and how little they differ says nothing about the study: name a run "
            "directory with the study's budget, or leave --pilot out"
        )


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
    default = default_spread()
    usual = one * default.rooms**2 / (default.rooms**2 + default.rooms_per_run**2)
    if shrink == 1:  # one run a side: their shares are not known, and the defaults' are taken
        return usual, one - usual
    mean = _room_variance(pd.concat(runs), benchmark, a, b)
    per_run = min(max((one - mean) / (1 - shrink), 0.0), one)
    # The difference of two estimates may leave nothing that lasts, which would promise that runs buy everything.
    lasting = max(one - per_run, usual / 4)
    return lasting, one - lasting


def _room_variance(answers: pd.DataFrame, benchmark: Benchmark, a: str, b: str) -> float:
    """Squared room-clustered error of the difference of mean answers: one merged run a side."""
    merged = answers.groupby(
        ["question", "type", "cluster", "model", "method"], as_index=False, sort=False, observed=True
    )["score"].mean()
    return compare(merged.assign(seed=0), [(a, b)], benchmark=benchmark, resamples=0)[0].standard_error ** 2


def _run_spread(answers: pd.DataFrame, benchmark: Benchmark) -> tuple[tuple[float, ...], str]:
    """Standard deviation between runs of a method, pooled, between the ends of its 95% interval."""
    counts = Counter(answers.drop_duplicates("question")["type"])
    weights = pd.Series(benchmark.weights(counts)[1][0], index=list(counts))
    trained = answers[answers["method"] != BASE]
    means = trained.groupby(["model", "method", "seed", "type"], observed=True)["score"].mean().unstack()
    scores = 100 * (means * weights).sum(axis=1)
    by_method = scores.groupby(["model", "method"])
    df = int((by_method.count() - 1).sum())
    squares = float((by_method.var(ddof=1).fillna(0) * (by_method.count() - 1)).sum())
    if df < 1 or squares == 0:
        return (), "one run a method, so that the spread of training runs is assumed"
    low, found, high = (math.sqrt(squares / of) for of in (stats.chi2.ppf(0.975, df), df, stats.chi2.ppf(0.025, df)))
    return (low, found, high), (
        f"runs vary by {found:.2f} points, {low:.2f} to {high:.2f} (95%), with {df} df, the sampling of its "
        f"{sum(counts.values()):,} questions included"
    )
