"""Frames become patches bit for bit as in transformers' own Qwen2VLVideoProcessor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data.decode import decode_frames
from harness.data.video import ProcessedVideo, VideoSettings, process_frames

SCRIPT = Path(__file__).parent / "stock_video_processor.py"

QWEN = {"min_pixels": 128 * 28 * 28, "max_pixels": 768 * 28 * 28}
SMALL = {"min_pixels": 28 * 28, "max_pixels": 84 * 84}
CAPPED = {"min_pixels": 28 * 28, "max_pixels": 768 * 28 * 28, "cap_pixels_per_frame": True, "max_video_tokens": 64}

FRAMES: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "tiny world, size kept": ((16, 84, 84), {"min_pixels": 84 * 84, "max_pixels": 84 * 84}),
    "shrunk": ((4, 120, 160), SMALL),
    "enlarged": ((4, 50, 90), QWEN),
    "VSI-Bench size": ((3, 480, 640), {"min_pixels": 4 * 28 * 28, "max_pixels": 128 * 28 * 28}),
    "one frame": ((1, 84, 112), SMALL),
    "odd number of frames": ((5, 77, 131), SMALL),
    "upright": ((7, 200, 64), SMALL),
    "smaller than a token": ((2, 9, 20), SMALL),
    "very wide": ((2, 30, 2000), SMALL),
    "capped by the whole video": ((6, 280, 280), CAPPED),
    "cap at its floor": ((16, 280, 280), {**CAPPED, "min_pixels": 37_000}),
    "other mean and deviation": ((2, 84, 84), {**SMALL, "image_mean": (0.5, 0.4, 0.3), "image_std": (0.2, 0.3, 0.4)}),
    "other patches": ((6, 90, 60), {**SMALL, "patch_size": 16, "temporal_patch_size": 3}),
}
SAMPLED = (4, 6, 16)


def film(path: Path, frames: int, size: tuple[int, int]) -> None:
    """An H.264 film of moving noise."""
    noise = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width = size
        stream.pix_fmt, stream.options = "yuv420p", {"qp": "20", "preset": "ultrafast"}
        for shift in range(frames):
            picture = av.VideoFrame.from_ndarray(np.roll(noise, 3 * shift, axis=1), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ProcessedVideo, Tensor, Tensor]]:
    """For each case what we make and what the stock processor makes, in one process for all."""
    folder = tmp_path_factory.mktemp("stock")
    rng = np.random.default_rng(0)
    cases, ours = [], {}
    for number, (name, (shape, options)) in enumerate(FRAMES.items()):
        frames = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.save(folder / f"{number}.npy", frames)
        settings = VideoSettings(frames=options.get("temporal_patch_size", 2), **options)
        ours[name] = process_frames(frames, settings)
        stock = {"cap_pixels_per_frame": False, **options}
        cases.append({"frames": str(folder / f"{number}.npy"), "processor": stock})
    film(folder / "film.mp4", 37, (96, 128))
    for count in SAMPLED:
        settings = VideoSettings(frames=count, **SMALL)
        ours[f"file, {count} frames"] = process_frames(decode_frames(folder / "film.mp4", count), settings)
        stock = {"cap_pixels_per_frame": False, **SMALL}
        cases.append({"file": str(folder / "film.mp4"), "sample": count, "processor": stock})
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, str(SCRIPT), str(folder / "cases.json"), str(folder / "stock.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(folder / "stock.pt", weights_only=True)
    return {name: (made, *stock) for (name, made), stock in zip(ours.items(), theirs, strict=True)}


@pytest.mark.parametrize("case", [*FRAMES, *(f"file, {count} frames" for count in SAMPLED)])
def test_equals_the_stock_processor(results: dict[str, tuple[ProcessedVideo, Tensor, Tensor]], case: str) -> None:
    made, pixel_values, grid = results[case]
    assert made.pixel_values.dtype == pixel_values.dtype == torch.float32
    assert made.grid_thw.dtype == grid.dtype == torch.int64
    assert torch.equal(made.grid_thw, grid)
    assert torch.equal(made.pixel_values, pixel_values)
