"""The figure of single runs: a dot for each, so that one that collapsed is seen beside the mean that hides it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.config.study import BASE
from reports.page.figures import BASE_COLOUR, INK, PAPER, STYLE, Palette, add_legend, new_axes
from reports.tables import Runs

_APART = 0.13
"""Between dots of one method, in rows."""


@mpl.rc_context(STYLE)
def run_dots(runs: Runs, palette: Palette, labels: Mapping[str, str]) -> Figure:
    """The overall score of every run, by method, with the mean of all runs; collapsed ones are hollow.

    Args:
        runs: Of the trained methods and the base model.
        palette: Colours of the methods.
        labels: Display names of the methods.
    """
    methods = palette.ordered(runs.scores)
    figure, axes = new_axes(0.75 + 0.3 * len(methods))
    for place, method in enumerate(methods):
        colour, of = palette.colour(method), sorted(runs.scores[method].items())
        fell = runs.collapsed[method].seeds if method in runs.collapsed else ()
        for number, (seed, score) in enumerate(of):
            at = place + _APART * (number - (len(of) - 1) / 2) * min(1.0, 5 / len(of))
            face = PAPER if seed in fell else colour
            axes.plot(score, at, palette.marker(method), color=colour, mfc=face, mec=colour, markersize=4, mew=1.1)
        mean = statistics.fmean(score for _, score in of)
        axes.plot([mean, mean], [place - 0.36, place + 0.36], color=INK, linewidth=1.3)
    if runs.base is not None:
        axes.axvline(runs.base, color=BASE_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)), label=labels[BASE])
        if any(one.seeds for one in runs.collapsed.values()):
            words = f"{runs.below:g} points below"
            axes.axvline(runs.base - runs.below, color=BASE_COLOUR, linewidth=0.9, linestyle=":", label=words)
    axes.plot([], [], color=INK, linewidth=1.3, label="mean of runs")
    axes.set_yticks(range(len(methods)), [labels[method] for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("score in points")
    add_legend(figure)
    return figure
