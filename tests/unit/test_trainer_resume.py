"""A resumed training equals an uninterrupted one, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_kit import Kit, Stop, make_kit, metrics, weights

from harness.io import read_json
from harness.train.checkpoint import list_checkpoints, read_checkpoint
from harness.train.run import TrainingRun


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


RESUMED = {
    "full-adamw": ("full", "adamw", {}),
    "full-8bit": ("full", "adamw_8bit", {}),
    "lora-adamw": ("lora", "adamw", {"lora_dropout": 0.1}),
    "lora-8bit": ("lora", "adamw_8bit", {}),
    "lora-vision": ("lora", "adamw", {"freeze_vision": False}),
}


@pytest.mark.parametrize(("name", "stop"), [("full-adamw", 2), *((name, 3) for name in RESUMED)])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(kit: Kit, tmp_path: Path, name: str, stop: int) -> None:
    """Four steps with checkpoints at 2 and 4, interrupted at the first one or a step behind it."""
    tuning, optimizer, section = RESUMED[name]

    def run(folder: Path, until: int) -> TrainingRun:
        def progress(step: int, steps: int, numbers: dict[str, float]) -> None:
            if step == until:
                raise Stop

        trainer = kit.trainer(
            folder,
            "grpo",
            kit.policy(tuning=tuning, **section),
            options={"group_size": 4},
            budget=("steps", 4),
            warmup_steps=5,
            checkpoints=2,
            prompts_per_step=3,
            optimizer=optimizer,
            progress=progress,
        )
        if until:
            with pytest.raises(Stop):
                trainer.train()
        else:
            trainer.train()
        return trainer.run

    whole = run(tmp_path / "whole", 0)
    run(tmp_path / "parts", stop)
    parts = run(tmp_path / "parts", 0)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    ours, theirs = weights(parts.policy), weights(whole.policy)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert_equal_states(parts.optimizer.state_dict(), whole.optimizer.state_dict())
    for one in (parts, whole):
        one.meter.consumed.seconds = one.meter.consumed.peak_memory = 0
    # Features of a frozen tower are recomputed after a restart: those passes are real.
    assert parts.meter.consumed.forward_passes >= whole.meter.consumed.forward_passes
    parts.meter.consumed.forward_passes = whole.meter.consumed.forward_passes
    assert parts.meter.state() == whole.meter.state()
    digests = [
        [read_checkpoint(one).digest for one in list_checkpoints(tmp_path / run / "checkpoints")]
        for run in ("whole", "parts")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 2


def assert_equal_states(ours: Any, theirs: Any) -> None:
    """Nested states of optimisers, bit for bit; a tuple may have become a list."""
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            assert_equal_states(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal_states(one, other)
    else:
        assert ours == theirs


def test_a_kill_between_the_last_checkpoint_and_the_bookkeeping_loses_nothing(kit: Kit, tmp_path: Path) -> None:
    kit.trainer(tmp_path, "sft", kit.policy()).train()
    consumed = read_json(tmp_path / "compute.json")
    (tmp_path / "compute.json").unlink()
    kit.trainer(tmp_path, "sft", kit.policy()).train()
    assert read_json(tmp_path / "compute.json") == consumed


def test_adapters_start_by_the_seed(kit: Kit) -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(seed + 1)  # whatever else was drawn before
        return weights(kit.policy(tuning="lora", seed=seed))

    first, again, other = start(0), start(0), start(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
