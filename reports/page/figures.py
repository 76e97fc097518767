"""The figures of a comparison, for the page and for papers: SVG and PDF of the same drawing, in one style.

All but the widest fit one column of a paper, so that a phone can show them too. Text stays text. Colours are safe
for colour-blind readers, and each method has its own marker.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.config.study import BASE
from reports.statistics import COSTS, OVERALL, Contrast, overall
from reports.tables import difference_text

WIDTH, WIDE = 3.5, 7.2
"""Inches; one and both columns of a paper."""

LEGEND_LINE = 0.213
"""Inches; a line of a legend."""

STYLE = mpl.rc_params_from_file(Path(__file__).parent / "assets" / "figures.mplstyle", use_default_template=False)

INK, MUTED, GRID = (STYLE[key] for key in ("text.color", "axes.labelcolor", "axes.edgecolor"))
PAPER = "#ffffff"
METHOD_COLOURS = ("#0b6cb0", "#c9540a", "#0c8a63", "#a8478a", "#8a6d00", "#3b4cc0", "#b02a37", "#4d7a1f")
BASE_COLOUR = "#7b8794"
MARKERS = "osD^vP*X"

TRAINING = {
    "reward": ("Reward", "Mean reward of the sampled completions."),
    "kl": ("KL to the reference", "KL divergence from the reference model, as the method logs it."),
    "length": ("Tokens per completion", "Length of the sampled completions in tokens."),
    "zero_variance": (
        "Share of groups",
        "Groups whose completions all got the same reward and so give no training signal.",
    ),
    "truncated": ("Share of completions", "Sampled completions cut off at the token limit."),
    "loss": ("Loss", "Training loss; its scale differs between methods, so losses cannot be compared."),
}
"""The logged metrics that are drawn: axis label and caption."""

_LONG = 20
"""Characters in two methods' names together at and above which the label takes two lines."""


@dataclass(frozen=True)
class Drawing:
    """A drawn figure.

    Attributes:
        name: Of its files, without suffix.
        caption: What it shows, in plain text.
        svg: For a page: colours are CSS variables, and nothing refers to other files.
        files: Content by file name: NAME.svg and NAME.pdf.
    """

    name: str
    caption: str
    svg: str
    files: Mapping[str, bytes]


class Palette:
    """Colour and marker of every method, by its place in the study, so that they are the same in all figures."""

    def __init__(self, methods: Sequence[str]) -> None:
        trained = [method for method in methods if method != BASE]
        self._places = {method: place for place, method in enumerate(trained)}

    def colour(self, method: str) -> str:
        return METHOD_COLOURS[self._places[method] % len(METHOD_COLOURS)] if method in self._places else BASE_COLOUR

    def marker(self, method: str) -> str:
        return MARKERS[self._places.get(method, 0) % len(MARKERS)]

    def variable(self, method: str) -> str:
        """The CSS variable of the colour."""
        return f"--m{self._places[method] % len(METHOD_COLOURS)}" if method in self._places else "--base"

    def ordered(self, methods: Iterable[object]) -> list[str]:
        """The trained ones of these methods in the study's order, each once."""
        present = set(methods)
        return [method for method in self._places if method in present]


def new_axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """An empty figure; height and width in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def add_legend(figure: Figure) -> None:
    """A legend above the axes, in as many columns as fit; none when no artist has a label."""
    widths = [len(label) + 5.5 for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    if widths:
        room = 16 * figure.get_figwidth()  # characters of this size on a line
        columns = len(widths) if sum(widths) <= room else max(1, int(room / max(widths)))
        more = math.ceil(len(widths) / columns) - 1
        # The figure grows with the legend, which would otherwise leave the axes no room.
        figure.set_figheight(figure.get_figheight() + more * LEGEND_LINE)
        figure.legend(loc="outside upper left", ncols=columns, handlelength=1.4, columnspacing=1.2, borderpad=0.1)


def drawn(figure: Figure, name: str, caption: str) -> Drawing:
    """A figure as SVG and PDF, whose bytes depend only on what is drawn, and as SVG for a page."""
    files = {}
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        for kind, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            content = io.BytesIO()
            figure.savefig(content, format=kind, metadata=metadata)
            files[f"{name}.{kind}"] = content.getvalue()
    return Drawing(name, caption, _inline(files[f"{name}.svg"].decode()), files)


def _inline(svg: str) -> str:
    """An SVG file as an element of a page: scaled to its container, in the page's colours and font."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', body))
    body = re.sub(r'\sid="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"\s+", " ", body)
    names = {PAPER: "--paper", INK: "--ink", MUTED: "--muted", GRID: "--grid", BASE_COLOUR: "--base"}
    names |= {colour: f"--m{place}" for place, colour in enumerate(METHOD_COLOURS)}
    return re.sub(r"#[0-9a-f]{6}", lambda found: f"var({names[found[0]]})" if found[0] in names else found[0], body)


@mpl.rc_context(STYLE)
def forest(contrasts: Sequence[Contrast], labels: Mapping[str, str]) -> Figure:
    """The overall difference of every pair with its interval; filled where there is a verdict."""
    rows = overall(contrasts)
    between = "\n" if any(len(labels[c.b]) + len(labels[c.a]) > _LONG for c in rows) else " "
    return _forest(rows, [f"{labels[c.b]}{between}\N{MINUS SIGN} {labels[c.a]}" for c in rows], INK)


@mpl.rc_context(STYLE)
def task_forest(contrasts: Sequence[Contrast], a: str, b: str, colour: str, titles: Mapping[str, str]) -> Figure:
    """The differences of one pair, overall and by task; tasks are exploratory and lighter."""
    rows = [c for c in contrasts if (c.a, c.b) == (a, b)]
    names = ["Overall" if c.task == OVERALL else titles[c.task] for c in rows]
    ends = [abs(end) for c in contrasts for end in (c.ci_low, c.ci_high, c.difference) if not math.isnan(end)]
    return _forest(rows, names, colour, limit=min(100.0, max(ends)))


def _forest(rows: Sequence[Contrast], names: Sequence[str], colour: str, limit: float = math.nan) -> Figure:
    figure, axes = new_axes(0.62 + (0.32 if any("\n" in name for name in names) else 0.23) * len(rows))
    places = -np.arange(len(rows))
    axes.axvline(0, color=MUTED, linewidth=0.9)
    axes.set_yticks(places, names)
    for c, place, label in zip(rows, places, axes.get_yticklabels(), strict=True):
        marker, size, width, ink = ("s", 5, 1.8, INK) if c.task == OVERALL else ("o", 4, 1.0, MUTED)
        label.set_color(ink)
        if not math.isnan(c.ci_low):
            axes.plot([c.ci_low, c.ci_high], [place, place], color=colour, linewidth=width, zorder=2)
        face = PAPER if c.verdict == "undecided" else colour
        axes.plot(c.difference, place, marker, markersize=size, mfc=face, mec=colour, mew=1.1, zorder=3)
        text = difference_text(c).replace("-", "\N{MINUS SIGN}")
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=7.5, color=ink)
    if not math.isnan(limit) and limit > 0:
        axes.set_xlim(-1.1 * limit, 1.1 * limit)
    else:
        axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_ylim(places[-1] - 0.6, 0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference in points")
    return figure


@mpl.rc_context(STYLE)
def task_bars(
    scores: Mapping[str, pd.DataFrame],
    baselines: Mapping[str, Mapping[str, float]],
    palette: Palette,
    labels: Mapping[str, str],
    titles: Mapping[str, str],
    *,
    wide: bool,
) -> Figure:
    """Score of every method by task with intervals, and the baselines that need no video.

    Args:
        scores: By method, as :func:`reports.statistics.score_intervals` returns them.
        baselines: Score by task (``overall`` too), by name of the baseline.
        palette: Colours of the methods.
        labels: Display names of the methods.
        titles: Display names of the tasks, in order.
        wide: Vertical bars across two columns of a paper instead of horizontal bars in one.
    """
    tasks = [task for task in (OVERALL, *titles) if any(task in frame.index for frame in scores.values())]
    figure, axes = new_axes(2.7, WIDE) if wide else new_axes(0.7 + len(tasks) * (0.13 + 0.095 * len(scores)))
    places, thick = np.arange(len(tasks)), 0.8 / max(1, len(scores))
    bars, baseline = (axes.bar, axes.hlines) if wide else (axes.barh, axes.vlines)
    for number, (method, frame) in enumerate(scores.items()):
        here = frame.reindex(tasks)
        spread = [here["score"] - here["low"], here["high"] - here["score"]]
        at, colour = places - 0.4 + (number + 0.5) * thick, palette.colour(method)
        intervals: dict[str, Any] = {"yerr" if wide else "xerr": spread, "error_kw": {"ecolor": INK, "elinewidth": 0.8}}
        bars(at, here["score"], 0.86 * thick, color=colour, label=labels[method], **intervals)
    for style, (name, values) in zip(("-", ":"), baselines.items(), strict=False):
        known = [(place, values[task]) for place, task in zip(places, tasks, strict=True) if task in values]
        at, heights = np.array([place for place, _ in known]), [value for _, value in known]
        baseline(heights, at - 0.46, at + 0.46, linestyle=style, color=INK, linewidth=1.3, label=name)
    # Intervals may exceed 0 and 100, the axis may not.
    top = min(100.0, 1.05 * max(float(np.nanmax(frame[["score", "high"]].to_numpy())) for frame in scores.values()))
    names = ["Overall" if task == OVERALL else titles[task] for task in tasks]
    along, across = (axes.xaxis, axes.yaxis) if wide else (axes.yaxis, axes.xaxis)
    along.set_ticks(places, [name.replace(" ", "\n") if wide else name for name in names])
    along.grid(visible=False)
    across.set_label_text("score in points")
    if wide:
        axes.margins(x=0.01)
        axes.set_ylim(0, max(1.0, top))
    else:
        axes.margins(y=0.01)
        axes.set_xlim(0, max(1.0, top))
        axes.invert_yaxis()
    add_legend(figure)
    return figure


@mpl.rc_context(STYLE)
def learning_curve(
    lines: pd.DataFrame,
    bands: pd.DataFrame,
    x: str,
    palette: Palette,
    labels: Mapping[str, str],
    *,
    at: float | None = None,
    front: Sequence[tuple[float, float]] = (),
) -> Figure:
    """Score at every checkpoint: thin lines for seeds, a thick one for their mean, with its interval over clusters.

    Args:
        lines: By run, see :func:`reports.statistics.learning_curves`.
        bands: By method.
        x: The column that it is drawn against.
        palette: Colours of the methods.
        labels: Display names of the methods.
        at: Where to draw a dotted vertical line.
        front: Corners of a Pareto front, by cost.
    """
    figure, axes = new_axes(2.5)
    lines, bands = (table.dropna(subset=[x]) for table in (lines, bands))
    start, base = (table[table["method"] == BASE] for table in (lines, bands))
    if front:
        end = (float(lines[x].max()), front[-1][1])
        axes.step(*zip(*front, end, strict=True), where="post", color=INK, alpha=0.3, linewidth=3, label="Pareto front")
    for method in palette.ordered(bands["method"]):
        colour = palette.colour(method)
        for _, run in lines[lines["method"] == method].groupby("seed"):
            path = pd.concat([start, run])
            axes.plot(path[x], path["score"], color=colour, linewidth=0.7, alpha=0.55)
        mean = pd.concat([base, bands[bands["method"] == method]])
        axes.fill_between(mean[x], mean["low"], mean["high"], color=colour, alpha=0.12, linewidth=0)
        marker = palette.marker(method)
        axes.plot(mean[x], mean["score"], f"-{marker}", color=colour, linewidth=1.8, markersize=4, label=labels[method])
    _base_line(axes, bands, labels)
    if at is not None:
        axes.axvline(at, color=INK, linewidth=1, linestyle=":")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter("{x:,.10g}")
    return _labelled(figure, "training examples" if x == "examples" else f"{COSTS[x]} of training", "score in points")


@mpl.rc_context(STYLE)
def training_curve(metrics: pd.DataFrame, key: str, palette: Palette, labels: Mapping[str, str]) -> Figure:
    """One logged metric against examples: thin lines for seeds, a thick one for the running mean over them."""
    figure, axes = new_axes(2.1)
    x = "examples" if "examples" in metrics else "step"
    found = metrics.dropna(subset=[key])
    for method in palette.ordered(found["method"]):
        rows, colour = found[found["method"] == method], palette.colour(method)
        window = max(1, round(rows["step"].nunique() / 25))
        for _, run in rows.groupby("seed"):
            thinned = run.sort_values("step").iloc[:: max(1, len(run) // 300)]
            axes.plot(thinned[x], thinned[key], color=colour, linewidth=0.6, alpha=0.35)
        mean = rows.groupby("step")[[x, key]].mean().rolling(window, center=True, min_periods=1).mean()
        mean = mean.iloc[:: max(1, len(mean) // 300)]
        axes.plot(mean[x], mean[key], color=colour, linewidth=1.7, label=labels[method])
    axes.set_xlim(left=0)
    if key in ("kl", "zero_variance", "truncated"):
        top = 1.08 * float(found[key].max()) or 1.0
        axes.set_ylim(-0.02 * top, top)
    return _labelled(figure, "examples" if x == "examples" else "optimiser steps", TRAINING[key][0])


def _labelled(figure: Figure, xlabel: str, ylabel: str) -> Figure:
    figure.axes[0].set_xlabel(xlabel)
    figure.axes[0].set_ylabel(ylabel)
    add_legend(figure)
    return figure


def _base_line(axes: Axes, bands: pd.DataFrame, labels: Mapping[str, str]) -> None:
    for score in bands.loc[bands["method"] == BASE, "score"]:
        axes.axhline(score, color=BASE_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)), label=labels[BASE])
