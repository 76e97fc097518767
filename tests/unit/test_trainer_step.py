"""Parts of a training step that its result alone does not show: clipping, logging, seeds, the tokens of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_kit import Kit, make_kit, metrics, weights

from algorithms.sft import SFT
from harness.api import Batch
from harness.train import run as run_module
from harness.train.tracking import METRICS_FILE, read_metrics


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


class LoggingSFT(SFT):
    """SFT that logs constants and remembers the seed of every loss."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        self.seeds.append(torch.initial_seed())
        loss, _ = super().loss(batch)
        return loss, {"one": 1.0, "first_unit": float(batch.unit[0])}


def test_the_gradient_is_clipped_to_the_declared_norm(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(model: torch.nn.Module, settings: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)

    monkeypatch.setattr(run_module, "build_optimizer", plain)
    policy = kit.policy()
    before = weights(policy)
    trainer = kit.trainer(tmp_path, "sft", policy, budget=("steps", 1), learning_rate=1.0, max_grad_norm=0.25)
    trainer.train()
    step = torch.cat([(before[name] - value).flatten() for name, value in weights(policy).items()])
    assert metrics(tmp_path)[0]["grad_norm"] > 0.5  # what is logged is the norm before clipping
    assert step.norm().item() == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_logged_numbers_are_means_over_the_samples_of_a_step(kit: Kit, tmp_path: Path, micro_batch: int) -> None:
    trainer = kit.trainer(tmp_path, LoggingSFT(), kit.policy(), budget=("steps", 1), micro_batch=micro_batch)
    trainer.train()
    (line,) = metrics(tmp_path)
    # Four samples of units 0 to 3: parts of 1, of 3 and 1, or of 4 begin with these units.
    means = {1: (0 + 1 + 2 + 3) / 4, 3: (3 * 0 + 1 * 3) / 4, 64: 0.0}
    assert line["one"] == pytest.approx(1.0)
    assert line["first_unit"] == pytest.approx(means[micro_batch])


def test_every_update_has_a_seed_of_its_own_that_a_second_run_repeats(kit: Kit, tmp_path: Path) -> None:
    seen = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        method = LoggingSFT()
        kit.trainer(tmp_path / name, method, kit.policy(), seed=seed, updates_per_batch=2).train()
        seen.append(method.seeds)
    first, again, other = seen
    assert len(set(first)) == len(first) == 4  # two steps of two updates
    assert first == again
    assert not set(first) & set(other)


def test_a_gold_completion_is_the_answer_and_an_end_token(kit: Kit, tmp_path: Path) -> None:
    policy = kit.policy()
    _, run = kit.parts(tmp_path, "sft", policy)
    prompt = run.prompts(0)
    (group,) = run.groups.build([prompt], 0)
    (gold,) = group.by_source("gold")
    assert gold.text == prompt.record.ground_truth
    assert policy.tokenizer.decode(gold.tokens[:-1]) == gold.text
    assert gold.tokens[-1] in policy.end_tokens


def test_progress_tells_of_missed_answers_only_once_they_grow(kit: Kit, tmp_path: Path) -> None:
    told: list[float | None] = []
    run = kit.trainer(
        tmp_path / "run",
        "grpo",
        kit.policy(),
        options={"group_size": 2},
        budget=("steps", 3),
        prompts_per_step=1,
        progress=lambda step, steps, numbers: told.append(numbers.get("missed")),
    ).run
    run.begin()
    for share in (0.05, 0.1, 0.3):
        run.finish_step({"missed": share})
    run.finish_step({"loss": 1.0})
    run.end()
    assert told == [None, None, 0.3, 0.3]
    assert [step.get("missed") for step in read_metrics(tmp_path / "run" / METRICS_FILE)] == [0.05, 0.1, 0.3, None]
