"""What training cost, and scores at equal cost: device seconds, forward passes and completion tokens."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel

from harness.config.study import BASE
from harness.io import read_sealed
from harness.study.matrix import CELLS
from harness.train.checkpoint import MANIFEST, folder_name
from harness.train.meter import Consumption
from harness.train.run import CHECKPOINTS
from harness.train.tracking import METRICS_FILE, read_metrics
from reports.collect import CellResult, Collected
from reports.statistics.contrast import Contrast, overall
from reports.statistics.paired import compare

COSTS = {
    "seconds": "device seconds",
    "forward_passes": "forward passes",
    "tokens": "completion tokens",
}
"""What :class:`harness.train.meter.Consumption` meters besides the budget, by attribute, in words."""


@dataclass(frozen=True)
class EqualCost:
    """Every method when each of its runs had cost the same.

    Attributes:
        cost: A key of :data:`COSTS`.
        at: The most that every run reached: what the run that cost least cost in all.
        used: By method, what a run cost in all, mean over its runs.
        scores: By method, its score as a difference from 0.
        differences: Of the pairs of methods.
        left_out: Methods whose cost is not known, or whose score before their first checkpoint is not.
    """

    cost: str
    at: float
    used: Mapping[str, float]
    scores: Mapping[str, Contrast]
    differences: Sequence[Contrast]
    left_out: Sequence[str]


def training_costs(cells: Iterable[CellResult]) -> dict[str, dict[str, float]]:
    """By trained method, the :data:`COSTS` of a run: means over its finished runs that recorded them."""
    runs: dict[str, list[Consumption]] = {}
    for cell in cells:
        if cell.state == "done" and cell.method != BASE and cell.consumed:
            runs.setdefault(cell.method, []).append(cell.consumed)
    return {m: {key: statistics.fmean(getattr(one, key) for one in of) for key in COSTS} for m, of in runs.items()}


def checkpoint_costs(collected: Collected) -> pd.DataFrame:
    """What training had consumed at every evaluated checkpoint; nothing at the base model.

    A checkpoint's manifest says it. Where that was deleted, the cell's record says it of the last checkpoint, and the
    log says how many examples the earlier ones had seen.

    Returns:
        One row a run and checkpoint: method, seed, step, order (1 is a run's first, 0 the base model), examples and
        :data:`COSTS`; NaN where they are not known.
    """
    cells = {(cell.method, cell.seed): cell for cell in collected.cells}
    keys = list(collected.headline.points)
    runs = pd.DataFrame(keys, columns=["method", "seed", "step"])
    runs["order"] = runs.groupby(["method", "seed"])["step"].rank().astype(int) - (runs["method"] == BASE)
    consumed = [_consumed(collected.run_dir, cells[method, seed], step) for method, seed, step in keys]
    return runs.join(pd.DataFrame(consumed, columns=["examples", *COSTS], dtype=float))


def equal_costs(
    collected: Collected, pairs: Sequence[tuple[str, str]], alpha: float, variants: Sequence[Collection[str]] = ()
) -> list[EqualCost]:
    """The methods at equal cost, by every cost that is known; exploratory.

    Between two checkpoints, the first of which is the base model, a run is taken to score each question on the line
    between the two; nothing is extrapolated. The statistics are those of :func:`compare` for such runs.

    Args:
        collected: A study's results.
        pairs: (A, B) names of trained methods, for the differences B minus A.
        alpha: 1 - level of the intervals, which are not corrected.
        variants: As :func:`compare` takes them.
    """
    answers, places = collected.headline.answers, checkpoint_costs(collected)
    scores = answers.pivot(index="question", columns=["method", "seed", "step"], values="score")
    questions = answers.drop_duplicates("question").set_index("question")[["model", "type", "cluster"]]
    trained = [method for method in collected.study.methods if method in set(answers["method"])]
    found = []
    for cost in COSTS:
        paths = {m: of for m in trained if (of := _paths(places, m, cost))}
        used = {m: statistics.fmean(path[cost].iloc[-1] for path in of.values()) for m, of in paths.items()}
        at = min((path[cost].iloc[-1] for of in paths.values() for path in of.values()), default=0.0)
        kept = [m for m, of in paths.items() if all(path[cost].iloc[0] <= at for path in of.values())]
        if not kept:
            continue
        runs = [
            questions.assign(method=m, seed=seed, score=_on_the_line(scores, path, cost, at))
            for m in kept
            for seed, path in paths[m].items()
        ]
        frame = pd.concat([questions.assign(method=BASE, seed=0, score=0.0), *runs]).reset_index()
        wanted = [*((BASE, m) for m in kept), *((a, b) for a, b in pairs if {a, b} <= set(kept))]
        rules = collected.headline.benchmark
        contrasts = overall(compare(frame, wanted, benchmark=rules, alpha=alpha, resamples=0, variants=variants))
        of_methods = {c.b: c for c in contrasts if c.a == BASE}
        between = [c for c in contrasts if c.a != BASE]
        found.append(EqualCost(cost, float(at), used, of_methods, between, [m for m in trained if m not in kept]))
    return found


def pareto_front(points: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Of methods as (cost, score), those that no other equals in score for less, or exceeds for as much; by cost."""
    front = {
        m: (cost, score)
        for m, (cost, score) in points.items()
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points.values())
    }
    return dict(sorted(front.items(), key=lambda item: item[1]))


def _paths(places: pd.DataFrame, method: str, cost: str) -> dict[int, pd.DataFrame]:
    """By seed, a run's checkpoints of known cost, the base model first; {} unless all runs' whole cost is known."""
    start = places[places["method"] == BASE]
    paths = {}
    for seed, run in places[places["method"] == method].sort_values("order").groupby("seed"):
        if not run[cost].iloc[-1] > 0:
            return {}
        paths[int(str(seed))] = pd.concat([start, run.dropna(subset=[cost])])
    return paths


def _on_the_line(scores: pd.DataFrame, path: pd.DataFrame, cost: str, at: float) -> pd.Series[float]:
    """The score of each question at this cost."""
    checkpoints = list(path[["method", "seed", "step"]].itertuples(index=False, name=None))
    shares = np.array([np.interp(at, path[cost], one) for one in np.eye(len(path))])
    return pd.Series(scores[checkpoints].to_numpy() @ shares, scores.index)


def _consumed(run_dir: Path, cell: CellResult, step: int) -> dict[str, float]:
    """Examples and costs until a checkpoint, as far as they are known."""
    if cell.method == BASE:
        return dict.fromkeys(("examples", *COSTS), 0.0)
    folder = run_dir / CELLS / cell.cell / CHECKPOINTS / folder_name(step)
    spent = cell.consumed if folder.name == list(cell.weights)[-1] else None
    if (folder / MANIFEST).is_file():
        found = read_sealed(_Manifest, folder / MANIFEST, "Delete the checkpoint's folder, whose answers stay")
        if found.digest == cell.weights[folder.name]:
            spent = found.consumed or spent
    if spent:
        return {key: float(getattr(spent, key)) for key in ("examples", *COSTS)}
    logged = [line for line in read_metrics(run_dir / CELLS / cell.cell / METRICS_FILE) if line["step"] <= step]
    return {"examples": logged[-1]["examples"]} if logged and logged[-1].get("examples") is not None else {}


class _Manifest(BaseModel):
    """What is read of a checkpoint's manifest."""

    digest: str
    consumed: Consumption | None = None
