"""Benchmarks beside the headline: a table of each, never mixed into VSI-Bench's score, described and not tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm

from harness.api.benchmark import Benchmark
from harness.config.study import BASE
from harness.errors import UserError
from harness.io import read_json
from harness.plugins import registry
from harness.study.evaluation import MANIFEST
from harness.study.matrix import CELLS
from reports.collect import STEP_FOLDER, CellResult, Collected
from reports.tables import Cell, Column, Row, Table

MOST_CATEGORIES = 8
"""Categories that get a column; with more there is none."""


def beside_scores(collected: Collected, run_dir: Path, name: str) -> pd.DataFrame:
    """Every question's score on every evaluated checkpoint.

    Args:
        collected: The study's results.
        run_dir: Where its cells are.
        name: A benchmark of ``evaluation.more``.

    Returns:
        One row an answer: method, seed, step, last (of the reported checkpoint), id, category, cluster, score,
        truncated.

    Raises:
        UserError: Two cells answered different questions, or in different words.
    """
    benchmark: Benchmark = registry.create("benchmarks", name, collected.study.evaluation.more[name])
    frames: list[pd.DataFrame] = []
    first: tuple[str, dict[str, str]] | None = None
    for cell in collected.cells:
        folders = _evaluations(run_dir / CELLS / cell.cell / name) if cell.state == "done" else []
        for folder in folders:
            identity = {k: v for k, v in read_json(folder / MANIFEST)["identity"].items() if k != "weights"}
            first = first or (cell.cell, identity)
            _refuse_unequal(name, first, (cell.cell, identity))
            rows = pd.DataFrame(benchmark.question_scores(folder, benchmark.dataset() or collected.benchmark))
            step = int(folder.name.split("-")[1])
            frames.append(rows.assign(method=cell.method, seed=cell.seed, step=step, last=folder == folders[-1]))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def beside_table(scores: pd.DataFrame, labels: Mapping[str, str], name: str, cells: Sequence[CellResult]) -> Table:
    """One row a method: its score at the reported checkpoint, and how far it is from the base model's.

    Args:
        scores: As :func:`beside_scores` gives them, not empty.
        labels: What to call each method, in the order to show.
        name: The benchmark.
        cells: The study's, to say how many seeds are missing.
    """
    last = scores[scores["last"]]
    kinds = list(dict.fromkeys(last["category"]))
    kinds = kinds if 1 < len(kinds) <= MOST_CATEGORIES else []
    columns = [
        Column("Method", ("method",), align="left"),
        Column("Seeds", ("seeds",)),
        Column("Score", ("score", "deviation"), "{:.1f} \N{PLUS-MINUS SIGN} {:.1f}"),
        Column("Change from base\n[95%]", ("change", "low", "high"), "{:+.1f} [{:+.1f}, {:+.1f}]"),
        *(Column(kind, (f"category_{kind}",), "{:.1f}", light=True) for kind in kinds),
        Column("Trunc. %", ("truncated",), "{:.1f}"),
    ]
    rows = []
    for method, label in labels.items():
        mine = last[last["method"] == method]
        planned = sum(cell.method == method for cell in cells)
        if mine.empty:
            empty = (Cell((None,) * len(column.keys)) for column in columns[2:])
            rows.append(Row((Cell((method,), label), Cell((0,), f"0 of {planned}"), *empty)))
            continue
        seeds = 100 * mine.groupby("seed")["score"].mean()
        spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
        text = None if spread is not None else f"{seeds.mean():.1f}"
        parts = [Cell((100 * float(mine.loc[mine["category"] == kind, "score"].mean()),)) for kind in kinds]
        seen = f"{len(seeds)} of {planned}" if len(seeds) < planned else str(len(seeds))
        rows.append(
            Row(
                (
                    Cell((method,), label),
                    Cell((len(seeds),), seen),
                    Cell((float(seeds.mean()), spread), text),
                    _change(last, method),
                    *parts,
                    Cell((100 * float(mine["truncated"].mean()),)),
                )
            )
        )
    count, clusters = last["id"].nunique(), last["cluster"].nunique()
    return Table(
        f"Beside VSI-Bench: {name}",
        tuple(columns),
        tuple(rows),
        caption=f"Share of right answers of {count} questions about {clusters} images or scenes, in percent, at the "
        "reported checkpoint; mean and standard deviation over seeds. The change is paired by question and averaged "
        "over seeds; its interval is clustered by image or scene and is about these checkpoints. Description only: it "
        "is part of no test and of no other score.",
    )


def _change(last: pd.DataFrame, method: str) -> Cell:
    """A method's mean change from the base model over the questions, with its clustered interval."""
    means = {
        who: last[last["method"] == who].groupby(["id", "cluster"], sort=True)["score"].mean() for who in (BASE, method)
    }
    if method == BASE or means[BASE].empty:
        return Cell((None, None, None))
    difference = 100 * (means[method] - means[BASE]).dropna()
    low, high = clustered_interval(difference.to_numpy(), difference.index.get_level_values("cluster").to_numpy())
    mean = float(difference.mean())
    if math.isnan(low):
        return Cell(
            (mean, None, None), f"{mean:+.1f}", note="no interval: one image or scene alone, or all questions alike"
        )
    return Cell((mean, low, high))


def clustered_interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean whose values share clusters: least squares on a constant, clustered, by Student's t.

    NaN with one cluster, and without any spread: neither says how far off the mean may be.
    """
    _, codes = np.unique(clusters, return_inverse=True)
    if len(np.unique(codes)) < 2 or np.ptp(values) == 0:
        return math.nan, math.nan
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    low, high = fit.conf_int(0.05)[0]
    return float(low), float(high)


def beside_tables(
    collected: Collected, run_dir: Path, labels: Mapping[str, str]
) -> dict[str, tuple[Table, pd.DataFrame]]:
    """By benchmark: its table, and its score on every evaluated checkpoint (method, seed, step, score in percent).

    A benchmark that no finished cell was evaluated on has none.
    """
    found = {}
    for name in collected.study.evaluation.more:
        scores = beside_scores(collected, run_dir, name)
        if not scores.empty:
            curve = scores.groupby(["method", "seed", "step"], sort=False)["score"].mean().mul(100).reset_index()
            found[name] = beside_table(scores, labels, name, collected.cells), curve
    return found


def _evaluations(folder: Path) -> list[Path]:
    return sorted(
        path.parent
        for path in folder.glob(f"*/{MANIFEST}")
        if STEP_FOLDER.fullmatch(path.parent.name) and read_json(path)["complete"]
    )


def _refuse_unequal(name: str, one: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]]) -> None:
    for key in sorted(one[1].keys() | other[1].keys()):
        if key != "decoding" and one[1].get(key) != other[1].get(key):
            raise UserError(
                f"{one[0]} and {other[0]} answered the benchmark {name} differently and must not be compared: {key} is "
                f"{one[1].get(key)!r} and {other[1].get(key)!r}. Run `harness compare` again to evaluate both alike"
            )
