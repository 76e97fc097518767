"""A decoded frame as a player shows it: upright, with square pixels, opaque."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.video.container import shown_pixels
from harness.errors import UserError

_SKEW = 0.02
"""Largest off-axis part of a display matrix that is still a turn by quarters (ffmpeg's limit is one degree)."""


def picture(frame: Any, aspect: Fraction, path: Path) -> NDArray[np.uint8]:
    """A frame of PyAV as (H, W, 3) RGB.

    Args:
        frame: The frame; its own side data have the display matrix.
        aspect: Width of a pixel over its height; frames with other than square pixels are resized along their width.
        path: The video, for messages.

    Raises:
        UserError: The display matrix turns the frame by other than quarters, or it is too large.
    """
    shown_pixels(path, frame.width, frame.height, aspect)
    size = {} if aspect == 1 else {"width": max(1, round(frame.width * aspect)), "interpolation": "BICUBIC"}
    if any(component.is_alpha for component in frame.format.components):
        rgb = _on_white(frame.to_ndarray(format="rgba", **size))
    else:
        rgb = frame.to_ndarray(format="rgb24", **size)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return rgb if matrix is None else _turned(rgb, np.frombuffer(bytes(matrix), np.int32).reshape(3, 3), path)


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colours below transparent pixels are arbitrary."""
    opacity = rgba[..., 3:].astype(np.uint16)
    mixed: NDArray[np.uint8] = ((rgba[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return mixed


def _turned(rgb: NDArray[np.uint8], matrix: NDArray[np.int32], path: Path) -> NDArray[np.uint8]:
    """Apply a display matrix of ISO/IEC 14496-12: (x, y) is shown at (a x + c y, b x + d y), with y downwards.

    Only its turns and flips; a scale is the container's way to state the aspect of pixels.
    """
    (a, b), (c, d) = matrix[:2, :2].tolist()
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) <= _SKEW * straight:
        return np.ascontiguousarray(rgb[:: _sign(d), :: _sign(a)])
    if max(abs(a), abs(d)) <= _SKEW * crossed:
        return np.ascontiguousarray(rgb.transpose(1, 0, 2)[:: _sign(b), :: _sign(c)])
    raise UserError(
        f"{path}: its display matrix {matrix[:2, :2].tolist()} turns the video by other than quarters. Encode it "
        "upright (ffmpeg does so: ffmpeg -i IN OUT)."
    )


def _sign(number: int) -> int:
    return -1 if number < 0 else 1
