"""A folder of stills as a video: which files are its frames, their order, and their times."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from harness.data.video.clock import Clock
from harness.errors import UserError

_STILLS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_NOT_COLOUR = re.compile(r"depth|label|instance|pose|intrinsic", re.IGNORECASE)


def still_files(folder: Path) -> list[Path]:
    """The colour frames of a folder in the order of the numbers in their names: 2.jpg before 10.jpg.

    Hidden files (macOS leaves ``._1.jpg`` beside ``1.jpg``) are no frames.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _STILLS and not path.name.startswith(".") and not _NOT_COLOUR.search(path.name)
    ]
    return sorted(found, key=lambda path: (_numbers(path), path.name))


def require_stills(folder: Path) -> list[Path]:
    """The colour frames of a folder, which must be one numbered series.

    Raises:
        UserError: There are none; two have the same numbers, so that a frame would come twice; or some have more
            numbers in their names than others, so that their place is unknown.
    """
    files = still_files(folder)
    if not files:
        raise UserError(f"{folder}: the folder contains no colour frames ({', '.join(_STILLS)})")
    for one, other in pairwise(files):
        if len(_numbers(one)) != len(_numbers(other)):
            problem = f"{one.name} and {other.name} are not numbered alike, so their order is unknown"
        elif _numbers(one) and _numbers(one) == _numbers(other):
            problem = f"{one.name} and {other.name} have the same number"
        else:
            continue
        raise UserError(f"{folder}: {problem}. Keep one series of numbered frames in the folder.")
    return files


def stills_clock(folder: Path, rate: float) -> Clock:
    """Times of a folder's stills, taken at ``rate`` stills a second.

    A number that is left out of the series (10, 20, 40) leaves its time out too. Names without numbers count as one
    after the other.

    Raises:
        UserError: As :func:`require_stills`, or the numbers have no common step, so that they tell no times.
    """
    files = require_stills(folder)
    last = [numbers[-1] for path in files if (numbers := _numbers(path))] or list(range(len(files)))
    steps = np.diff(np.array(last, dtype=object))
    step = Counter(steps).most_common(1)[0][0] if len(steps) else 1
    for file, more in zip(files[1:], steps, strict=True):
        if more <= 0 or more % step:
            raise UserError(
                f"{folder}: the stills have no even numbers, so data.stills_rate does not tell their times: most are "
                f"{step} apart, {file.name} follows after {more}. Number them evenly, or make a video of them."
            )
    places = [int((number - last[0]) // step) for number in last]
    return Clock((places[-1] + 1) / rate, tuple(place / rate for place in places))


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.stem)]
