"""All that differs between Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from harness.data.video.clock import NO_TIMES
from harness.data.video.frames import VideoSettings
from harness.errors import UserError
from harness.io import read_json

if TYPE_CHECKING:
    from harness.data.encode import EncodedPrompt
    from harness.data.video.frames import ProcessedVideo
    from harness.models.prompt_state import PromptState

FAMILIES = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
"""The families that are tested, by transformers' ``model_type``.

A new one needs ``model.visual``, ``model.language_model`` and ``lm_head`` under these names and a case in each function
below where it differs, and must pass the tests of the engine against plain transformers.
"""

_HALF = (0.5, 0.5, 0.5)


def video_defaults(config: Any) -> dict[str, Any]:
    """Settings of :class:`~harness.data.video.frames.VideoSettings` that are the model's own, not the study's.

    Qwen2-VL and Qwen2.5-VL take frames at a uniform distance and normalise by CLIP's mean and deviation; Qwen3-VL takes
    the first, the last and those between, and normalises to [-1, 1] (transformers' Qwen3VLVideoProcessor, whose pixel
    bounds are for the whole video: ours for a frame, times the frames).
    """
    vision = config.vision_config
    cut = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }
    if config.model_type == "qwen3_vl":
        cut |= {"image_mean": _HALF, "image_std": _HALF, "sampling": "ends"}
    return cut


def check_processors(folder: Path, config: Any) -> None:
    """Check that a checkpoint's own processors cut and scale frames as the harness does; its pixel bounds are not used.

    Args:
        folder: With the model's settings.
        config: The model's configuration.

    Raises:
        UserError: One of their files says otherwise, so the model saw other numbers in training.
    """
    used = {name: VideoSettings.model_fields[name].default for name in ("image_mean", "image_std")}
    used |= {name: value for name, value in video_defaults(config).items() if name != "sampling"}
    used |= {"do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
    for file in ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"):
        content = read_json(folder / file) if (folder / file).is_file() else None
        whole = content if isinstance(content, dict) else {}
        for part in (whole, whole.get("image_processor"), whole.get("video_processor")):
            for name, value in used.items():
                said = part.get(name) if isinstance(part, dict) else None
                if said is not None and not _about_equal(said, value):
                    raise UserError(
                        f"`{name}` in its {file} is {said}, and frames of {FAMILIES[config.model_type]} are prepared "
                        f"with {value}. A model that was trained otherwise is not supported; if it was not, take the "
                        f"{file} of the model that it comes from"
                    )


def _about_equal(said: Any, value: Any) -> bool:
    try:
        return bool(np.allclose(said, value, rtol=1e-4)) and np.shape(said) in ((), np.shape(value))
    except (TypeError, ValueError):
        return False


def has_time_stamps(config: Any) -> bool:
    """Whether prompts state the time of every temporal patch."""
    return bool(config.model_type == "qwen3_vl")


def vision_is_trained(model: Any) -> bool:
    """Whether the vision tower has parameters to train."""
    return any(parameter.requires_grad for parameter in model.model.visual.parameters())


PATCHES_AT_ONCE = 2048
"""Patches that a CPU runs through the tower at once (at least one frame's), about what its caches hold."""


def encode_video(model: Any, video: ProcessedVideo, device: torch.device) -> Tensor:
    """(1 + levels, tokens, hidden): what replaces the video tokens' embeddings, then Qwen3-VL's deepstack features.

    In all these towers a patch attends only within its frame, so a CPU can process a few frames at a time.
    DeepStack (arXiv 2406.04334) adds features of inner vision layers after each of the first language layers.
    """
    frames, *size = video.grid_thw[0].tolist()
    patches = math.prod(size)
    together = max(1, PATCHES_AT_ONCE // patches) if device.type == "cpu" else frames
    parts = [
        _encode_frames(model, pixels.to(device), [len(pixels) // patches, *size])
        for pixels in video.pixel_values.split(together * patches)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _encode_frames(model: Any, pixels: Tensor, grid: list[int]) -> Tensor:
    output = model.get_video_features(pixels, torch.tensor([grid], device=pixels.device), return_dict=True)
    levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
    # One tensor a video, or, as Qwen3-VL's levels in transformers 5.17, all videos in one.
    return torch.stack([level if isinstance(level, Tensor) else torch.cat(list(level)) for level in levels])


def prompt_positions(model: Any, prompt: EncodedPrompt, device: torch.device) -> Tensor:
    """(3, P) M-RoPE positions by the model's own rule.

    Raises:
        UserError: The prompt lacks what the rule needs: for Qwen2.5-VL the seconds of a temporal patch, for Qwen3-VL
            one block of video tokens for each temporal patch.
    """
    family, seconds = model.config.model_type, prompt.video.seconds_per_patch
    if family == "qwen2_5_vl" and seconds is None:
        raise UserError(
            f"record {prompt.record.key}: Qwen2.5-VL's positions depend on how many seconds a temporal patch covers, "
            f"which this video does not tell. {NO_TIMES}, or use a Qwen2-VL model"
        )
    if family == "qwen3_vl" and _video_blocks(prompt) != int(prompt.video.grid_thw[0, 0]):
        raise UserError(
            f"record {prompt.record.key}: Qwen3-VL expects every temporal patch as its own vision block after a time "
            "stamp; encode the prompt with stamped=True"
        )
    positions, _ = model.model.get_rope_index(
        prompt.input_ids[None].to(device),
        mm_token_type_ids=prompt.mm_token_type_ids[None].to(device),
        video_grid_thw=prompt.video.grid_thw.to(device),
        second_per_grid_ts=None if seconds is None else torch.tensor([seconds], device=device),
    )
    return positions[:, 0]


def _video_blocks(prompt: EncodedPrompt) -> int:
    kinds = prompt.mm_token_type_ids
    return int(((kinds[1:] == 2) & (kinds[:-1] != 2)).sum()) + int(kinds[0] == 2)


def vision_inputs(states: Sequence[PromptState], starts: Sequence[int], width: int) -> dict[str, Any]:
    """What Qwen3-VL's language model takes in addition to embeddings: deepstack features and where they go.

    Args:
        states: The prompt of each of B rows.
        starts: The column where each prompt starts.
        width: Columns of a row.
    """
    if not any(len(state.deepstack) for state in states):
        return {}
    visual = torch.zeros(len(states), width, dtype=torch.bool)
    for row, (state, start) in enumerate(zip(states, starts, strict=True)):
        visual[row, start : start + len(state.visual)] = state.visual
    features = torch.cat([state.deepstack for state in states], 1)
    return {"visual_pos_masks": visual.to(features.device), "deepstack_visual_embeds": list(features)}
