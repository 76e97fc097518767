"""Videos that look alike: perceptual hashes of a few frames find copies under other names.

The hash is pHash (Zauner 2010): of a grey 32 x 32 frame's cosine transform, whether each of the lowest 63 coefficients
is above their median. Copies are found after re-encoding, resizing, a change of frame rate or speed, and a cut at one
end; not after cropping, mirroring, or a cut together with a change of speed.

Measured on the embedded world, whose rooms look much alike (200 test and 500 training videos): re-encoded, resized,
slowed, cut, grey or brighter copies differ in at most 15% of the bits (with every second frame left out; else 12%), and
of all 244,650 pairs of different rooms none in less than 22%.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from scipy import fft

from harness.data.video.glimpses import SECONDS, SHARES, glimpses
from harness.errors import UserError
from harness.io import read_as, write_json
from harness.processes import in_processes

ALIKE = 0.18
"""Share of differing bits up to which two videos look alike."""

_BITS = 63
_SIDE = 32
_BLANK = 4.0
"""Standard deviation of grey levels (0 to 255) below which a frame shows nothing: its bits would be noise."""

_FRAMES = len(SHARES) + 2 * len(SECONDS)
_GROUPS = (
    slice(0, len(SHARES)),
    slice(len(SHARES), len(SHARES) + len(SECONDS)),
    slice(len(SHARES) + len(SECONDS), _FRAMES),
)
"""Frames that are compared together: over the whole length, after the start, before the end. One group is enough."""

_FEWEST = 3
"""Frames of a group that both videos must have."""

_SAVED_EVERY = 200
_RULES: Final = 1
"""Version of the hashes on disk."""

Progress = Callable[[int, int], None]
Hashes = tuple[int | None, ...]


class Lookalike(NamedTuple):
    """Two videos that look alike.

    Attributes:
        video: One of the videos in question.
        like: The benchmark's video that it is most like.
        differing: Share of differing bits, 0 to :data:`ALIKE`.
    """

    video: Path
    like: Path
    differing: float


@dataclass(frozen=True)
class _Entry:
    """A video's hashes in the cache, and the size and time of the file that they are of."""

    stamp: list[int]
    hashes: list[Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None]


@dataclass(frozen=True)
class _Kept:
    """The cache."""

    rules: Literal[1]
    videos: dict[str, _Entry]


def lookalikes(videos: Mapping[Path, Hashes], others: Mapping[Path, Hashes]) -> list[Lookalike]:
    """The videos that look like one of the others, each with the one it is most like, in their order."""
    found: list[Lookalike] = []
    names = list(others)
    bits, there = _arrays(list(others.values()))
    for path, hashes in videos.items():
        mine, present = _arrays([hashes])
        differing = np.bitwise_count(mine ^ bits) / _BITS
        both = present & there
        groups = [_mean(differing[:, group], both[:, group]) for group in _GROUPS]
        least = np.min(groups, axis=0)
        if len(least) and least.min() <= ALIKE:
            found.append(Lookalike(path, names[int(least.argmin())], float(least.min())))
    return found


def video_hashes(
    videos: Sequence[Path], cache: Path, workers: int = 1, progress: Progress | None = None
) -> dict[Path, Hashes]:
    """The hashes of videos' frames; a video that cannot be read has none.

    Args:
        videos: Files or folders of stills.
        cache: A JSON file that keeps the hashes, by path; a video whose size or modification time changed is read
            again.
        workers: Processes.
        progress: Called with the number done and the total.
    """
    known = _remembered(cache)
    stamps = {path: _stamp(path) for path in dict.fromkeys(videos)}
    missing = [path for path, stamp in stamps.items() if not _holds(known.get(str(path)), stamp)]
    for number, hashes in enumerate(in_processes(_hashes, missing, workers), start=1):
        path = missing[number - 1]
        known[str(path)] = _Entry(stamps[path], [one if one is None else f"{one:016x}" for one in hashes])
        if number % _SAVED_EVERY == 0 or number == len(missing):
            write_json(cache, asdict(_Kept(_RULES, known)))
        if progress is not None:
            progress(number, len(missing))
    return {path: tuple(None if one is None else int(one, 16) for one in known[str(path)].hashes) for path in stamps}


def frame_hash(frame: NDArray[np.uint8]) -> int | None:
    """The hash of an (H, W, 3) RGB frame, 63 bits; None for a frame without content."""
    small = Image.fromarray(frame).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, np.float64)
    if grey.std() < _BLANK:
        return None
    lowest = fft.dctn(grey, norm="ortho")[:8, :8].ravel()[1:]
    return int("".join(map(str, np.greater(lowest, np.median(lowest)).astype(int))), 2)


def _hashes(path: Path) -> Hashes:
    try:
        return tuple(glimpses(path, frame_hash))
    except UserError:
        return (None,) * (_FRAMES)


def _arrays(hashes: Sequence[Hashes]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hashes as (videos, frames) integers, and which of them there are."""
    shape = (len(hashes), _FRAMES)
    values = np.array([[one or 0 for one in video] for video in hashes], np.uint64).reshape(shape)
    return values, np.array([[one is not None for one in video] for video in hashes], bool).reshape(shape)


def _mean(differing: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the frames that are there, by row; infinite where they are too few."""
    n = there.sum(axis=1)
    return np.where(n >= _FEWEST, (differing * there).sum(axis=1) / np.maximum(n, 1), np.inf)


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _holds(entry: _Entry | None, stamp: list[int]) -> bool:
    return entry is not None and entry.stamp == stamp and len(entry.hashes) == _FRAMES


def _remembered(cache: Path) -> dict[str, _Entry]:
    """The entries of the cache; none if it cannot be read, since it can be made again."""
    try:
        return read_as(_Kept, cache, "delete it").videos
    except UserError:
        return {}
