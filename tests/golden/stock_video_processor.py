"""Run transformers' own video processors of Qwen2-VL and Qwen3-VL on given frames or files, in a process of its own.

Usage: ``python stock_video_processor.py CASES.json OUTPUT.pt``. Where torchvision is not installed,
the five functions of it that the stock class reaches are supplied; ``resize`` is what torchvision does for
uint8 bicubic on CPU: ``torch.nn.functional.interpolate`` on uint8, and nothing at equal size.
"""

from __future__ import annotations

import enum
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class InterpolationMode(enum.Enum):
    """torchvision's names."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def _resize(image: Tensor, size: tuple[int, int], interpolation: InterpolationMode, antialias: bool) -> Tensor:
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    flat = image.reshape(-1, *image.shape[-3:])
    resized = torch.nn.functional.interpolate(
        flat, size=tuple(size), mode=interpolation.value, antialias=antialias, align_corners=False
    )
    return resized.reshape(*image.shape[:-2], *size)


def _normalize(image: Tensor, mean: Tensor, std: Tensor, inplace: bool = False) -> Tensor:
    image = image if inplace else image.clone()
    return image.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def supply_torchvision() -> None:
    """Put the needed part of torchvision into ``sys.modules``, before transformers is imported."""
    functional = {
        "resize": _resize,
        "normalize": _normalize,
        "grayscale_to_rgb": lambda image: image,
        "pil_to_tensor": None,
        "InterpolationMode": InterpolationMode,
    }
    contents: dict[str, dict[str, Any]] = {
        "torchvision": {"__version__": "0.28.0"},
        "torchvision.io": {},
        "torchvision.transforms": {"InterpolationMode": InterpolationMode},
        "torchvision.transforms.functional": functional,
        "torchvision.transforms.v2": {},
        "torchvision.transforms.v2.functional": functional,
    }
    for name, attributes in contents.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        module.__file__ = "supplied"
        module.__path__ = []
        module.__dict__.update(attributes)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _stamped(processor: Any, made: Any, metadata: Any) -> str:
    """What Qwen3-VL's own processor writes in the place of a video."""
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    writer = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    writer.video_processor, writer.video_token = processor, "<|video_pad|>"
    writer.vision_start_token, writer.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    return writer.replace_video_token({"video_grid_thw": made["video_grid_thw"], "video_metadata": [metadata]}, 0)


def main() -> None:
    """Process every case and save ``[(pixel_values_videos, video_grid_thw, text in the place of the video), ...]``.

    The text is Qwen3-VL's, of files alone.
    """
    cases, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    if importlib.util.find_spec("torchvision") is None:
        supply_torchvision()
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
    from transformers.video_utils import load_video

    results = []
    for case in cases:
        family = Qwen3VLVideoProcessor if case.get("family") == "qwen3_vl" else Qwen2VLVideoProcessor
        processor = family(**case["processor"])
        metadata = None
        if "frames" in case:
            video = np.load(case["frames"])
        else:
            video, metadata = load_video(
                case["file"],
                backend="pyav",
                sample_indices_fn=lambda metadata, n=case["sample"], p=processor, **_: p.sample_frames(
                    metadata, num_frames=n
                ),
            )
        made = processor([video], return_tensors="pt", do_sample_frames=False)
        text = _stamped(processor, made, metadata) if metadata and family is Qwen3VLVideoProcessor else ""
        results.append((made["pixel_values_videos"], made["video_grid_thw"], text))
    torch.save(results, output)


if __name__ == "__main__":
    main()
