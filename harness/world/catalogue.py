"""The furniture of the embedded world: twelve categories, each a vivid colour and a few solids."""

from __future__ import annotations

import re
from functools import partial
from typing import Literal, NamedTuple

Shape = Literal["box", "cylinder", "ellipsoid"]
Colour = tuple[float, float, float]
Triple = tuple[float, float, float]


class Part(NamedTuple):
    """One solid of a piece of furniture, in fractions of the piece's own box.

    ``centre`` and ``half`` (half extents) count x and y in half widths and half depths, and z in heights,
    so (0, 0, 0.5) with (1, 1, 0.5) is the whole box. The back of a piece is at y = +1. ``shade``
    darkens the piece's colour; ``colour`` replaces it.
    """

    shape: Shape
    centre: Triple
    half: Triple
    shade: float = 1.0
    colour: Colour | None = None


class Category(NamedTuple):
    """A kind of furniture: colour, (width, depth, height) relative to the longest side, solids."""

    colour: Colour
    proportions: Triple
    parts: tuple[Part, ...]


def _part(shape: Shape, *numbers: float, shade: float = 1.0, colour: Colour | None = None) -> Part:
    x, y, z, a, b, c = numbers
    return Part(shape, (x, y, z), (a, b, c), shade, colour)


_box, _cylinder, _ellipsoid = partial(_part, "box"), partial(_part, "cylinder"), partial(_part, "ellipsoid")


CATALOGUE: dict[str, Category] = {
    "chair": Category(
        (240, 120, 0),
        (0.52, 0.52, 1.0),
        (
            _box(0, 0, 0.45, 1, 1, 0.05),
            _box(0, 0.86, 0.72, 1, 0.14, 0.28),
            _box(0, 0, 0.2, 0.7, 0.7, 0.2, shade=0.6),
        ),
    ),
    "table": Category(
        (130, 70, 20),
        (1.0, 0.6, 0.55),
        (
            _box(0, 0, 0.92, 1, 1, 0.08),
            _box(-0.75, 0, 0.42, 0.1, 0.8, 0.42, shade=0.7),
            _box(0.75, 0, 0.42, 0.1, 0.8, 0.42, shade=0.7),
        ),
    ),
    "sofa": Category(
        (20, 50, 210),
        (1.0, 0.48, 0.45),
        (
            _box(0, 0, 0.25, 1, 1, 0.25, shade=0.9),
            _box(0, 0.75, 0.5, 1, 0.25, 0.5),
            _box(-0.88, 0, 0.35, 0.12, 1, 0.35, shade=0.75),
            _box(0.88, 0, 0.35, 0.12, 1, 0.35, shade=0.75),
        ),
    ),
    "bed": Category(
        (150, 20, 180),
        (1.0, 0.65, 0.35),
        (_box(0, 0, 0.45, 1, 1, 0.45), _box(-0.72, 0, 0.94, 0.2, 0.8, 0.06, colour=(235, 235, 235))),
    ),
    "bookshelf": Category(
        (0, 110, 110),
        (0.62, 0.32, 1.0),
        (
            _box(0, 0.04, 0.5, 1, 0.96, 0.5),
            _box(0, -0.96, 0.7, 0.85, 0.04, 0.1, colour=(200, 60, 50)),
            _box(0, -0.96, 0.3, 0.85, 0.04, 0.1, colour=(220, 190, 80)),
        ),
    ),
    "tv": Category(
        (15, 15, 20),
        (1.0, 0.18, 0.65),
        (
            _box(0, 0, 0.58, 1, 0.4, 0.42),
            _box(0, -0.42, 0.58, 0.8, 0.05, 0.3, colour=(70, 70, 90)),
            _box(0, 0, 0.08, 0.3, 1, 0.08),
        ),
    ),
    "lamp": Category(
        (255, 230, 0),
        (0.36, 0.36, 1.0),
        (_cylinder(0, 0, 0.35, 0.2, 0.2, 0.35, shade=0.6), _cylinder(0, 0, 0.85, 1, 1, 0.15)),
    ),
    "plant": Category(
        (10, 140, 10),
        (0.55, 0.55, 1.0),
        (_cylinder(0, 0, 0.15, 0.5, 0.5, 0.15, colour=(175, 90, 60)), _ellipsoid(0, 0, 0.63, 1, 1, 0.37)),
    ),
    "stool": Category(
        (230, 0, 40),
        (0.7, 0.7, 1.0),
        (_cylinder(0, 0, 0.93, 1, 1, 0.07), _cylinder(0, 0, 0.45, 0.4, 0.4, 0.45, shade=0.7)),
    ),
    "refrigerator": Category(
        (250, 250, 255),
        (0.52, 0.5, 1.0),
        (_box(0, 0.03, 0.5, 1, 0.97, 0.5), _box(0, -0.97, 0.62, 0.95, 0.03, 0.01, colour=(60, 60, 60))),
    ),
    "bathtub": Category(
        (70, 205, 245),
        (1.0, 0.5, 0.4),
        (_box(0, 0, 0.47, 1, 1, 0.47), _box(0, 0, 0.97, 0.8, 0.7, 0.03, colour=(250, 250, 250))),
    ),
    "suitcase": Category(
        (255, 80, 190),
        (0.65, 0.35, 1.0),
        (_box(0, 0, 0.45, 1, 1, 0.45), _box(0, 0, 0.95, 0.4, 0.3, 0.05, colour=(50, 50, 55))),
    ),
}
"""Every category by name. Proportions vary by at most 15% from piece to piece; sizes do not depend on the
category at all, so that a name does not give away how large a thing is."""

CATEGORIES: tuple[str, ...] = tuple(CATALOGUE)

WALL_COLOURS: tuple[Colour, ...] = ((215, 150, 150), (150, 210, 160), (150, 165, 225), (225, 215, 140))
"""East (+x), west (-x), north (+y) and south (-y): fixed hues, so that the walls are a compass."""

FLOOR_COLOURS: tuple[Colour, ...] = ((165, 150, 135), (176, 140, 104), (140, 142, 146), (150, 158, 148))
"""Stone, oak, concrete and sage: none of them is the colour of a category."""

CEILING_COLOUR: Colour = (240, 240, 238)

_NAMES = re.compile(rf"\b({'|'.join(CATEGORIES)})\b")


def categories_named(text: str) -> list[str]:
    """The categories that a text names, in order, with repetitions."""
    return _NAMES.findall(text)
