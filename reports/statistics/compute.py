"""What training cost: device seconds, forward passes and completion tokens, from what finished cells recorded."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from harness.config.study import BASE
from harness.train.meter import Consumption
from reports.collect import CellResult

COSTS = {
    "seconds": "device seconds",
    "forward_passes": "forward passes",
    "tokens": "completion tokens",
}
"""What :class:`harness.train.meter.Consumption` meters besides the budget, by attribute, in words."""


def training_costs(cells: Iterable[CellResult]) -> dict[str, dict[str, float]]:
    """By trained method, the :data:`COSTS` of a run: means over its finished runs that recorded them."""
    runs: dict[str, list[Consumption]] = {}
    for cell in cells:
        if cell.state == "done" and cell.method != BASE and cell.consumed:
            runs.setdefault(cell.method, []).append(cell.consumed)
    return {m: {key: statistics.fmean(getattr(one, key) for one in of) for key in COSTS} for m, of in runs.items()}
