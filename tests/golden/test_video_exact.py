"""Frames become patches bit for bit as in transformers' own video processors of Qwen2-VL and Qwen3-VL."""

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

from harness.data.encode import PromptEncoder
from harness.data.video.cache import FrameCache
from harness.data.video.decode import decode_frames
from harness.data.video.frames import ProcessedVideo, VideoSettings, process_frames
from harness.vsibench.records import Record

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
QWEN3 = {"patch_size": 16, "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5), "sampling": "ends"}
"""What is Qwen3-VL's own; its pixel bounds are for the whole video."""
QWEN3_FRAMES = {
    "VSI-Bench size": ((8, 480, 640), (4 * 32 * 32, 128 * 32 * 32)),
    "enlarged": ((4, 60, 90), (96 * 96, 128 * 128)),
    "upright": ((6, 200, 64), (32 * 32, 96 * 96)),
}


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


def qwen3_settings(frames: int, bounds: tuple[int, int]) -> VideoSettings:
    return VideoSettings(frames=frames, min_pixels=bounds[0], max_pixels=bounds[1], **QWEN3)


def qwen3_stock(frames: int, bounds: tuple[int, int]) -> dict[str, Any]:
    size = {"shortest_edge": frames * bounds[0], "longest_edge": frames * bounds[1]}
    return {"processor": {"size": size, "cap_pixels_per_frame": False}}


Results = dict[str, tuple[ProcessedVideo, Tensor, Tensor, str]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
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
    for name, (shape, bounds) in QWEN3_FRAMES.items():
        frames = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.save(folder / f"qwen3 {name}.npy", frames)
        ours[f"qwen3, {name}"] = process_frames(frames, qwen3_settings(shape[0], bounds))
        cases.append(
            {"family": "qwen3_vl", "frames": str(folder / f"qwen3 {name}.npy"), **qwen3_stock(shape[0], bounds)}
        )
    for count in SAMPLED:
        bounds = (32 * 32, 96 * 96)
        ours[f"qwen3, file, {count} frames"] = FrameCache(folder / "cache", qwen3_settings(count, bounds)).load(
            folder / "film.mp4"
        )
        file = {"family": "qwen3_vl", "file": str(folder / "film.mp4"), "sample": count}
        cases.append(file | qwen3_stock(count, bounds))
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, str(SCRIPT), str(folder / "cases.json"), str(folder / "stock.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(folder / "stock.pt", weights_only=True)
    return {name: (made, *stock) for (name, made), stock in zip(ours.items(), theirs, strict=True)}


FILES = [f"file, {count} frames" for count in SAMPLED]


@pytest.mark.parametrize("case", [*FRAMES, *FILES, *(f"qwen3, {name}" for name in (*QWEN3_FRAMES, *FILES))])
def test_equals_the_stock_processor(results: Results, case: str) -> None:
    made, pixel_values, grid, _ = results[case]
    assert made.pixel_values.dtype == pixel_values.dtype == torch.float32
    assert made.grid_thw.dtype == grid.dtype == torch.int64
    assert torch.equal(made.grid_thw, grid)
    assert torch.equal(made.pixel_values, pixel_values)


@pytest.mark.parametrize("case", FILES)
def test_qwen3s_prompt_names_the_seconds_as_its_own_processor_does(results: Results, case: str, tiny_tokenizer) -> None:
    """In the place of the template's vision block, as in the release the model came with (transformers 4.57)."""
    made, _, _, stock = results[f"qwen3, {case}"]
    ids = tiny_tokenizer.convert_tokens_to_ids("<|video_pad|>")

    class Frames:
        settings = qwen3_settings(2, (32 * 32, 96 * 96))

        def load(self, path: Path) -> ProcessedVideo:
            return made

    encoder = PromptEncoder(tiny_tokenizer, ids, Frames(), 2, stamped=True)  # type: ignore[arg-type]
    record = Record(
        id=1, dataset="d", scene_name="s", question_type="object_counting", question="How many?", ground_truth="1"
    )
    prompt = encoder.encode(record, "vanilla", Path("film.mp4"))
    text = tiny_tokenizer.decode(prompt.input_ids)
    assert text.count(stock) == 1 and stock.count("seconds>") == int(made.grid_thw[0, 0])
    assert f"<|im_start|>user\n{stock}How many?" in text
    assert int((prompt.mm_token_type_ids == 2).sum()) == stock.count("<|video_pad|>")
