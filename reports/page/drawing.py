"""How figures are drawn and saved: one style, one palette, SVG and PDF from the same drawing."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.config.study import BASE
from harness.io import write_bytes

Parameters = ParamSpec("Parameters")

WIDTH = 3.5
"""Inches; a column of a paper."""

WIDE = 7.2
"""Inches; both columns."""

LEGEND_LINE = 0.213
"""Inches; a line of a legend."""

INK, MUTED, GRID, PAPER = "#1d232b", "#66707c", "#dfe3e8", "#ffffff"
METHOD_COLOURS = ("#0b6cb0", "#c9540a", "#0c8a63", "#a8478a", "#8a6d00", "#3b4cc0", "#b02a37", "#4d7a1f")
BASE_COLOUR = "#7b8794"
MARKERS = "osD^vP*X"

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Drawing:
    """A figure that was saved.

    Attributes:
        name: Of its files, without suffix.
        caption: What it shows, in plain text.
        svg: For a page: colours are CSS variables, nothing outside is referred to.
    """

    name: str
    caption: str
    svg: str


class Palette:
    """Colour and marker of every method, by its place in the study, so that they never change between figures."""

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

    def ordered(self, methods: Iterable[Any]) -> list[str]:
        """Trained methods in the study's order, each once."""
        present = set(methods)
        return [method for method in self._places if method in present]


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """A drawing function whose every part has the style of all figures."""

    @functools.wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def new_axes(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """An empty figure of a height and width in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def add_legend(figure: Figure) -> None:
    """A legend above the axes, with as many columns as fit; nothing where there is nothing to tell."""
    widths = [len(label) + 5.5 for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    if widths:
        room = 16 * figure.get_figwidth()  # characters of this size on a line
        columns = len(widths) if sum(widths) <= room else max(1, int(room / max(widths)))
        more = math.ceil(len(widths) / columns) - 1
        figure.set_figheight(figure.get_figheight() + more * LEGEND_LINE)  # or a long legend leaves the axes no room
        figure.legend(loc="outside upper left", ncols=columns, handlelength=1.4, columnspacing=1.2, borderpad=0.1)


def save_figure(figure: Figure, folder: Path, name: str, caption: str) -> Drawing:
    """Write NAME.svg and NAME.pdf, which depend on what is drawn alone, and give the SVG for a page."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        for kind, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            content = io.BytesIO()
            figure.savefig(content, format=kind, metadata=metadata)
            write_bytes(folder / f"{name}.{kind}", content.getvalue())
    return Drawing(name, caption, _inline((folder / f"{name}.svg").read_text(encoding="utf-8")))


def _inline(svg: str) -> str:
    """An SVG file as an element of a page: scaled by its width, in the page's colours and font."""
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
