"""Frame sizes of published evaluations and trainings, by name.

Bounds are height x width of one frame in pixels; 28 x 28 pixels are one visual token of Qwen2-VL. The paper (arXiv
2504.00883) gives none.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

_TOKEN = 28 * 28


class PixelBounds(NamedTuple):
    """The least and the most pixels (height x width) of one frame."""

    least: int
    most: int


PIXELS = MappingProxyType(
    {
        # Video-R1's training and evaluation (arXiv 2503.21776); the least is ours
        "video-r1-train": PixelBounds(16 * _TOKEN, 128 * _TOKEN),
        "video-r1-eval": PixelBounds(16 * _TOKEN, 256 * _TOKEN),
        # SpatialLadder's evaluation
        "spatial-ladder": PixelBounds(16 * _TOKEN, 512 * _TOKEN),
        # lmms-eval's qwen2_vl model
        "lmms-eval": PixelBounds(4 * _TOKEN, 768 * _TOKEN),
        # the default of Qwen2VLVideoProcessor in transformers 5
        "qwen2-vl": PixelBounds(128 * _TOKEN, 768 * _TOKEN),
        # VLMEvalKit's Qwen2-VL models
        "vlm-eval-kit": PixelBounds(1280 * _TOKEN, 16384 * _TOKEN),
    }
)
"""By the name that ``data.pixels`` takes."""
