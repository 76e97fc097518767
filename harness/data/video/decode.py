"""Decoding frames of a video file or a folder of stills, as a player shows them; anything incomplete is refused.

Does not import torch, so that processes that check many videos start quickly; PyAV is imported with the first video, so
that code without videos (a benchmark on random pixels, a report) runs without it.

Frames are upright (display matrix, EXIF), have square pixels and no transparency; colours follow the matrix and range
that the video states. Interlaced frames stay woven, and HDR is not mapped to SDR, as in torchcodec and transformers.

What is incomplete shows in one of these: the sizes that the container states (:mod:`harness.data.video.whole`), the
frame count or duration that it declares, damaged packets and frames. A fragmented MP4, a live WebM or a transport
stream that was cut exactly between two fragments, elements or packets shows none of them, an FLV that lost less than
half a second neither, and MPEG-PS and raw streams never do: such a file counts as a shorter video. Codecs have no
checksums: changed bytes that still decode are not noticed, but for zeros in H.264 and HEVC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.data.video.clock import Clock, clock_of
from harness.data.video.container import Film, damaged, decoded, survey
from harness.data.video.folders import require_stills
from harness.data.video.images import read_image
from harness.data.video.picture import picture
from harness.errors import UserError

Sampling = Literal["even", "ends"]
"""Which frames are sampled: ``even``, evenly spaced from the first on, as in Qwen2-VL's processor; or ``ends``, from
the first to the last, as in Qwen3-VL's and qwen-vl-utils."""

DECODING = 2
"""Version of the rules by which a file becomes frames and times; raised when they change, so that no cache serves
frames of older rules."""

Kept = TypeVar("Kept")


class VideoFacts(NamedTuple):
    """Frame count and size of a decoded video.

    Attributes:
        frames: Number of frames that can be decoded; for a folder of stills, the files in it.
        height: Pixels.
        width: Pixels.
    """

    frames: int
    height: int
    width: int


def decode_frames(path: Path, n: int, sampling: Sampling = "even") -> NDArray[np.uint8]:
    """Decode a video and keep n frames, including the first.

    A video file is decoded to its end, so that damage after the last sampled frame is noticed too. From a folder of
    stills only the n frames are read.

    Args:
        path: A video file, or a folder of colour frames ordered by the numbers in their names.
        n: How many frames.
        sampling: Which ones. They are counted, not timed, as in Qwen's processors, also where the frame rate varies.

    Returns:
        (n, H, W, 3) RGB.

    Raises:
        UserError: The video is missing, empty, not a video, truncated, damaged, too large or shorter than n frames.
    """
    frames, _ = sample_video(path, n, sampling, lambda frame: frame)
    return np.stack(frames)


def sample_video(
    path: Path, n: int, sampling: Sampling, keep: Callable[[NDArray[np.uint8]], Kept]
) -> tuple[list[Kept], Clock | None]:
    """As :func:`decode_frames`, but keep only what ``keep`` makes of each (H, W, 3) frame, so that few are in memory.

    Returns:
        What was kept, and the times of the n frames; None if the file tells none, and for a folder of stills
        (:func:`harness.data.video.folders.stills_clock`).

    Raises:
        UserError: As :func:`decode_frames`.
    """
    stills = require_stills(path) if path.is_dir() else []
    film = None if stills else survey(path)
    total = len(stills) if film is None else film.frames
    if total < n:
        raise UserError(
            f"{path}: the video has {total} frames and {n} are needed. Lower `frames` or replace the video."
        )
    wanted = frame_indices(total, n, sampling)
    kept: list[Kept] = []
    shapes: dict[tuple[int, ...], str] = {}
    times: list[FrameTime] = []
    shown: Iterator[tuple[str, NDArray[np.uint8]]]
    if film is None:
        shown = ((stills[index].name, read_image(stills[index])) for index in wanted)
    else:
        shown = _pictures(path, film, frozenset(wanted), times)
    for name, frame in shown:
        shapes.setdefault(frame.shape, name)
        if len(shapes) > 1:
            raise damaged(path, f"its frames change size ({_sizes(shapes)})")
        kept.append(keep(frame))
    clock = None if film is None else _clock(film, times)
    return kept, clock and clock.at(wanted)


def inspect_video(path: Path, sampled: int = 0) -> VideoFacts:
    """Decode a whole video file, or some frames of a folder of stills.

    Args:
        path: As in :func:`decode_frames`.
        sampled: How many frames a study takes; of a folder these are decoded, by either way of sampling, besides the
            first, the middle and the last.

    Raises:
        UserError: As :func:`decode_frames`.
    """
    if path.is_dir():
        stills = require_stills(path)
        total = len(stills)
        places = {0, total // 2, total - 1}
        if 0 < sampled <= total:
            places |= {*frame_indices(total, sampled, "even"), *frame_indices(total, sampled, "ends")}
        shapes = {read_image(stills[at]).shape[:2] for at in sorted(places)}
    else:
        film = survey(path)
        shown = _pictures(path, film, frozenset([0]), [])
        total, shapes = film.frames, {frame.shape[:2] for _, frame in shown}
    if len(shapes) != 1:
        raise damaged(path, "its frames change size" if shapes else "it has no frames")
    return VideoFacts(total, *shapes.pop())


def frame_indices(total: int, n: int, sampling: Sampling = "even") -> list[int]:
    """Which n of ``total`` frames are sampled.

    ``even`` is ``torch.arange(0, total, total / n).int()[:n]``; the slice matters: for some lengths (60 frames, n 26)
    float rounding makes ``arange`` one element too long. ``ends`` is ``numpy.linspace(0, total - 1, n).round()``.
    """
    if sampling == "ends":
        return [int(place) for place in np.linspace(0, total - 1, n).round()]
    return [int(place) for place in (np.arange(n) * (total / n)).astype(np.float32)]


class FrameTime(NamedTuple):
    """A shown frame's time stamp and duration, in units of ``tick`` seconds; None where the file has none."""

    stamp: int | None
    duration: int | None
    tick: Fraction | None


def _pictures(
    path: Path, film: Film, wanted: frozenset[int], times: list[FrameTime]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The wanted frames with their names; the times of all of them are added to ``times``."""
    for index, frame in enumerate(decoded(path, film)):
        times.append(FrameTime(frame.pts, frame.duration, frame.time_base))
        if index in wanted:
            yield f"frame {index}", picture(frame, film.aspect, path)


def _clock(film: Film, times: Sequence[FrameTime]) -> Clock | None:
    tick = times[-1].tick or film.tick
    stamps = film.stamps or [time.stamp for time in times]
    return clock_of(stamps, tick, times[-1].duration, film.rate) if tick else None


def _sizes(shapes: Mapping[tuple[int, ...], str]) -> str:
    return ", ".join(f"{name} has {shape[0]}x{shape[1]} pixels" for shape, name in shapes.items())
