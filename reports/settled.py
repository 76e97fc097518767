"""The tests of a study with what it leaves open worked out: which pairs, and within which margin they are equivalent.

Both follow from the plan alone, never from a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.config.study import ReportSection
from reports.statistics import MARGIN, SEEDS_FOR_METHODS, Layout, default_pairs, default_spread, smallest_margin

WIDEST_MARGIN = 5.0
"""Points: no wider margin is chosen unasked, since few would call methods that differ by more equivalent. A study that
cannot resolve it leaves equal methods undecided."""


def settled(section: ReportSection, methods: Sequence[str], seeds: int, layout: Layout) -> ReportSection:
    """A study's tests with pairs and margin.

    Args:
        section: What the study says.
        methods: Its methods, ``base`` included if it is there.
        seeds: Runs of each trained method.
        layout: The questions asked.
    """
    pairs = section.pairs or tuple(default_pairs(methods))
    margin = section.margin or default_margin(layout, seeds, section.alpha, len(pairs))
    return section.model_copy(update={"pairs": pairs, "margin": margin})


def default_margin(layout: Layout, seeds: int, alpha: float, tests: int) -> float:
    """The smallest margin within which equal methods are found equivalent with 80% power, rounded up to a tenth.

    At most :data:`WIDEST_MARGIN`. Runs are assumed to vary as :func:`reports.statistics.default_spread` states. Where
    nothing can be tested, since all questions share one cluster, it is :data:`reports.statistics.MARGIN`.
    """
    if layout.rooms < 2 or not tests:
        return MARGIN
    spread = default_spread()
    runs = spread.typical if seeds >= SEEDS_FOR_METHODS else None
    return min(math.ceil(10 * smallest_margin(spread, layout, seeds, runs, alpha, tests)) / 10, WIDEST_MARGIN)
