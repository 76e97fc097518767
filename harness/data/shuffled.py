"""The same question with the frames in random order, to measure how an answer depends on their order (Video-R1)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from harness.data.encode import EncodedPrompt
from harness.data.video.frames import ProcessedVideo

CHANNELS = 3


def shuffled_prompt(prompt: EncodedPrompt, temporal_patch_size: int, seed: int) -> EncodedPrompt:
    """A prompt with its frames in another order and the same text, tokens and positions.

    Args:
        prompt: The original prompt.
        temporal_patch_size: Frames per patch of the model's vision tower.
        seed: Determines the order; a video of one frame is not changed.
    """
    video = prompt.video
    frames = int(video.grid_thw[0, 0]) * temporal_patch_size
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(frames, generator=generator)
    while frames > 1 and bool((order == torch.arange(frames)).all()):
        order = torch.randperm(frames, generator=generator)
    digest = f"{video.digest}/{'-'.join(map(str, order.tolist()))}"
    moved = replace(video, pixel_values=reorder_frames(video, order, temporal_patch_size), digest=digest)
    return replace(prompt, id=f"{prompt.id}/shuffled", video=moved)


def reorder_frames(video: ProcessedVideo, order: Tensor, temporal_patch_size: int) -> Tensor:
    """``pixel_values`` of a video whose i-th frame is the ``order[i]``-th of this one.

    A row of ``pixel_values`` is one patch of ``temporal_patch_size`` frames: (channels, frames, height, width), and
    rows run through the grid with time first.
    """
    values = video.pixel_values
    length = int(video.grid_thw[0, 0])
    cells = values.view(length, -1, CHANNELS, temporal_patch_size, values.shape[1] // (CHANNELS * temporal_patch_size))
    frames = cells.permute(0, 3, 1, 2, 4).flatten(0, 1)[order]
    return frames.unflatten(0, (length, temporal_patch_size)).permute(0, 2, 3, 1, 4).reshape(values.shape)
