"""Paired comparisons, intervals, curves and power. Other rooms import from here."""

from reports.statistics.collapse import Collapses, collapses
from reports.statistics.combined import Combined, combine_estimates, estimate_of
from reports.statistics.compute import COSTS, EqualCost, equal_costs, pareto_front, training_costs
from reports.statistics.contrast import (
    MARGIN,
    OVERALL,
    SEEDS_FOR_METHODS,
    Contrast,
    disagreements,
    level,
    overall,
    verdict_words,
)
from reports.statistics.curves import LEVEL, learning_curves, score_intervals, training_metrics
from reports.statistics.inference import FEW_CLUSTERS, holm
from reports.statistics.looks import look_level
from reports.statistics.paired import compare, default_pairs
from reports.statistics.pilot import spread_from
from reports.statistics.power import (
    Layout,
    Spread,
    default_spread,
    detectable,
    layout_of,
    smallest_detectable,
    smallest_margin,
    vsi_bench_layout,
)
from reports.statistics.repeats import refuse_repeats, repeat_notes

__all__ = [
    "COSTS",
    "FEW_CLUSTERS",
    "LEVEL",
    "MARGIN",
    "OVERALL",
    "SEEDS_FOR_METHODS",
    "Collapses",
    "Combined",
    "Contrast",
    "EqualCost",
    "Layout",
    "Spread",
    "collapses",
    "combine_estimates",
    "compare",
    "default_pairs",
    "default_spread",
    "detectable",
    "disagreements",
    "equal_costs",
    "estimate_of",
    "holm",
    "layout_of",
    "learning_curves",
    "level",
    "look_level",
    "overall",
    "pareto_front",
    "refuse_repeats",
    "repeat_notes",
    "score_intervals",
    "smallest_detectable",
    "smallest_margin",
    "spread_from",
    "training_costs",
    "training_metrics",
    "verdict_words",
    "vsi_bench_layout",
]
