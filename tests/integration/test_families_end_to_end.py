"""A random model of each family goes from mp4 files to log-probabilities, a step of each method, and an evaluation."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import FAMILIES, stock_log_probs, write_family
from study_kit import prepare_cells, small_study
from trainer_kit import TextReward, varied
from transformers.video_utils import VideoMetadata

from harness.api.reward import WeightedRewards
from harness.config.study import StudyConfig
from harness.data.video.decode import frame_indices, inspect_video
from harness.memory.estimate import MemoryLimit, account_for
from harness.study.cell import main as run_cell
from harness.study.setup import prepare

VISION = {"qwen2_vl": (14, 56, "even"), "qwen2_5_vl": (14, 56, "even"), "qwen3_vl": (16, 64, "ends")}
"""Side of a patch, of a frame of 56 x 56 pixels once resized, and which frames are taken."""


@pytest.fixture(autouse=True)
def handler_kept() -> Iterator[None]:
    """A cell takes SIGTERM over, which the test process wants back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module", params=FAMILIES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    root = tmp_path_factory.mktemp(request.param)
    model = write_family(request.param, root / request.param)
    return small_study(
        root,
        methods=("sft", "dpo", "grpo"),
        model={"name": str(model), "tuning": "lora"},
        data={"frames": 8, "min_pixels": 56 * 56, "max_pixels": 64 * 64},
        budget={"kind": "steps", "amount": 1},
        train={"checkpoints": 1, "learning_rate": 1e-2, "warmup_steps": 0},
    )


def test_log_probabilities_of_real_videos_are_those_of_plain_transformers(study: StudyConfig) -> None:
    bench = prepare(study)
    family = bench.policy.base.config.model_type
    record = bench.benchmark.records[0]
    path = bench.benchmark.video_path(record)
    prompt = bench.encoder.encode(record, "official", path)
    side, size, sampling = VISION[family]
    assert prompt.video.grid_thw.tolist() == [[4, size // side, size // side]]
    total = inspect_video(path).frames
    indices = frame_indices(total, 8, sampling)
    metadata = VideoMetadata(total_num_frames=total, fps=8.0, frames_indices=indices)
    assert prompt.video.patch_times == pytest.approx(
        [sum(pair) / 16 for pair in zip(*[iter(indices)] * 2, strict=True)]
    )
    if sampling == "even":
        assert prompt.video.seconds_per_patch == pytest.approx(2 / metadata.sampled_fps)
    text = bench.policy.tokenizer.decode(prompt.input_ids)
    assert text.count("seconds>") == (4 if family == "qwen3_vl" else 0)
    answers = [[95, 96, 97], [98]]
    with torch.no_grad():
        values, _ = bench.policy.log_probs([prompt] * 2, answers)
        for row, tokens in zip(values, answers, strict=True):
            expected = stock_log_probs(bench.policy.base, prompt, tokens)
            torch.testing.assert_close(row[: len(tokens)], expected, atol=1e-5, rtol=1e-5)


def test_each_method_takes_a_step_and_every_model_is_evaluated(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = WeightedRewards({"toy": TextReward(varied)}, {"toy": 1.0})  # random text earns nothing of the real ones
    monkeypatch.setattr("harness.study.work.build_rewards", lambda study: rewards)
    plan, _ = prepare_cells(study, tmp_path)
    for cell in plan.cells:
        folder = cell.folder(tmp_path)
        assert run_cell([str(tmp_path), cell.id]) == 0, (folder / "status.json").read_text()
        name = "step-000000" if cell.is_base else "step-000001"
        answers = (folder / "vsibench" / name / "samples.jsonl").read_text().splitlines()
        assert len(answers) == len(plan.benchmark.records)
        if not cell.is_base:
            steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            assert len(steps) == 1 and steps[0]["grad_norm"] > 0


def test_its_memory_is_accounted_for(study: StudyConfig) -> None:
    account = account_for(study, "grpo", MemoryLimit("here", 2**40, 1, False))
    assert account.trained > 0 and account.phases["update"] > 0


def test_a_folder_of_stills_is_refused_where_seconds_matter(study: StudyConfig, tmp_path: Path) -> None:
    from PIL import Image

    from harness.errors import UserError

    bench = prepare(study)
    for number in range(8):
        Image.new("RGB", (56, 56), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")

    def encode() -> Any:
        return bench.policy.prompt_states([bench.encoder.encode(bench.benchmark.records[0], "official", tmp_path)])

    if bench.policy.base.config.model_type == "qwen2_vl":
        assert encode()
        return
    with pytest.raises(UserError, match=r"folder of stills\b.*data\.stills_rate=30.*, or use a Qwen2-VL model"):
        encode()
    told = study.model_copy(update={"data": study.data.model_copy(update={"stills_rate": 4.0})})
    bench = prepare(told)
    assert encode()
    (prompt,) = [bench.encoder.encode(bench.benchmark.records[0], "official", tmp_path)]
    assert prompt.video.seconds_per_patch == 0.5 and prompt.video.patch_times == (0.125, 0.625, 1.125, 1.625)
