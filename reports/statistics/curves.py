"""What the figures draw, as tables: scores with intervals, what training consumed, what it logged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from pydantic import BaseModel

from harness.api.benchmark import Benchmark
from harness.config.study import BASE
from harness.io import read_sealed
from harness.study.matrix import CELLS
from harness.train.checkpoint import MANIFEST, folder_name
from harness.train.meter import Consumption
from harness.train.run import CHECKPOINTS
from harness.train.tracking import METRICS_FILE, read_metrics
from reports.collect import CellResult, Collected
from reports.statistics.contrast import OVERALL
from reports.statistics.paired import compare

LEVEL = 0.95
"""Level of every interval drawn."""


def score_intervals(answers: pd.DataFrame, benchmark: Benchmark, level: float = LEVEL) -> pd.DataFrame:
    """Scores of one method at one checkpoint, with intervals over clusters such as rooms.

    Each question is first averaged over the seeds. The intervals are those of a comparison with a score of 0.

    Args:
        answers: One row an answer: question, type, cluster, score (0 to 1).
        benchmark: Whose answers they are; it weighs the question types.
        level: Of the interval, by Student's t with clusters - 1 degrees of freedom.

    Returns:
        Rows ``overall`` and the tasks present, columns score, low, high in points; low and high are NaN where the
        questions of a task are of one cluster only.
    """
    mean = answers.groupby(["question", "type", "cluster"], observed=True, as_index=False)["score"].mean()
    mean = mean.assign(model="", seed=0)
    both = pd.concat([mean.assign(method="this"), mean.assign(method="zero", score=0.0)])
    found = compare(both, [("zero", "this")], benchmark=benchmark, alpha=1 - level, resamples=0)
    # Of few clusters an interval is as wide as what is possible, which for a score is less than for a difference.
    rows = {c.task: (c.difference, *np.clip([c.ci_low, c.ci_high], 0, 100)) for c in found}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["score", "low", "high"])


def learning_curves(collected: Collected) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The benchmark score at every checkpoint, the base model first.

    Checkpoints of different seeds belong together by their order, since a budget in seconds ends at other steps.

    Returns:
        Lines, one row a run and checkpoint: method, seed, order, step, score, examples, seconds. Bands, one row a
        method and checkpoint, means over seeds: method, order, score, low, high, examples, seconds. ``examples`` and
        ``seconds`` are NaN where no cell recorded them.
    """
    headline = collected.headline
    answers, benchmark = headline.answers, headline.benchmark
    runs = answers[["method", "seed", "step"]].drop_duplicates()
    runs["order"] = runs.groupby(["method", "seed"])["step"].rank().astype(int) - (runs["method"] == BASE)
    answers = answers.merge(runs, on=["method", "seed", "step"])
    cells = {(cell.method, cell.seed): cell for cell in collected.cells}
    lines, bands = [], []
    for (method, order), group in answers.groupby(["method", "order"], sort=False):
        found = []
        for seed, step in sorted(set(zip(group["seed"], group["step"], strict=True))):
            overall = headline.points[str(method), cast(int, seed), cast(int, step)][headline.scorer].figures.overall
            where = {"method": method, "seed": seed, "order": order, "step": step, "score": overall}
            found.append(where | _consumed(collected.run_dir, cells[str(method), cast(int, seed)], cast(int, step)))
        lines += found
        means = pd.DataFrame(found)[["examples", "seconds"]].mean()
        band = score_intervals(group, benchmark).loc[OVERALL]
        bands.append({"method": method, "order": order, **band.to_dict(), **means.to_dict()})
    return (
        pd.DataFrame(lines).sort_values(["method", "order", "seed"]),
        pd.DataFrame(bands).sort_values(["method", "order"]),
    )


def training_metrics(collected: Collected) -> pd.DataFrame:
    """Everything the finished cells logged, one row per step: method, seed, step, examples and the logged numbers."""
    frames = []
    for cell in collected.cells:
        if cell.state == "done" and (lines := _logged(collected.run_dir, cell.cell)):
            frames.append(pd.DataFrame(lines).assign(method=cell.method, seed=cell.seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["method", "seed", "step"])


def _consumed(run_dir: Path, cell: CellResult, step: int) -> dict[str, float]:
    """Examples and device seconds until a checkpoint: from its manifest, else summed from the log."""
    if cell.method == BASE:
        return {"examples": 0.0, "seconds": 0.0}
    unknown = {"examples": math.nan, "seconds": math.nan}
    folder = run_dir / CELLS / cell.cell / CHECKPOINTS / folder_name(step)
    if (folder / MANIFEST).is_file():
        found = read_sealed(_Manifest, folder / MANIFEST, "Delete the checkpoint's folder, whose answers stay")
        if found.consumed and found.digest == cell.weights[folder.name]:
            return {key: float(getattr(found.consumed, key)) for key in unknown}
    lines = [line for line in _logged(run_dir, cell.cell) if line["step"] <= step]
    if not lines:
        return unknown
    examples = lines[-1].get("examples")
    return {
        "examples": math.nan if examples is None else float(examples),
        "seconds": math.fsum(line.get("seconds") or 0 for line in lines),
    }


class _Manifest(BaseModel):
    """What is read of a checkpoint's manifest."""

    digest: str
    consumed: Consumption | None = None


def _logged(run_dir: Path, cell: str) -> list[dict[str, Any]]:
    return read_metrics(run_dir / CELLS / cell / METRICS_FILE)
