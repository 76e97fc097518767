"""The figures of a comparison, for the page and for papers.

Every figure is one column of a paper wide, so that a phone can show it too. Text stays text. Colours are told apart by
people with colour-blindness, and each method has its own marker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.config.study import BASE
from harness.vsibench.types import TASKS
from reports.page.browser import TITLES
from reports.page.drawing import BASE_COLOUR, INK, MUTED, PAPER, WIDE, Palette, add_legend, new_axes, styled
from reports.statistics.contrast import OVERALL

TRAINING = {
    "reward": ("Reward", "Mean reward of the sampled answers."),
    "kl": ("KL to the reference", "KL divergence to the reference model, as the method logs it."),
    "length": ("Tokens an answer", "Length of the sampled answers in tokens."),
    "zero_variance": ("Share of groups", "Groups whose answers all got the same reward: they teach nothing."),
    "truncated": ("Share of answers", "Sampled answers that were cut off at the token limit."),
    "loss": ("Loss", "Training loss; its scale differs between methods and must not be compared."),
}
"""What of the log is drawn: the axis and the caption."""

_LONG = 20
"""Letters of two methods' names together from which on they stand in two lines."""


@styled
def forest(contrasts: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """The overall difference of every pair with its interval; filled where the corrected test decides."""
    rows = contrasts[contrasts["task"] == OVERALL]
    pairs = [(labels[row["b"]], labels[row["a"]]) for row in _records(rows)]
    between = "\n" if any(len(b) + len(a) > _LONG for b, a in pairs) else " "
    return _forest(_records(rows), [f"{b}{between}\N{MINUS SIGN} {a}" for b, a in pairs], INK)


@styled
def task_forest(contrasts: pd.DataFrame, a: str, b: str, colour: str) -> Figure:
    """The differences of one pair, overall and by task; tasks are exploratory and lighter."""
    rows = _records(contrasts[(contrasts["a"] == a) & (contrasts["b"] == b)])
    named = ["Overall" if row["task"] == OVERALL else TITLES[row["task"]] for row in rows]
    everything = contrasts[["ci_low", "ci_high", "difference"]].abs().to_numpy().ravel()
    return _forest(rows, named, colour, limit=min(100.0, float(np.nanmax(everything))))


def _forest(rows: Sequence[Mapping[str, Any]], named: Sequence[str], colour: str, limit: float = math.nan) -> Figure:
    figure, axes = new_axes(0.62 + (0.32 if any("\n" in name for name in named) else 0.23) * len(rows))
    places = -np.arange(len(rows))
    axes.axvline(0, color=MUTED, linewidth=0.9)
    for row, place in zip(rows, places, strict=True):
        strong = row["task"] == OVERALL
        filled = row["verdict"] != "undecided"
        if not math.isnan(row["ci_low"]):
            axes.plot(
                [row["ci_low"], row["ci_high"]],
                [place, place],
                color=colour,
                linewidth=1.8 if strong else 1.0,
                zorder=2,
            )
        axes.plot(
            row["difference"],
            place,
            marker="s" if strong else "o",
            markersize=5 if strong else 4,
            markerfacecolor=colour if filled else PAPER,
            markeredgecolor=colour,
            markeredgewidth=1.1,
            zorder=3,
        )
        axes.annotate(
            _measured(row),
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7.5,
            color=INK if strong else MUTED,
        )
    axes.set_yticks(places, named)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(INK if row["task"] == OVERALL else MUTED)
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


@styled
def task_bars(
    scores: Mapping[str, pd.DataFrame],
    baselines: Mapping[str, Mapping[str, float]],
    palette: Palette,
    labels: Mapping[str, str],
    *,
    wide: bool,
) -> Figure:
    """Score of every method by task with intervals, and what needs no video.

    Args:
        scores: By method, as :func:`reports.statistics.curves.score_intervals` gives them.
        baselines: Score by task (``overall`` too), by name of the baseline.
        palette: Colours of the methods.
        labels: What to call the methods.
        wide: Upright bars over two columns of a paper instead of lying bars in one.
    """
    tasks = [task for task in (OVERALL, *TASKS) if any(task in frame.index for frame in scores.values())]
    figure, axes = new_axes(2.7, WIDE) if wide else new_axes(0.7 + len(tasks) * (0.13 + 0.095 * len(scores)))
    places, thick = np.arange(len(tasks)), 0.8 / max(1, len(scores))
    baseline = axes.hlines if wide else axes.vlines
    for number, (method, frame) in enumerate(scores.items()):
        here = frame.reindex(tasks)
        look: dict[str, Any] = {
            "color": palette.colour(method),
            "label": labels[method],
            "error_kw": {"ecolor": INK, "elinewidth": 0.8},
        }
        spread = [here["score"] - here["low"], here["high"] - here["score"]]
        at = places - 0.4 + (number + 0.5) * thick
        if wide:
            axes.bar(at, here["score"], 0.86 * thick, yerr=spread, **look)
        else:
            axes.barh(at, here["score"], 0.86 * thick, xerr=spread, **look)
    for style, (name, values) in zip(("-", ":"), baselines.items(), strict=False):
        known = [(place, values[task]) for place, task in zip(places, tasks, strict=True) if task in values]
        at = np.array([place for place, _ in known])
        baseline(
            [value for _, value in known], at - 0.46, at + 0.46, linestyle=style, color=INK, linewidth=1.3, label=name
        )
    # An interval may leave the scale, the scale's ends may not.
    top = min(100.0, 1.05 * max(float(np.nanmax(frame[["score", "high"]].to_numpy())) for frame in scores.values()))
    names = ["Overall" if task == OVERALL else TITLES[task] for task in tasks]
    if wide:
        axes.set_xticks(places, [name.replace(" ", "\n") for name in names])
        axes.margins(x=0.01)
        axes.set_ylim(0, max(1.0, top))
        axes.set_ylabel("score in points")
    else:
        axes.set_yticks(places, names)
        axes.margins(y=0.01)
        axes.set_xlim(0, max(1.0, top))
        axes.invert_yaxis()
        axes.set_xlabel("score in points")
    axes.grid(axis="x" if wide else "y", visible=False)
    add_legend(figure)
    return figure


@styled
def learning_curve(
    lines: pd.DataFrame, bands: pd.DataFrame, x: str, xlabel: str, palette: Palette, labels: Mapping[str, str]
) -> Figure:
    """Score at every checkpoint: every seed thin, their mean thick, with its interval over rooms."""
    figure, axes = new_axes(2.5)
    base = bands[bands["method"] == BASE]
    for method in palette.ordered(bands["method"]):
        colour = palette.colour(method)
        start = lines[lines["method"] == BASE]
        for _, run in lines[lines["method"] == method].groupby("seed"):
            path = pd.concat([start, run])
            axes.plot(path[x], path["score"], color=colour, linewidth=0.7, alpha=0.55)
        mean = pd.concat([base, bands[bands["method"] == method]])
        axes.fill_between(mean[x], mean["low"], mean["high"], color=colour, alpha=0.12, linewidth=0)
        axes.plot(
            mean[x],
            mean["score"],
            color=colour,
            linewidth=1.8,
            marker=palette.marker(method),
            markersize=4,
            label=labels[method],
        )
    for row in _records(base):
        axes.axhline(row["score"], color=BASE_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)), label=labels[BASE])
    axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("score in points")
    add_legend(figure)
    return figure


@styled
def compute_plot(lines: pd.DataFrame, bands: pd.DataFrame, palette: Palette, labels: Mapping[str, str]) -> Figure:
    """Final score against the device time that training took: each seed small, their mean with its interval."""
    figure, axes = new_axes(2.5)
    finals = bands.sort_values("order").groupby("method").tail(1).set_index("method")
    for method in palette.ordered(finals.index):
        row, colour, marker = finals.loc[method], palette.colour(method), palette.marker(method)
        runs = lines[lines["method"] == method].sort_values("order").groupby("seed").tail(1)
        axes.plot(runs["seconds"], runs["score"], marker, color=colour, markersize=3.5, alpha=0.5, linewidth=0)
        axes.plot([row["seconds"]] * 2, [row["low"], row["high"]], color=colour, linewidth=1.4)
        axes.plot(row["seconds"], row["score"], marker, color=colour, markersize=6.5, label=labels[method])
    for score in bands.loc[bands["method"] == BASE, "score"]:
        axes.axhline(score, color=BASE_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)), label=labels[BASE])
    axes.margins(y=0.12)
    axes.set_xlim(0, 1.12 * max(1e-9, *finals["seconds"].fillna(0)))
    axes.set_xlabel("device seconds of training, evaluation excepted")
    axes.set_ylabel("score in points")
    add_legend(figure)
    return figure


@styled
def training_curve(metrics: pd.DataFrame, key: str, palette: Palette, labels: Mapping[str, str]) -> Figure:
    """One logged number against examples: every seed thin, the running mean over seeds thick."""
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
    axes.set_xlabel("examples" if x == "examples" else "optimiser steps")
    axes.set_ylabel(TRAINING[key][0])
    add_legend(figure)
    return figure


def logged(metrics: pd.DataFrame) -> Iterator[str]:
    """The drawable numbers that some method logged."""
    return (key for key in TRAINING if key in metrics and metrics[key].notna().any())


def _measured(row: Mapping[str, Any]) -> str:
    text = f"{row['difference']:+z.1f}"
    if not math.isnan(row["ci_low"]):
        text += f" [{row['ci_low']:z.1f}, {row['ci_high']:z.1f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict(orient="records")]
