"""What the training loop does with dropped prompts, with numbers that are not finite, and with trackers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_kit import Kit, make_kit, metrics, weights

from algorithms.sft import SFT
from harness.api import Group, Needs, Sample, UserError
from harness.train.checkpoint import list_checkpoints, read_checkpoint
from harness.train.trainer import TrainingError


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


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
    build = trainer.run.groups.build

    def spy(prompts: Any, *rest: Any) -> list[Group]:
        groups = build(prompts, *rest)
        drawn.extend(groups)
        return groups

    trainer.run.groups.build = spy  # type: ignore[method-assign]
    trainer.train()
    assert trainer.run.meter.consumed.examples == len(drawn) > 6
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
        consumed = trainer.run.meter.consumed
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
