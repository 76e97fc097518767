"""The training loop: gradients, budgets, order, checkpoints' schedule, what moves and what does not."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_kit import Kit, make_kit, metrics, weights

from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.sft import SFT
from harness.data.encode import EncodedPrompt
from harness.errors import UserError
from harness.io import read_json
from harness.rollout.sampler import TransformersSampler
from harness.train import trainer as trainer_module
from harness.train.checkpoint import list_checkpoints, read_checkpoint
from harness.train.meter import BudgetMeter
from harness.train.trainer import TrainingError
from harness.types import Group, Needs, Sample


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft-token": ("sft", {}),
    "sft-sequence": ("sft", {"average": "sequence"}),
    "dpo-ranked": ("dpo", {"rollouts": 4}),
    "dpo-altered": ("dpo", {"pairs": "altered"}),
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

    monkeypatch.setattr(trainer_module, "build_optimizer", plain)
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
    trainer.groups.sampler = Drawn(policy, 64)
    trainer.train()
    return order, trainer.groups.sampler.__dict__.get("log", [])


def test_order_and_draws_depend_on_the_seed_and_not_on_the_method(kit: Kit, tmp_path: Path) -> None:
    grpo, grpo_draws = watched(kit, tmp_path / "1", "grpo", {"group_size": 4}, 0)
    dpo, dpo_draws = watched(kit, tmp_path / "2", "dpo", {"rollouts": 4}, 0)
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
    assert trainer.meter.expected_steps(4) == 3
    assert trainer.meter.consumed.updates == 3


def test_a_fractional_budget_ends(kit: Kit, tmp_path: Path) -> None:
    for kind, steps in (("examples", 2), ("steps", 5)):
        trainer = kit.trainer(tmp_path / kind, "sft", kit.policy(), budget=(kind, 4.5), prompts_per_step=4)
        trainer.train()
        assert trainer.meter.consumed.steps == steps == trainer.meter.expected_steps(4)


def test_a_budget_in_seconds_stops_after_the_step_that_spends_it(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(step=0.5)  # every look at the clock is half a second later: a step takes half a second
    monkeypatch.setattr(BudgetMeter, "_now", lambda self: next(ticks))
    trainer = kit.trainer(tmp_path, "sft", kit.policy(), budget=("seconds", 1.75))
    trainer.train()
    assert trainer.meter.consumed.steps == 4 and trainer.meter.consumed.seconds == 2.0
    assert trainer.meter.expected_steps(4) == 0
    real = kit.trainer(tmp_path / "real", "sft", kit.policy(), budget=("seconds", 0.2))
    monkeypatch.undo()
    real.train()
    assert 0.2 <= real.meter.consumed.seconds < 20


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
    trainer.groups.sampler = Drawn(policy, 64)
    monkeypatch.setattr("harness.train.trainer.check_engine", lambda *_: 0.0)  # a look at the engine, not counted
    passes = [0]

    def count(*_: Any) -> None:
        passes[0] += 1

    for module in (policy.language_model, policy.base.model.visual, trainer.groups.reference.language_model):
        module.register_forward_hook(count)
    trainer.train()
    consumed = trainer.meter.consumed
    draws = trainer.groups.sampler.__dict__["log"]
    assert consumed.tokens_sampled == sum(len(row) for _, groups in draws for group in groups for row in group)
    assert consumed.tokens_trained == Counted.tokens > 0
    assert consumed.forward_passes == passes[0]
    assert (consumed.steps, consumed.updates, consumed.examples) == (3, 3, 12)
    assert read_json(tmp_path / "compute.json") == trainer.meter.state()
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
    trainer = kit.trainer(tmp_path, "dpo", policy, options={"pairs": "altered"}, budget=("steps", 2))
    reference = trainer.groups.reference
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


def test_reference_log_probs_take_the_temperature_of_the_update(kit: Kit, tmp_path: Path) -> None:
    """DPO on altered answers samples nothing, so the sampling temperature must not reach its ratios."""
    trainer = kit.trainer(
        tmp_path,
        "dpo",
        kit.policy(),
        options={"pairs": "altered"},
        rollout={"temperature": 0.5},
        budget=("steps", 1),
    )
    trainer.train()
    (line,) = metrics(tmp_path)
    assert line["margin"] == pytest.approx(0, abs=1e-5)  # policy and reference are equal before the first update
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-5)


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
    assert trainer.meter.consumed.updates == 4 and trainer.meter.consumed.steps == 2


# ---------------------------------------------------------------------------------------------- dropped and broken


class Picky(SFT):
    """Keeps prompts with a letter for an answer only: one in three."""

    @property
    def needs(self) -> Needs:
        return Needs(gold=True, reduce="token", resample_dropped=True)

    def experience(self, groups: Any) -> list[Sample]:
        return super().experience([group for group in groups if group.question_type == "object_rel_distance"])


def test_dropped_prompts_are_replaced_and_paid_for(kit: Kit, tmp_path: Path) -> None:
    trainer = kit.trainer(tmp_path, Picky(), kit.policy(), prompts_per_step=2, budget=("steps", 3))
    drawn: list[Group] = []
    build = trainer.groups.build

    def spy(prompts: Any, step: int) -> list[Group]:
        groups = build(prompts, step)
        drawn.extend(groups)
        return groups

    trainer.groups.build = spy  # type: ignore[method-assign]
    trainer.train()
    assert trainer.meter.consumed.examples == len(drawn) > 6
    kept = sum(group.question_type == "object_rel_distance" for group in drawn)
    assert sum(line["samples"] for line in metrics(tmp_path)) == kept
    assert max(line["samples"] for line in metrics(tmp_path)) == 2


def test_ties_cost_budget_and_change_nothing(kit: Kit, tmp_path: Path) -> None:
    for kind in ("examples", "steps"):
        policy = kit.policy()
        before = weights(policy)
        trainer = kit.trainer(
            tmp_path / kind,
            "grpo",
            policy,
            options={"group_size": 2, "beta": 0},
            reward=lambda text: 1.0,
            budget=(kind, 4),
            prompts_per_step=2,
            checkpoints=2,
        )
        folders = trainer.train()
        consumed = trainer.meter.consumed
        assert consumed.updates == 0 and consumed.tokens_trained == 0 and consumed.tokens_sampled > 0
        assert consumed.examples == {"examples": 4, "steps": 8}[kind]
        assert all(torch.equal(before[name], value) for name, value in weights(policy).items())
        assert [line["zero_variance"] for line in metrics(tmp_path / kind)] == [1.0] * consumed.steps
        assert len(folders) == 2  # with an optimiser that has no state yet, which can be continued:
        again = kit.trainer(tmp_path / kind, "grpo", kit.policy(), options={"group_size": 2}, budget=(kind, 4))
        assert again.train() == folders


class Breaks(SFT):
    """Gives a loss or a gradient that is not finite from the second step on."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.calls = what, 0

    def loss(self, batch: Any) -> Any:
        loss, numbers = super().loss(batch)
        self.calls += 1
        if self.calls == 1:
            return loss, numbers
        if self.what == "gradient":  # the root's slope at 0 is infinite, and infinity times 0 is no number
            return (loss * 0).sqrt(), numbers
        return loss * {"nan": math.nan, "inf": math.inf}[self.what], numbers


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
def test_what_is_not_finite_stops_the_training_and_keeps_the_checkpoint(kit: Kit, tmp_path: Path, what: str) -> None:
    policy = kit.policy()
    trainer = kit.trainer(tmp_path, Breaks(what), policy, budget=("steps", 3), checkpoints=3)
    with pytest.raises(TrainingError, match=r"step 2"):
        trainer.train()
    (kept,) = list_checkpoints(tmp_path / "checkpoints")
    assert read_checkpoint(kept).step == 1
    assert all(value.isfinite().all() for value in weights(policy).values())
    assert len(kit.trainer(tmp_path, "sft", kit.policy(), budget=("steps", 3), checkpoints=3).train()) == 3


@pytest.mark.parametrize("method", ["sft", "grpo", "dpo"])
def test_an_absurd_learning_rate_is_an_error_and_not_a_result(kit: Kit, tmp_path: Path, method: str) -> None:
    trainer = kit.trainer(tmp_path, method, kit.policy(), budget=("steps", 3), learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"(finite|nan|inf).*at step [23]"):
        trainer.train()


def test_a_reward_that_is_not_a_number_names_the_record(kit: Kit, tmp_path: Path) -> None:
    trainer = kit.trainer(tmp_path, "grpo", kit.policy(), reward=lambda text: math.nan)
    with pytest.raises(TrainingError, match=r"record .*reward is nan.*at step 1"):
        trainer.train()


# ---------------------------------------------------------------------------------------------- trackers


def test_a_tracker_of_transformers_gets_every_step(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    events: list[tuple[str, int, dict[str, float]]] = []

    class Fake(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **values: Any) -> None:
            assert state.is_world_process_zero and values["model"].config is not None
            assert args.to_json_string() and Path(args.output_dir).name == "trackers"
            events.append(("begin", state.global_step, {}))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **values: Any) -> None:
            events.append(("log", state.global_step, logs))

        def on_train_end(self, args: Any, state: Any, control: Any, **values: Any) -> None:
            events.append(("end", state.global_step, {}))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Fake)
    kit.trainer(tmp_path, "sft", kit.policy(), report_to=["tensorboard"]).train()
    assert [(name, step) for name, step, _ in events] == [("begin", 0), ("log", 1), ("log", 2), ("end", 2)]
    assert [logs["loss"] for name, _, logs in events if name == "log"] == [one["loss"] for one in metrics(tmp_path)]
    events.clear()
    with pytest.raises(TrainingError):
        kit.trainer(tmp_path / "broken", Breaks("nan"), kit.policy(), report_to=["tensorboard"]).train()
    assert [name for name, _, _ in events] == ["begin", "log", "end"]


def test_an_unknown_tracker_is_named(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.report_to.*tensorbored"):
        kit.trainer(tmp_path, "sft", kit.policy(), report_to=["tensorbored"]).train()


def test_metrics_are_json_even_where_a_method_logs_no_number(kit: Kit, tmp_path: Path) -> None:
    class Odd(SFT):
        def loss(self, batch: Any) -> Any:
            return super().loss(batch)[0], {"odd": math.nan}

    kit.trainer(tmp_path, Odd(), kit.policy(), budget=("steps", 1)).train()
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert metrics(tmp_path)[0]["odd"] is None
