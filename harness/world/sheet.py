"""A contact sheet of one scene: what the camera sees, the floor plan, and the questions with their answers."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from harness.errors import UserError
from harness.outputs import write_new
from harness.world.camera import FIELD_OF_VIEW, FRAMES, STOPS
from harness.world.questions import Raw, first_seen, make_questions, question_rng
from harness.world.renderer import render_scene, sample_scene
from harness.world.rooms import EAST, WEST
from harness.world.scenes import Scene

MAX_SEED = 2**32
_LINE_WIDTH = 104
_MIDDLES = tuple(range(FRAMES // STOPS // 4, FRAMES, FRAMES // STOPS))
"""The frame in the middle of each stop."""


def contact_sheet(seed: int, path: Path, *, size: int = 168) -> None:
    """Draw the scene of a seed as a picture.

    Args:
        seed: The scene's seed, 0 to 2**32 - 1.
        path: The file to write, which must not be there yet; its ending (.png, .pdf, .svg) decides the format.
        size: Pixels per side of the frames shown.

    Raises:
        UserError: The seed is outside the range or its scene is rejected, or the file cannot be written.
    """
    if not 0 <= seed < MAX_SEED:
        raise UserError(f"`{seed}`: a seed is a whole number from 0 to {MAX_SEED - 1}")
    scene = sample_scene(seed)
    if scene is None:
        following = next(s for s in range(seed + 1, seed + 1000) if sample_scene(s) is not None)
        raise UserError(
            f"`{seed}`: the room of this seed is rejected because the camera does not see all of its furniture;"
            f" the next accepted seed is {following}"
        )
    figure = Figure(figsize=(16, 11), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=[1, 1, 1.5])
    for stop, frame in enumerate(render_scene(scene, size, _MIDDLES)[0]):
        axes = figure.add_subplot(grid[stop // 4, stop % 4])
        axes.imshow(frame)
        axes.set_title(f"stop {stop + 1}", fontsize=9)
        axes.set_axis_off()
    _floor_plan(figure.add_subplot(grid[2, :2]), scene)
    text = figure.add_subplot(grid[2, 2:])
    text.set_axis_off()
    questions = make_questions(scene, question_rng(scene))
    lines = "\n".join(_as_text(record) for record in questions)
    text.text(0, 1, lines, va="top", fontsize=7.6, family="monospace", parse_math=False)
    figure.suptitle(
        f"seed {seed}: {scene.room.area:.1f} square metres, {len(scene.objects)} objects;"
        " each label names the stop at which the category is first seen, the grey circle is the walk"
    )
    kind = path.suffix.removeprefix(".").lower() or "png"
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    content = io.BytesIO()
    try:
        with mpl.rc_context({"svg.hashsalt": str(seed)}):
            figure.savefig(content, format=kind, dpi=110, metadata=undated.get(kind))
        write_new(path, content.getvalue())
    except (OSError, ValueError) as error:
        raise UserError(
            f"`{path}`: the sheet cannot be written ({error}); choose another file, such as sheet.png"
        ) from error


def _as_text(record: Raw) -> str:
    options = f" [{' | '.join(record['options'])}]" if record["options"] else ""
    question = f"{record['question']}{options} -> {record['ground_truth']}".replace("\n", " ")
    return textwrap.fill(question, _LINE_WIDTH, initial_indent="- ", subsequent_indent="  ")


def _floor_plan(axes: Axes, scene: Scene) -> None:
    for wall in scene.room.walls:
        ends, at = (wall.low, wall.high), (wall.at, wall.at)
        line = (at, ends) if wall.side in (EAST, WEST) else (ends, at)
        axes.plot(*line, color=tuple(c / 255 for c in scene.look.walls[wall.side]), lw=5, zorder=0)
    first = first_seen(scene)
    for thing in scene.objects:
        colour = tuple(channel / 255 for channel in thing.colour)
        axes.add_patch(Polygon(thing.corners, facecolor=colour, edgecolor="black", lw=0.8))
        front = (thing.corners[0] + thing.corners[1]) / 2  # local -y
        axes.plot([thing.x, front[0]], [thing.y, front[1]], color="black", lw=0.6)
        stop = first[thing.category] + 1 if thing.category in first else "?"
        label = f"{thing.category}\n{100 * thing.longest:.0f} cm, stop {stop}"
        axes.annotate(
            label,
            (thing.x, thing.y),
            fontsize=6,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 0.6},
        )
    walk = scene.walk
    path = walk.poses.position
    axes.plot(path[:, 0], path[:, 1], color="grey", lw=1.2)
    for stop, heading in enumerate(walk.headings):
        x, y = (centre + walk.radius * part for centre, part in zip(walk.centre, _towards(heading), strict=True))
        dx, dy = (0.35 * part for part in _towards(heading))
        axes.annotate("", (x + dx, y + dy), (x, y), arrowprops={"arrowstyle": "->", "lw": 0.8})
        axes.text(x + 1.4 * dx, y + 1.4 * dy, str(stop + 1), fontsize=6, ha="center", va="center")
    x, y = path[0, :2]
    for side in (-1, 1):
        dx, dy = _towards(walk.headings[0] + side * FIELD_OF_VIEW / 2)
        axes.plot([x, x + dx], [y, y + dy], color="grey", lw=0.6, ls="--")
    axes.set(xlim=(-0.3, scene.room.width + 0.3), ylim=(-0.3, scene.room.depth + 0.3), aspect="equal")
    axes.set(xlabel="metres east", ylabel="metres north")


def _towards(heading: float) -> tuple[float, float]:
    return math.cos(heading), math.sin(heading)
