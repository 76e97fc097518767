"""What the figures draw, as tables: scores with intervals, learning curves, what training logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.api.benchmark import Benchmark
from harness.study.matrix import CELLS
from harness.train.tracking import METRICS_FILE, read_metrics
from reports.collect import Collected
from reports.statistics.compute import COSTS, checkpoint_costs
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
        Lines, one row a run and checkpoint: as :func:`checkpoint_costs`, and score. Bands, one row a method and
        checkpoint, means over seeds: method, order, score, low, high, examples and costs, NaN where one is not known.
    """
    headline, lines = collected.headline, checkpoint_costs(collected)
    lines["score"] = [by[headline.scorer].figures.overall for by in headline.points.values()]
    answers = headline.answers.merge(lines[["method", "seed", "step", "order"]], on=["method", "seed", "step"])
    bands = []
    for (method, order), group in answers.groupby(["method", "order"], sort=False):
        mine = lines[(lines["method"] == method) & (lines["order"] == order)]
        means = mine[["examples", *COSTS]].mean(skipna=False)
        band = score_intervals(group, headline.benchmark).loc[OVERALL]
        bands.append({"method": method, "order": order, **band.to_dict(), **means.to_dict()})
    return lines.sort_values(["method", "order", "seed"]), pd.DataFrame(bands).sort_values(["method", "order"])


def training_metrics(collected: Collected) -> pd.DataFrame:
    """Everything the finished cells logged, one row per step: method, seed, step, examples and the logged numbers."""
    frames = []
    for cell in collected.cells:
        if cell.state == "done" and (lines := _logged(collected.run_dir, cell.cell)):
            frames.append(pd.DataFrame(lines).assign(method=cell.method, seed=cell.seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["method", "seed", "step"])


def _logged(run_dir: Path, cell: str) -> list[dict[str, Any]]:
    return read_metrics(run_dir / CELLS / cell / METRICS_FILE)
