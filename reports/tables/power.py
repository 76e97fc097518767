"""What a study could find before it is run: the detectable effects as a table and in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from reports.statistics import SEEDS_FOR_METHODS, Layout, Spread, detectable, smallest_detectable, smallest_margin
from reports.tables.table import Cell, Column, Row, Table
from reports.text import count


def power_table(spread: Spread, layout: Layout, seeds: Sequence[int], alpha: float, tests: int) -> Table:
    """Detectable effects by claim and number of seeds.

    Args:
        spread: How far scores vary.
        layout: The planned benchmark.
        seeds: Numbers of seeds to show.
        alpha: Two-sided level.
        tests: Confirmatory pairs, for the worst case of Holm's correction.
    """
    columns = (
        Column("Claim", ("claim", "run_sd"), align="left"),
        *(Column(count(k, "seed"), (f"k{k}", f"k{k}_holm"), "{:.1f} [{:.1f}]") for k in seeds),
    )
    rows = []
    for runs in (None, *spread.runs):
        label = "these checkpoints" if runs is None else f"the methods, run SD {runs:.1f}"
        values = [tuple(detectable(spread, layout, k, runs, alpha, n) for n in (1, tests)) for k in seeds]
        rows.append(Row((Cell(("checkpoints" if runs is None else "methods", runs), label), *map(Cell, values))))
    return Table(
        title=f"Differences in overall score detectable with 80% power on {layout.name}",
        columns=columns,
        rows=tuple(rows),
        caption=f"Points, for two methods with that many runs each, two-sided level {alpha:g}; in brackets the worst "
        f"case of Holm's correction over {count(tests, 'pair')}. Differences from the base model need less, because "
        f"it does not vary. Fewer than {SEEDS_FOR_METHODS} seeds allow no claim about methods. "
        f"{count(layout.questions, 'question')} about {count(layout.rooms, layout.cluster)}. Source: {spread.source}.",
    )


def advice(spread: Spread, layout: Layout, planned: int, alpha: float, tests: int) -> Iterator[str]:
    """The same in sentences: what the plan detects, what one more seed adds, and what no number of seeds detects."""
    middle = spread.typical
    now, more = (detectable(spread, layout, k, middle, alpha, tests) for k in (planned, planned + 1))
    checkpoints = detectable(spread, layout, planned, None, alpha, tests)
    vary = f"if scores vary by {middle:.1f} points (SD) between training runs"
    yield (
        f"With {count(planned, 'seed')} per method, a difference of {checkpoints:.1f} points between checkpoints is "
        f"detected with 80% power, even as the hardest of {count(tests, 'pair')}."
    )
    if math.isnan(now):
        least = detectable(spread, layout, SEEDS_FOR_METHODS, middle, alpha, tests)
        yield (
            f"Fewer than {SEEDS_FOR_METHODS} seeds allow no claim about methods; with {SEEDS_FOR_METHODS} per method, "
            f"methods must differ by {least:.1f} points, {vary}."
        )
    else:
        yield f"Methods must differ by {now:.1f} points, {vary}. One more seed per method lowers that to {more:.1f}."
    claim = None if math.isnan(now) else middle
    margin = smallest_margin(spread, layout, planned, claim, alpha, tests)
    yield (
        f"Equal {'checkpoints' if claim is None else 'methods'} are found equivalent with 80% power within a margin of "
        f"{margin:.1f} points or more."
    )
    floor = smallest_detectable(spread, layout, alpha)
    yield (
        f"With any number of seeds, these {layout.cluster}s cannot resolve differences below about {floor:.1f} points."
    )
