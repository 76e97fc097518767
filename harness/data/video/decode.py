"""Decoding frames of a video file or a folder of stills; anything incomplete is refused.

Does not import torch, so that processes that check many videos start quickly; PyAV is imported with the first video, so
that code without videos (a benchmark on random pixels, a report) runs without it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.errors import UserError

Sampling = Literal["even", "ends"]
"""Which frames are sampled: ``even``, evenly spaced from the first on, as in Qwen2-VL's processor; or ``ends``, from
the first to the last, as in Qwen3-VL's and qwen-vl-utils."""

_STILLS = (".jpg", ".jpeg", ".png")
_NOT_COLOUR = re.compile(r"depth|label|instance|pose|intrinsic", re.IGNORECASE)


class VideoClock(NamedTuple):
    """Frame count and rate declared by a video file.

    Attributes:
        frames: Number of frames.
        rate: Frames per second.
    """

    frames: int
    rate: float


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
        sampling: Which ones.

    Returns:
        (n, H, W, 3) RGB.

    Raises:
        UserError: The video is missing, empty, not a video, truncated, damaged or shorter than n frames.
    """
    stills = still_files(path) if path.is_dir() else []
    total = len(stills) if path.is_dir() else _count_frames(path)
    if total < n:
        raise UserError(
            f"{path}: the video has {total} frames and {n} are needed. Lower `frames` or replace the video."
        )
    wanted = frame_indices(total, n, sampling)
    if stills:
        kept = [read_image(stills[index]) for index in wanted]
    else:
        among = frozenset(wanted)
        kept = [frame.to_ndarray(format="rgb24") for index, frame in enumerate(_decoded(path, total)) if index in among]
    if len({frame.shape for frame in kept}) != 1:
        raise _damaged(path, "its frames change size")
    return np.stack(kept)


def inspect_video(path: Path) -> VideoFacts:
    """Decode a whole video file, or the first, the middle and the last frame of a folder of stills.

    Raises:
        UserError: As :func:`decode_frames`.
    """
    if path.is_dir():
        stills = still_files(path)
        if not stills:
            raise UserError(f"{path}: the folder contains no colour frames ({', '.join(_STILLS)})")
        total, shapes = len(stills), {read_image(stills[at]).shape[:2] for at in (0, len(stills) // 2, -1)}
    else:
        total = _count_frames(path)
        shapes = {(frame.height, frame.width) for frame in _decoded(path, total)}
    if len(shapes) != 1:
        raise _damaged(path, "its frames change size" if shapes else "it has no frames")
    return VideoFacts(total, *shapes.pop())


def video_clock(path: Path, stills_rate: float | None = None) -> VideoClock | None:
    """Frame count and rate of a video file; None if it declares none, and for a folder of stills without a rate.

    Raises:
        UserError: The file is missing, unreadable or not a video.
    """
    if path.is_dir():
        return None if stills_rate is None else VideoClock(len(still_files(path)), stills_rate)
    with _opened(path) as container:
        stream = container.streams.video[0]
        known = stream.frames and stream.average_rate
        return VideoClock(stream.frames, float(stream.average_rate)) if known else None


def frame_indices(total: int, n: int, sampling: Sampling = "even") -> list[int]:
    """Which n of ``total`` frames are sampled.

    ``even`` is ``torch.arange(0, total, total / n).int()[:n]``; the slice matters: for some lengths (60 frames, n 26)
    float rounding makes ``arange`` one element too long. ``ends`` is ``numpy.linspace(0, total - 1, n).round()``.
    """
    if sampling == "ends":
        return [int(place) for place in np.linspace(0, total - 1, n).round()]
    return [int(place) for place in (np.arange(n) * (total / n)).astype(np.float32)]


def still_files(folder: Path) -> list[Path]:
    """The colour frames of a folder in the order of the numbers in their names: 2.jpg before 10.jpg."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in _STILLS and not _NOT_COLOUR.search(path.name)]
    return sorted(found, key=lambda path: ([int(digits) for digits in re.findall(r"\d+", path.stem)], path.name))


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image as (H, W, 3) RGB.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the image cannot be read: {error}. Download or export it again.") from error


@contextlib.contextmanager
def _opened(path: Path, problem: Callable[[str], str] = str) -> Iterator[Any]:
    """An open container; an error of FFmpeg or the file system means a damaged video, with the words of ``problem``."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            yield container
    except (FFmpegError, OSError, IndexError) as error:
        raise _damaged(path, problem(str(getattr(error, "strerror", None) or error))) from error


def _decoded(path: Path, total: int) -> Iterator[Any]:
    """Every frame of a file that declares ``total`` frames; fewer or damaged frames are refused."""
    decoded = 0
    with _opened(path, lambda why: f"decoding stops after {decoded} of {total} frames ({why})") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise _damaged(path, f"frame {decoded} of {total} is corrupt")
            yield frame
            decoded += 1
    if decoded < total:
        raise _damaged(path, f"only {decoded} of {total} frames can be decoded")


def _count_frames(path: Path) -> int:
    """Number of frames in the container, without those hidden by its edit list; a truncated file is refused."""
    if not path.is_file():
        raise UserError(f"{path}: no such video file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the video file is empty. Download or export it again.")
    packets = hidden = 0
    with _opened(path) as container:
        if not container.streams.video:
            raise UserError(f"{path}: the file has no video stream")
        stream = container.streams.video[0]
        declared = stream.frames
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_corrupt:
                raise _damaged(path, f"it ends inside frame {packets}, so it is truncated")
            packets += 1
            hidden += packet.is_discard
    if packets < declared:
        raise _damaged(path, f"it is truncated: its header declares {declared} frames, it contains {packets}")
    return packets - hidden


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: the video cannot be read completely: {problem}. Download or export it again.")
