"""The training loop: gradients, budgets, order, checkpoints' schedule, what moves and what does not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_kit import Kit, make_kit, metrics, weights

from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from harness.data.encode import EncodedPrompt
from harness.engine.sampler import TransformersSampler
from harness.io import read_json
from harness.train import run as run_module
from harness.train.checkpoint import read_checkpoint
from harness.train.meter import BudgetMeter


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft-token": ("sft", {}),
    "sft-sequence": ("sft", {"average": "sequence"}),
    "dpo-ranked": ("dpo", {"rollouts": 4}),
    "dpo-corrupted": ("dpo", {"pairs": "corrupted"}),
    "grpo-sequence": ("grpo", {"group_size": 4, "beta": 0.1}),
    "grpo-token": ("grpo", {"group_size": 4, "beta": 0.1, "loss_type": "token"}),
}


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", METHODS)
def test_accumulation_leaves_the_gradient_unchanged(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With plain SGD of rate 1 the step is the gradient itself; Adam would hide its scale."""

    def plain(model: torch.nn.Module, settings: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)

    monkeypatch.setattr(run_module, "build_optimizer", plain)
    method, options = METHODS[name]
    gradients = []
    for size in (2, 64):
        policy = kit.policy()
        before = weights(policy)
        kit.trainer(
            tmp_path / str(size),
            method,
            policy,
            options=options,
            budget=("steps", 1),
            micro_batch=size,
            learning_rate=1.0,
            max_grad_norm=1e9,
        ).train()
        after = weights(policy)
        gradients.append(torch.cat([(before[key] - after[key]).flatten() for key in before]))
    assert gradients[1].norm() > 1e-2
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[1].norm()


def test_sft_learns_a_fixed_batch(kit: Kit, tmp_path: Path) -> None:
    kit.trainer(tmp_path, "sft", kit.policy(), budget=("steps", 10), prompts_per_step=9).train()
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert losses[-1] < 0.1 * losses[0]


def test_grpo_raises_a_synthetic_reward(kit: Kit, tmp_path: Path) -> None:
    def wanted(text: str) -> float:
        return text.count("e") / 10

    kit.trainer(
        tmp_path,
        "grpo",
        kit.policy(),
        options={"group_size": 8},
        budget=("steps", 12),
        prompts_per_step=2,
        reward=wanted,
    ).train()
    rewards = [line["reward"] for line in metrics(tmp_path)]
    assert sum(rewards[-4:]) > 1.5 * sum(rewards[:4])


def test_bf16_is_close_to_fp32(kit: Kit, tmp_path: Path) -> None:
    exact, rounded = kit.policy(), kit.policy(precision="bf16")
    prompts = [kit.prompts(exact)(index) for index in range(4)]
    answers = [[300, 301, 302], [95], [97, 98], [40, 41, 42]]
    with torch.no_grad():
        expected, _ = exact.log_probs(prompts, answers)
        values, _ = rounded.log_probs(prompts, answers)
    assert values.dtype == torch.float32
    assert (values - expected).abs().max() < 0.02 * expected.abs().max()
    assert not torch.equal(values, expected)
    for tuning in ("full", "lora"):
        policy = kit.policy(precision="bf16", tuning=tuning)
        before = weights(policy)
        kit.trainer(tmp_path / tuning, "grpo", policy, options={"group_size": 4}, budget=("steps", 1)).train()
        after = weights(policy)
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in after.values())
        assert any(not torch.equal(before[key], after[key]) for key in before)


# ---------------------------------------------------------------------------------------------- order and draws


class Drawn(TransformersSampler):
    """Remembers every draw."""

    def sample(self, prompts: Any, n: int, **options: Any) -> Any:
        answers = super().sample(prompts, n, **options)
        self.__dict__.setdefault("log", []).append(
            (options["seed"], [[one.tokens for one in group] for group in answers])
        )
        return answers


def watched(kit: Kit, folder: Path, method: str, options: dict[str, Any], seed: int) -> tuple[list[int], list[Any]]:
    policy, order = kit.policy(), []
    encode = kit.prompts(policy)

    def prompt(index: int) -> EncodedPrompt:
        order.append(index)
        return encode(index)

    trainer = kit.trainer(folder, method, policy, options=options, seed=seed, prompts=prompt, budget=("steps", 3))
    trainer.run.groups.sampler = Drawn(policy, 64)
    trainer.train()
    return order, trainer.run.groups.sampler.__dict__.get("log", [])


def test_order_and_draws_depend_on_the_seed_and_not_on_the_method(kit: Kit, tmp_path: Path) -> None:
    grpo, grpo_draws = watched(kit, tmp_path / "1", "grpo", {"group_size": 4}, 0)
    dpo, dpo_draws = watched(kit, tmp_path / "2", "online-dpo", {"pairs": "ranked", "rollouts": 4}, 0)
    sft, _ = watched(kit, tmp_path / "3", "sft", {}, 0)
    other, other_draws = watched(kit, tmp_path / "4", "grpo", {"group_size": 4}, 1)
    assert grpo == dpo == sft != other
    assert grpo_draws[0] == dpo_draws[0]  # the same answers while the policies are still equal
    assert [seed for seed, _ in grpo_draws] == [seed for seed, _ in dpo_draws]
    assert len({seed for seed, _ in [*grpo_draws, *other_draws]}) == 6
    assert sorted(grpo[:9]) == list(range(9))  # an epoch is a permutation, and the next one another
    assert grpo[9:] != grpo[:3]


# ---------------------------------------------------------------------------------------------- schedule and budgets


def test_the_rate_warms_up_and_then_stays(kit: Kit, tmp_path: Path) -> None:
    kit.trainer(
        tmp_path,
        "sft",
        kit.policy(),
        budget=("steps", 6),
        warmup_steps=4,
        learning_rate=1e-3,
    ).train()
    assert [line["learning_rate"] for line in metrics(tmp_path)] == pytest.approx(
        [0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3]
    )


def test_an_example_budget_is_met_exactly(kit: Kit, tmp_path: Path) -> None:
    trainer = kit.trainer(tmp_path, "sft", kit.policy(), budget=("examples", 10), prompts_per_step=4)
    trainer.train()
    assert [line["examples"] for line in metrics(tmp_path)] == [4, 8, 10]
    assert trainer.run.meter.expected_steps(4) == 3
    assert trainer.run.meter.consumed.updates == 3


def test_a_budget_ends_with_the_step_that_reaches_it(kit: Kit, tmp_path: Path) -> None:
    for kind, steps in (("examples", 2), ("steps", 5)):
        trainer = kit.trainer(tmp_path / kind, "sft", kit.policy(), budget=(kind, 5), prompts_per_step=4)
        trainer.train()
        assert trainer.run.meter.consumed.steps == steps == trainer.run.meter.expected_steps(4)


def test_a_budget_in_seconds_stops_after_the_step_that_spends_it(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(step=0.5)  # every look at the clock is half a second later: a step takes half a second
    monkeypatch.setattr(BudgetMeter, "_now", lambda self: next(ticks))
    trainer = kit.trainer(tmp_path, "sft", kit.policy(), budget=("seconds", 1.75))
    trainer.train()
    assert trainer.run.meter.consumed.steps == 4 and trainer.run.meter.consumed.seconds == 2.0
    assert trainer.run.meter.expected_steps(4) == 0
    real = kit.trainer(tmp_path / "real", "sft", kit.policy(), budget=("seconds", 0.2))
    monkeypatch.undo()
    real.train()
    assert 0.2 <= real.run.meter.consumed.seconds < 20


class Counted(DPO):
    """Counts the tokens that reach the loss."""

    tokens = 0

    def loss(self, batch: Any) -> Any:
        Counted.tokens += int(batch.mask.sum())
        return super().loss(batch)


def test_the_meter_equals_independent_counts(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "tokens", 0)
    policy = kit.policy()
    trainer = kit.trainer(tmp_path, Counted(DPO.Config(rollouts=4)), policy, budget=("steps", 3), micro_batch=4)
    trainer.run.groups.sampler = Drawn(trainer.run.groups.reference, 64)
    monkeypatch.setattr("harness.train.run.check_engine", lambda *_: 0.0)  # a look at the engine, not counted
    passes = [0]

    def count(*_: Any) -> None:
        passes[0] += 1

    for module in (policy.language_model, policy.base.model.visual, trainer.run.groups.reference.language_model):
        module.register_forward_hook(count)
    trainer.train()
    consumed = trainer.run.meter.consumed
    draws = trainer.run.groups.sampler.__dict__["log"]
    assert consumed.tokens_sampled == sum(len(row) for _, groups in draws for group in groups for row in group)
    assert consumed.tokens_trained == Counted.tokens > 0
    assert consumed.forward_passes == passes[0]
    assert (consumed.steps, consumed.updates, consumed.examples) == (3, 3, 12)
    assert read_json(tmp_path / "compute.json") == trainer.run.meter.state()
    assert consumed.peak_memory > 2**20


@pytest.mark.parametrize(("checkpoints", "expected"), [(1, [6]), (2, [3, 6]), (3, [2, 4, 6]), (4, [2, 3, 5, 6])])
def test_checkpoints_are_evenly_spaced_and_the_last_is_at_the_end(
    kit: Kit, tmp_path: Path, checkpoints: int, expected: list[int]
) -> None:
    found = kit.trainer(
        tmp_path, "sft", kit.policy(), budget=("examples", 12), prompts_per_step=2, checkpoints=checkpoints
    ).train()
    assert [read_checkpoint(folder).step for folder in found] == expected
    assert [(folder / "trainer").exists() for folder in found] == [False] * (len(expected) - 1) + [True]


# ---------------------------------------------------------------------------------------------- what moves


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_trained_vision_tower_moves_and_a_frozen_one_does_not(
    kit: Kit, tmp_path: Path, tuning: str, frozen: bool
) -> None:
    policy = kit.policy(tuning=tuning, freeze_vision=frozen)
    tower = policy.base.model.visual
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    seen: set[str] = set()
    for name, value in tower.named_parameters():
        if value.requires_grad:
            value.register_hook(lambda gradient, name=name: seen.add(name) if gradient.any() else None)
    kit.trainer(tmp_path, "sft", policy, budget=("steps", 1)).train()
    moved = [name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])]
    if frozen:
        assert not moved and not seen
    else:
        assert len(moved) == len(before) == len(seen)
    rest = weights(policy, trained=False)
    original = kit.policy(tuning=tuning, freeze_vision=frozen)
    assert all(torch.equal(value, weights(original, trained=False)[name]) for name, value in rest.items())


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_reference_is_the_model_at_the_start_and_stays(kit: Kit, tmp_path: Path, tuning: str, frozen: bool) -> None:
    policy, untouched = kit.policy(tuning=tuning, freeze_vision=frozen), kit.policy()
    trainer = kit.trainer(tmp_path, "dpo", policy, options={"pairs": "corrupted"}, budget=("steps", 2))
    reference = trainer.run.groups.reference
    prompts = [kit.prompts(policy)(index) for index in range(3)]
    answers = [[300, 301], [95], [97, 98, 99]]
    with torch.no_grad():
        expected, _ = untouched.log_probs(prompts, answers)

    def referred() -> torch.Tensor:
        with reference.as_reference():
            return reference.log_probs(prompts, answers)[0]

    torch.testing.assert_close(referred(), expected, atol=1e-6, rtol=1e-6)
    before = referred()
    trainer.train()
    assert torch.equal(referred(), before)
    with torch.no_grad():
        assert (policy.log_probs(prompts, answers)[0] - before).abs().max() > 1e-3
    assert all(
        parameter.requires_grad == (name in weights(policy)) for name, parameter in policy.model.named_parameters()
    )


@pytest.mark.parametrize(("method", "options"), [("sft", {}), ("dpo", {"pairs": "corrupted"})])
def test_the_sampling_temperature_reaches_no_method_that_samples_nothing(
    kit: Kit, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    """Neither the policy's log-probabilities nor the reference's: two steps, so that DPO's margins are not 0 alone."""
    lines = []
    for temperature in (1.0, 0.5):
        folder = tmp_path / str(temperature)
        rollout = {"temperature": temperature}
        kit.trainer(folder, method, kit.policy(), options=options, rollout=rollout, budget=("steps", 2)).train()
        lines.append(metrics(folder))
    assert lines[0][0]["grad_norm"] > 0.1
    assert lines[1] == lines[0]


class Ratios(GRPO):
    """Remembers how far the policy is from the one that sampled."""

    def loss(self, batch: Any) -> Any:
        difference = ((batch.policy.detach() - batch.behaviour).exp() - 1).abs() * batch.mask
        self.__dict__.setdefault("seen", []).append(float(difference.max()))
        return super().loss(batch)


def test_a_second_update_on_one_batch_has_a_ratio_and_clips(kit: Kit, tmp_path: Path) -> None:
    method = Ratios(GRPO.Config(group_size=4, clip_low=0.01, clip_high=0.01))
    trainer = kit.trainer(tmp_path, method, kit.policy(), updates_per_batch=2, micro_batch=64, budget=("steps", 2))
    trainer.train()
    first, second, *_ = method.__dict__["seen"]
    assert first < 1e-3 < 1e-2 < second
    assert metrics(tmp_path)[0]["clip_fraction"] > 0
    assert trainer.run.meter.consumed.updates == 4 and trainer.run.meter.consumed.steps == 2
