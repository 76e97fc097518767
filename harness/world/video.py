"""H.264 clips whose decoded frames are the same every time they are made.

Two choices ensure this. The quantiser (``qp``) is fixed, on one thread: rate control by ``crf`` was measured to
give different frames from run to run. And the conversion to YUV is done here in numpy: FFmpeg's scaler may
use other arithmetic on another processor, whereas decoding H.264 is exact by its standard.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.io import write_bytes
from harness.world.camera import FPS

Frames = NDArray[np.uint8]

_QP = 18
"""Mean error after decoding is about 2 of 255 at 84 pixels, from a file of some 15 kB."""

_TO_YUV = np.array(
    [
        (65.481, 128.553, 24.966),
        (-37.797, -74.203, 112.0),
        (112.0, -93.786, -18.214),
    ]
) / np.float64(255.0)
"""ITU-R BT.601, limited range: what decoders assume of a small video that does not say otherwise."""


def yuv420(frames: Frames) -> Frames:
    """Planar YUV 4:2:0 of RGB frames.

    Args:
        frames: (T, H, W, 3) of 0 to 255; H and W even, H divisible by 4 for the planar layout.

    Returns:
        (T, H * 3 / 2, W): the Y plane above the U and V planes, as FFmpeg lays out ``yuv420p``.
    """
    count, height, width, _ = frames.shape
    red, green, blue = np.moveaxis(frames.astype(np.float64), -1, 0)
    luma, *chroma = (r * red + g * green + b * blue for r, g, b in _TO_YUV)
    planes = [(luma + 16).reshape(count, height, width)]
    for plane in chroma:
        halved = plane.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4)) + 128
        planes.append(halved.reshape(count, height // 4, width))
    return np.rint(np.concatenate(planes, axis=1)).astype(np.uint8)


def write_video(path: Path, frames: Frames) -> None:
    """Write a walkthrough atomically, see :func:`encode_video`."""
    write_bytes(path, encode_video(frames))


def encode_video(frames: Frames) -> bytes:
    """A walkthrough as the content of an mp4 file.

    Args:
        frames: (T, S, S, 3) with S divisible by 4.
    """
    import av  # here, so that reports and benchmarks on random pixels run without it

    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = frames.shape[1]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"qp": str(_QP), "preset": "ultrafast", "threads": "1"}
        for picture in yuv420(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))
    return content.getvalue()
