"""Small pictures of videos, to be embedded in a page: one contact sheet a scene, shared by its questions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import av
from av.error import FFmpegError
from PIL import Image

from harness.data.video.decode import decode_frames
from harness.errors import UserError

FRAMES = 8
COLUMNS = 4
GAP = 2
_RUNGS = ((128, 75), (112, 65), (84, 60), (84, 35), (56, 35))
"""Longest side of a frame in pixels and WebP quality, from the best down."""


def contact_sheets(paths: Iterable[Path], budget: int) -> dict[Path, str]:
    """Contact sheets of videos as data URIs (WebP, four frames a row, at even distance in time).

    Args:
        paths: Videos, each once.
        budget: Most bytes of all data URIs together; each video gets the same share, and a sheet that would be
            larger is made smaller.

    Returns:
        Only the videos that could be read and made small enough.
    """
    listed = list(paths)
    share = budget // max(1, len(listed))
    sheets = {path: _sheet(path, share) for path in listed}
    return {path: sheet for path, sheet in sheets.items() if sheet}


def _sheet(path: Path, most: int) -> str:
    try:
        frames = _frames(path)
    except (UserError, FFmpegError, OSError, IndexError):
        return ""
    for side, quality in _RUNGS:
        small = [_fitted(frame, side) for frame in frames]
        width, height = small[0].size
        rows = -(-len(small) // COLUMNS)
        sheet = Image.new("RGBA", (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP))
        for number, frame in enumerate(small):
            sheet.paste(frame, (number % COLUMNS * (width + GAP), number // COLUMNS * (height + GAP)))
        content = io.BytesIO()
        sheet.save(content, "WEBP", quality=quality, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
        if len(uri) <= most:
            return uri
    return ""


def _frames(path: Path) -> list[Image.Image]:
    """Frames at even distance: of the key frames if there are enough, so that a long video is not decoded whole."""
    if path.is_dir():
        return [Image.fromarray(frame) for frame in decode_frames(path, FRAMES)]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        keys = [_fitted(frame.to_image(), _RUNGS[0][0]) for frame in container.decode(stream)]
    if len(keys) >= FRAMES:
        return [keys[number * len(keys) // FRAMES] for number in range(FRAMES)]
    return [Image.fromarray(frame) for frame in decode_frames(path, FRAMES)]


def _fitted(frame: Image.Image, side: int) -> Image.Image:
    """A copy no larger than ``side``, of the same aspect; small frames stay as they are."""
    fitted = frame.copy()
    fitted.thumbnail((side, side), Image.Resampling.LANCZOS)
    return fitted
