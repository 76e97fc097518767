"""Shared fixtures: a small data set of real mp4 files, a small random Qwen2-VL, and the command line."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cli_kit import Cli, Ended

from harness.cli import app as cli
from harness.data.encode import EncodedPrompt, PromptEncoder
from harness.data.reader import Dataset, read_dataset
from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.engine.policy import Policy
from harness.models.presets import TINY
from harness.plugins import registry

torch.set_num_threads(1)
# A shell that starts the tests in the background has them ignore Ctrl-C, and so the processes they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

QUESTIONS = [
    ("object_counting", "How many chair(s) are in this room?", None, "4"),
    (
        "object_rel_distance",
        "Measuring from the closest point of each object, which of these objects (table, sofa, lamp, plant) is the "
        "closest to the stool?",
        ["A. table", "B. sofa", "C. lamp", "D. plant"],
        "B",
    ),
    ("room_size_estimation", "What is the size of this room (in square meters)?", None, "23.5"),
]


def write_video(path: Path, frames: np.ndarray) -> None:
    """Encode (T, H, W, 3) uint8 frames as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"qp": "18", "preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_small_dataset(root: Path, scenes: int = 3, size: int = 56, seed: int = 0, split: str = "test") -> Path:
    """A data set in VSI-Bench's layout with random videos, others for each split."""
    rng = np.random.default_rng([seed, *split.encode()])
    lines = []
    for scene in range(scenes):
        name = f"{split}_{scene:06d}"
        blocks = rng.integers(0, 255, (4, size // 14, size // 14, 3)).repeat(14, 1).repeat(14, 2).repeat(4, 0)
        write_video(root / "world" / f"{name}.mp4", blocks.astype(np.uint8))
        for number, (kind, question, options, truth) in enumerate(QUESTIONS):
            lines.append(
                {
                    "id": scene * len(QUESTIONS) + number,
                    "dataset": "world",
                    "scene_name": name,
                    "question_type": kind,
                    "question": question,
                    "options": options,
                    "ground_truth": truth,
                }
            )
    (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module", autouse=True)
def plugin_files_of_its_own() -> Iterator[None]:
    """Each file of tests leaves the registry as it found it, so that the order of the files decides nothing."""
    before = dict(registry._files)
    yield
    registry._files.clear()
    registry._files.update(before)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read_dataset(write_small_dataset(tmp_path_factory.mktemp("data")), "test")


def random_tiny(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The embedded architecture with random weights large enough for peaked distributions."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(TINY.location)
    model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 / parameter.flatten(1).shape[1] ** 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY.location)


@pytest.fixture
def policy(tiny_tokenizer) -> Policy:
    model = random_tiny()
    model.model.visual.requires_grad_(False)
    return Policy(model, tiny_tokenizer, torch.device("cpu"), "fp32")


@pytest.fixture
def prompts(policy: Policy, small_dataset: Dataset, tmp_path: Path) -> list[EncodedPrompt]:
    settings = VideoSettings(frames=8, min_pixels=56 * 56, max_pixels=56 * 56)
    encoder = PromptEncoder(
        policy.tokenizer, policy.base.config.video_token_id, FrameCache(tmp_path / "frames", settings), 2
    )
    return [encoder.encode(r, "vanilla", small_dataset.video_path(r)) for r in small_dataset.records]


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def train_and_test(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name two small data sets of different rooms."""
    root = tmp_path_factory.mktemp("sources")
    train = write_small_dataset(root / "train", scenes=2, seed=1, split="train")
    test = write_small_dataset(root / "test", scenes=1, seed=2, split="test")
    return ["--data", f"{train}#train", "--benchmark-data", str(test)]


@pytest.fixture(params=[True, False], ids=["recomputed", "kept"])
def recompute(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every prefill that the update reuses recomputes its activations, the MLP's in parts; or none does."""
    monkeypatch.setattr("harness.engine.activation_reuse.MAX_FULL_BYTES", 0 if request.param else 2**40)
    monkeypatch.setattr("harness.engine.activation_recomputation.MLP_TOKENS", 5)
    return bool(request.param)
