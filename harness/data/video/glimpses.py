"""A few frames of a video, reached by seeking: enough to recognise it, too few to check that it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.data.video.container import opened, pixel_aspect, video_stream
from harness.data.video.decode import sample_video
from harness.data.video.folders import still_files
from harness.data.video.images import read_image
from harness.data.video.picture import picture

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Places as shares of the duration: the same pictures at another frame rate or speed."""

SECONDS = (0.5, 1.5, 2.5)
"""Places from the start and from the end, in seconds: the same pictures where the other end was cut off."""

_SEEK_BEYOND = 3.0
"""Seconds ahead that are reached sooner by decoding on than by seeking."""


Kept = TypeVar("Kept")


def glimpses(path: Path, keep: Callable[[NDArray[np.uint8]], Kept]) -> list[Kept | None]:
    """What ``keep`` makes of the upright (H, W, 3) RGB frames at :data:`SHARES`, and at :data:`SECONDS` after the start
    and before the end.

    A folder of stills has no seconds, and a short video not all of them: None is in their place.

    Raises:
        UserError: The video is missing, or not a video.
    """
    if path.is_dir():
        stills = still_files(path)
        shown = [keep(read_image(stills[int(share * len(stills))])) for share in SHARES if stills]
        return [*shown, *[None] * (len(SHARES) - len(shown) + 2 * len(SECONDS))]
    with opened(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        start, length = _span(container, stream)
        if not length:
            whole, _ = sample_video(path, 2 * len(SHARES), "even", keep)
            return [*whole[1::2], *[None] * (2 * len(SECONDS))]
        ends = [*SECONDS, *(length - back for back in SECONDS)]
        places = [*(share * length for share in SHARES), *(at if 0 <= at < length else None for at in ends)]
        wanted = sorted({at for at in places if at is not None})
        frames = _frames_at(container, stream, start, wanted)
        kept = (keep(picture(frame, pixel_aspect(stream), path)) for frame in frames)
        found = dict(zip(wanted, kept, strict=False))
    return [None if at is None else found.get(at) for at in places]


def _span(container: Any, stream: Any) -> tuple[float, float]:
    """First time and duration of a stream, in seconds."""
    tick = stream.time_base
    start = float(stream.start_time * tick) if stream.start_time is not None else 0.0
    if stream.duration:
        return start, float(stream.duration * tick)
    return start, (container.duration or 0) / 1e6


def _frames_at(container: Any, stream: Any, start: float, wanted: Sequence[float]) -> Iterator[Any]:
    """The frame that is shown at each time, in their order; the last for a time after it."""
    frames: Iterator[Any] = iter(())
    shown, now = None, -np.inf
    for at in wanted:
        if at - now > _SEEK_BEYOND or shown is None:
            container.seek(int((start + at) * 1e6), backward=True)
            frames, shown = container.decode(stream), None
        for frame in frames:
            shown, now = frame, (frame.time or 0.0) - start
            if now + 0.5 * float(1 / (stream.average_rate or 25)) >= at:
                break
        if shown is None:
            return
        yield shown
