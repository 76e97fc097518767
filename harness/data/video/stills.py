"""Still images through the video path: an image is a video of one temporal patch.

Qwen2-VL's own image processor repeats an image until it fills a temporal patch, and so do its successors'. The patches,
the grid ``(1, h, w)`` and the M-RoPE positions of an image are therefore those of a video of one such patch; only the
id of the placeholder token differs, and features replace its embedding before the first layer. (The times before
Qwen3-VL's frames are text of the prompt; an image has none.) Nothing is approximated:
``tests/golden/test_image_exact.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.data.video.frames import ProcessedVideo, VideoSettings, patchify, resize_frames
from harness.data.video.images import read_image
from harness.errors import UserError


class StillImages:
    """Loads images as vision input, in place of a video loader.

    Args:
        own: The model's patch sizes and pixel scale, see :func:`harness.models.families.video_defaults`.
        min_pixels: Lowest height x width of a resized image.
        max_pixels: Highest height x width of a resized image.
    """

    def __init__(self, own: Mapping[str, Any], min_pixels: int, max_pixels: int) -> None:
        self.settings = VideoSettings(
            frames=own["temporal_patch_size"], min_pixels=min_pixels, max_pixels=max_pixels, **own
        )

    def load(self, path: Path) -> ProcessedVideo:
        """An image as vision input.

        Raises:
            UserError: The image is missing or damaged, or one side is more than 200 times the other.
        """
        pixels = read_image(path)
        try:
            resized = resize_frames(pixels[None], self.settings, self.settings.frames)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return patchify(resized.expand(self.settings.frames, -1, -1, -1), self.settings)
