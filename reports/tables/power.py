"""What a study could find before it is run: the detectable effects as a table and in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
        vary = math.sqrt(spread.run_variance(runs, layout)) if runs is not None else 0.0
        label = "these checkpoints" if runs is None else f"the methods, run SD {vary:.1f}"
        values = [tuple(detectable(spread, layout, k, runs, alpha, n) for n in (1, tests)) for k in seeds]
        rows.append(Row((Cell(("checkpoints" if runs is None else "methods", runs), label), *map(Cell, values))))
    return Table(
        title=f"Differences in overall score detectable with 80% power on {layout.name}",
        columns=columns,
        rows=tuple(rows),
        caption=f"Points, for two methods with that many runs each, two-sided level {alpha:g}; in brackets the worst "
        f"case of Holm's correction over {count(tests, 'pair')}. A run SD is that of scores on this benchmark. Fewer "
        f"than {SEEDS_FOR_METHODS} seeds allow no claim about methods. {count(layout.questions, 'question')} about "
        f"{count(layout.rooms, layout.cluster)}. Source: {spread.source}.",
    )


def advice(spread: Spread, layout: Layout, planned: int, alpha: float, tests: int) -> Iterator[str]:
    """The same in sentences: what the plan detects, how sure that is, and what to buy next."""
    middle, low, high = spread.typical, min(spread.runs), max(spread.runs)
    checkpoints = detectable(spread, layout, planned, None, alpha, tests)
    hardest = f"even as the hardest of {count(tests, 'pair')}" if tests > 1 else "for the one pair"
    yield (
        f"With {count(planned, 'seed')} per method, a difference of {checkpoints:.1f} points between checkpoints is "
        f"detected with 80% power, {hardest} after correction."
    )
    enough = planned >= SEEDS_FOR_METHODS
    k = planned if enough else SEEDS_FOR_METHODS

    def needed(k: int, runs: float, of: Layout = layout) -> float:
        return detectable(spread, of, k, runs, alpha, tests)

    if not enough:
        yield f"Fewer than {SEEDS_FOR_METHODS} seeds allow no claim about methods; what follows is for {k} per method."
    vary = math.sqrt(spread.run_variance(middle, layout))
    yield (
        f"Methods must differ by {needed(k, middle):.1f} points if scores vary by {vary:.1f} points (SD) between "
        f"training runs; by {needed(k, low):.1f} to {needed(k, high):.1f} over the range of that SD in the table."
    )
    twice = replace(layout, questions=2 * layout.questions, rooms=2 * layout.rooms, effective=2 * layout.effective)
    now, seed, questions = needed(k, middle), needed(k + 1, middle), needed(k, middle, twice)
    more = f"twice as many questions about twice as many {layout.cluster}s"
    buys = f"lower it to {questions:.1f}" if questions < now - 0.05 else "do not lower it"
    better = "Another seed" if seed < questions else "More questions"
    yield f"One more seed per method lowers that to {seed:.1f}; {more} {buys}. {better} would buy more."
    margin = smallest_margin(spread, layout, planned, middle if enough else None, alpha, tests)
    yield (
        f"Equal {'methods' if enough else 'checkpoints'} are found equivalent with 80% power within a margin of "
        f"{margin:.1f} points or more."
    )
    floor = smallest_detectable(spread, layout, alpha, tests)
    yield (
        f"With any number of seeds, these {layout.cluster}s cannot resolve differences below about {floor:.1f} points."
    )
