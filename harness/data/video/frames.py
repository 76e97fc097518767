"""Turning frames into Qwen2-VL's vision input, bit for bit like its own video processor, without torchvision.

Qwen2.5-VL's is the same; Qwen3-VL's differs in the settings given by :func:`harness.models.families.video_defaults`.
The steps are those of ``Qwen2VLVideoProcessor`` of transformers 5.23 (decode by PyAV and uniform sampling, in
:mod:`harness.data.video.decode`; ``smart_resize``, bicubic resize in uint8, fused rescale and normalisation, patches).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from harness.api.config import StrictConfig
from harness.data.video.decode import Sampling
from harness.errors import UserError

Channels = tuple[float, float, float]
Positive = Annotated[int, Field(ge=1)]

_LONGEST_ASPECT = 200


class VideoSettings(StrictConfig):
    """How a video is cut into patches. The pixel bounds have no default: libraries disagree about them."""

    frames: int = Field(16, ge=1, description="frames sampled uniformly from each video")
    sampling: Sampling = Field("even", description="which frames: even (Qwen2-VL) or ends (Qwen3-VL)")
    min_pixels: Positive = Field(description="lowest height x width of a resized frame")
    max_pixels: Positive = Field(description="highest height x width of a resized frame")
    patch_size: Positive = Field(14, description="side of a patch in pixels (Qwen2-VL: 14)")
    temporal_patch_size: Positive = Field(2, description="frames per patch (Qwen2-VL: 2)")
    merge_size: Positive = Field(2, description="patches merged into a token, along each side (Qwen2-VL: 2)")
    image_mean: Channels = Field(
        (0.48145466, 0.4578275, 0.40821073), description="mean of each channel (CLIP's, as Qwen2-VL)"
    )
    image_std: Channels = Field(
        (0.26862954, 0.26130258, 0.27577711), description="standard deviation of each channel (CLIP's, as Qwen2-VL)"
    )
    cap_pixels_per_frame: bool = Field(
        False,
        description="also bound a frame by its share of the whole video's pixels, as qwen-vl-utils does "
        "(off: transformers' behaviour until 5.23)",
    )
    max_video_tokens: Positive = Field(
        128_000, description="context length behind cap_pixels_per_frame; 90% of it is for the video"
    )

    @model_validator(mode="after")
    def _consistent(self) -> VideoSettings:
        if self.frames % self.temporal_patch_size:
            raise ValueError(
                f"frames = {self.frames} is not a multiple of temporal_patch_size = {self.temporal_patch_size}"
            )
        if self.max_pixels < self.min_pixels:
            raise ValueError(f"max_pixels = {self.max_pixels} is below min_pixels = {self.min_pixels}")
        if self.max_pixels < self.factor**2:
            raise ValueError(
                f"max_pixels = {self.max_pixels} is below one visual token of {self.factor} x {self.factor} = "
                f"{self.factor**2} pixels"
            )
        if min(self.image_std) <= 0:
            raise ValueError(f"image_std = {self.image_std} must be positive")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all settings."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def factor(self) -> int:
        """Pixels along one side of a visual token: heights and widths become multiples of it."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, eq=False)
class ProcessedVideo:
    """The vision tower's input for one video.

    Attributes:
        pixel_values: (patches, 3 * temporal_patch_size * patch_size^2) float32, ``pixel_values_videos``.
        grid_thw: (1, 3) int64, patches in time, height and width, ``video_grid_thw``.
        digest: SHA-256 of the resized frames, the settings and the seconds, if known: equal exactly when the model's
            input is equal.
        seconds_per_patch: Duration of one temporal patch; Qwen2.5-VL's positions depend on it.
        patch_times: Time in seconds at the middle of each temporal patch; Qwen3-VL's prompts state it.
    """

    pixel_values: Tensor
    grid_thw: Tensor
    digest: str
    seconds_per_patch: float | None = None
    patch_times: tuple[float, ...] = ()


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Qwen2-VL's frame size: multiples of ``factor``, area within the bounds, aspect ratio roughly preserved.

    Raises:
        UserError: One side is more than 200 times the other.
    """
    if max(height, width) > _LONGEST_ASPECT * min(height, width):
        raise UserError(f"a frame of {height}x{width} pixels: no side may exceed {_LONGEST_ASPECT}x the other")
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    if tall * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif tall * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        tall = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return tall, wide


def resize_frames(frames: NDArray[np.uint8], settings: VideoSettings, total: int | None = None) -> Tensor:
    """Resize (n, H, W, 3) uint8 frames, all or some of a video's ``total`` ones, to (n, 3, h, w) uint8.

    Bicubic with antialiasing and uint8 in and out: a float resize that is rounded afterwards
    differs in a fifth of the pixels.
    """
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    height, width = video.shape[-2:]
    size = smart_resize(
        height,
        width,
        factor=settings.factor,
        min_pixels=settings.min_pixels,
        max_pixels=_frame_budget(total or len(video), settings),
    )
    if size == (height, width):
        return video
    return functional.interpolate(video, size=size, mode="bicubic", antialias=True, align_corners=False)


def _frame_budget(frames: int, settings: VideoSettings) -> int:
    if not settings.cap_pixels_per_frame:
        return settings.max_pixels
    whole = int(settings.max_video_tokens * settings.factor * settings.factor * 0.9)
    share = whole * settings.temporal_patch_size // frames
    return max(min(settings.max_pixels, share), int(settings.min_pixels * 1.05))


def patchify(resized: Tensor, settings: VideoSettings) -> ProcessedVideo:
    """The vision tower's input of (n, 3, h, w) uint8 frames."""
    patches, grid = cut_patches(resized, settings)
    return ProcessedVideo(pixel_values=patches, grid_thw=grid, digest=frames_digest(resized, settings))


def cut_patches(frames: Tensor, settings: VideoSettings) -> tuple[Tensor, Tensor]:
    """Normalise (n, 3, h, w) frames of 0 to 255 and cut them into patches; an odd last frame is repeated.

    Returns:
        ``pixel_values`` and ``grid_thw`` of :class:`ProcessedVideo`.
    """
    scale = 1.0 / (1 / 255)
    mean = torch.tensor(settings.image_mean, device=frames.device) * scale
    std = torch.tensor(settings.image_std, device=frames.device) * scale
    video = frames.to(torch.float32, copy=True).sub_(mean[:, None, None]).div_(std[:, None, None])
    if missing := -len(video) % settings.temporal_patch_size:
        video = torch.cat((video, video[-1:].expand(missing, -1, -1, -1)))
    side, merge, depth = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    n, channels, height, width = video.shape
    grid = (n // depth, height // side, width // side)
    cells = video.view(grid[0], depth, channels, grid[1] // merge, merge, side, grid[2] // merge, merge, side).permute(
        0, 3, 6, 4, 7, 2, 1, 5, 8
    )
    patches = cells.reshape(math.prod(grid), channels * depth * side * side)
    return patches, torch.tensor([grid], dtype=torch.long)


def frames_digest(resized: Tensor, settings: VideoSettings) -> str:
    """SHA-256 over resized frames, their shape and the settings."""
    content = hashlib.sha256(f"{settings.digest} {tuple(resized.shape)} ".encode())
    content.update(resized.contiguous().numpy().data)
    return content.hexdigest()


def process_frames(frames: NDArray[np.uint8], settings: VideoSettings) -> ProcessedVideo:
    """Turn (n, H, W, 3) uint8 RGB frames into the vision tower's input.

    Raises:
        UserError: One side is more than 200 times the other.
    """
    return patchify(resize_frames(frames, settings), settings)
