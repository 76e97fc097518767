"""TRL's own trainers as contenders: with the same rows and settings they take the same steps as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.console import Console

pytest.importorskip("trl", minversion="1.16.0")
pytest.importorskip("datasets")

from study_kit import prepare_cells, small_study
from trainer_kit import Kit, Stop, make_kit, metrics, weights

from algorithms.guests import trl_steps, trl_video
from harness.api import UserError
from harness.api.testing import check_guest
from harness.config.study import load_study
from harness.engine.policy import Policy
from harness.plugins import registry
from harness.study.cell import main
from harness.train.run import TrainingError
from reports.comparison import Comparison

GUESTS = {
    "trl-sft": {},
    "trl-dpo": {"rollouts": 4},
    "trl-grpo": {"group_size": 4, "beta": 0.04},
}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


def policy_of(kit: Kit, tuning: str = "full") -> Policy:
    """As a cell loads it: its base folder is where TRL builds a reference model from."""
    return kit.policy(tuning=tuning)


def far(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean: where a gradient is all but zero, AdamW makes a whole step of its rounding."""
    return float(sum((one[name] - other[name]).square().sum() for name in one) ** 0.5)


# ------------------------------------------------------------------ the same steps


@pytest.mark.parametrize(
    ("ours", "theirs", "options", "micro_batch", "tuning"),
    [
        ("sft", "trl-sft", {}, 8, "lora"),
        ("sft", "trl-sft", {}, 3, "full"),  # micro-batches of unequal sizes and numbers of tokens
        ("dpo", "trl-dpo", {"rollouts": 4, "beta": 0.5}, 8, "lora"),
        ("dpo", "trl-dpo", {"rollouts": 2, "beta": 0.5}, 2, "full"),  # where prompts give no pair, parts are empty
    ],
)
def test_losses_and_weights_equal_ours_over_several_steps(
    kit: Kit, tmp_path: Path, ours: str, theirs: str, options: dict[str, Any], micro_batch: int, tuning: str
) -> None:
    """Same rows, same order, same optimiser, so the same trajectory, in float32 noise.

    For DPO that includes the draws: both sample the same answers of the starting model.
    """
    settings = {
        "options": options,
        "budget": ("steps", 4),
        "micro_batch": micro_batch,
        "learning_rate": 3e-4,
        "adam_beta2": 0.9,
        "warmup_steps": 2,
        "weight_decay": 0.01,
    }
    one, other = policy_of(kit, tuning), policy_of(kit, tuning)
    before = weights(one)
    kit.trainer(tmp_path / "ours", ours, one, **settings).train()
    kit.guest(tmp_path / "theirs", theirs, other, **settings)
    for mine, trl in zip(metrics(tmp_path / "ours"), metrics(tmp_path / "theirs"), strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "samples", "examples"):
            assert trl[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-6), (name, mine, trl)
    moved, apart = (distance(weights(one), there) for there in (before, weights(other)))
    assert moved > 1e-2 and apart < 0.01 * moved


def test_grpo_takes_the_step_that_ours_would_take_on_its_answers(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL samples its own answers; handed to our trainer, they give the same loss and gradient norm."""
    from harness.engine.sampler import Sampled

    found: list[Any] = []
    settings = {"budget": ("steps", 1), "micro_batch": 16, "options": {"group_size": 4, "beta": 0.04}}
    theirs = policy_of(kit)
    stock = trl_video.video_trainer_class()._generate_and_score_completions

    def kept(self: Any, inputs: Any) -> Any:
        made = stock(self, inputs)
        found.append((made, [self._encoded(row["prompt"]) for row in inputs]))
        return made

    monkeypatch.setattr(trl_video.video_trainer_class(), "_generate_and_score_completions", kept)
    kit.guest(tmp_path / "theirs", "trl-grpo", theirs, **settings)
    made, prompts = found[0]
    rows = [
        tuple(row[keep.bool()].tolist())
        for row, keep in zip(made["completion_ids"], made["completion_mask"], strict=True)
    ]
    ours = policy_of(kit)
    before = weights(ours)
    trainer = kit.trainer(tmp_path / "ours", "grpo", ours, **settings)

    def replayed(drawn: Any, count: int, **_: Any) -> list[list[Sampled]]:
        assert [prompt.id for prompt in drawn] == [prompt.id for prompt in prompts[::4]]
        with torch.no_grad():
            values, _ = ours.log_probs(prompts, rows, 1.0)
        text = ours.tokenizer.decode
        answers = [
            Sampled(row, text(row, skip_special_tokens=True), tuple(value[: len(row)].tolist()), False)
            for row, value in zip(rows, values, strict=True)
        ]
        return [answers[start : start + count] for start in range(0, len(answers), count)]

    monkeypatch.setattr(trainer.run.groups.sampler, "sample", replayed)
    trainer.train()
    (mine,), (trl,) = metrics(tmp_path / "ours"), metrics(tmp_path / "theirs")
    assert mine["zero_variance"] < 1
    for name in ("loss", "grad_norm", "reward", "length", "zero_variance"):
        assert trl[name] == pytest.approx(mine[name], rel=2e-3, abs=1e-6), name
    assert distance(weights(ours), weights(theirs)) < 0.05 * distance(weights(ours), before)


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize(("method", "tuning"), [("trl-sft", "full"), ("trl-dpo", "lora"), ("trl-grpo", "lora")])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(kit: Kit, tmp_path: Path, method: str, tuning: str) -> None:
    settings = {"options": GUESTS[method], "budget": ("steps", 3), "checkpoints": 3, "learning_rate": 1e-4}

    def stop(step: int, steps: int, numbers: dict[str, float]) -> None:
        assert steps == 3
        if step == 2:
            raise Stop

    whole, broken, resumed = (policy_of(kit, tuning) for _ in range(3))
    kit.guest(tmp_path / "whole", method, whole, **settings)
    with pytest.raises(Stop):
        kit.guest(tmp_path / "broken", method, broken, progress=stop, **settings)
    kit.guest(tmp_path / "broken", method, resumed, **settings)
    assert far(weights(whole), weights(resumed)) == 0
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")
    assert [line["step"] for line in metrics(tmp_path / "broken")] == [1, 2, 3]


@pytest.mark.parametrize("method", GUESTS)
def test_the_meter_counts_what_a_guest_consumes(kit: Kit, tmp_path: Path, method: str) -> None:
    policy = policy_of(kit)
    forward = policy.base.forward
    settings = {"options": GUESTS[method], "budget": ("examples", 8), "micro_batch": 16}
    run = kit.guest(tmp_path, method, policy, **settings)
    consumed = run.meter.consumed
    assert (consumed.steps, consumed.updates, consumed.examples) == (2, 2, 8)
    assert consumed.seconds > 0 and consumed.peak_memory > 2**20
    lengths = sum(line.get("length", 0) * 16 for line in metrics(tmp_path))
    lengths += sum(len(one.tokens) for kept in run.groups.offline.values() for one in kept)
    assert consumed.tokens_sampled == pytest.approx(lengths)
    assert consumed.tokens_trained > 0
    if method == "trl-sft":  # language model and vision tower once a step, and a first look at TRL's loss
        assert consumed.forward_passes == 2 * 2 + 2 + 2 * 4
    else:
        assert consumed.forward_passes > 8
    assert policy.base.forward == forward and not policy.model.training


def test_a_step_without_pairs_changes_nothing(kit: Kit, tmp_path: Path) -> None:
    policy = policy_of(kit)
    before = weights(policy)
    run = kit.guest(tmp_path, "trl-dpo", policy, options={"rollouts": 2}, reward=lambda text: 1.0, weight_decay=0.1)
    assert far(before, weights(policy)) == 0
    assert (run.meter.consumed.steps, run.meter.consumed.updates) == (2, 0)
    assert [line["samples"] for line in metrics(tmp_path)] == [0, 0]
    assert not any("loss" in line for line in metrics(tmp_path))


@pytest.mark.parametrize("method", ["trl-sft", "trl-grpo"])
def test_training_that_diverges_is_a_failure_with_a_reason(kit: Kit, tmp_path: Path, method: str) -> None:
    with pytest.raises((TrainingError, RuntimeError), match=r"is (nan|inf) at step|probability tensor"):
        kit.guest(tmp_path, method, policy_of(kit), options=GUESTS[method], budget=("steps", 4), learning_rate=1e30)


def test_guests_stand_in_one_matrix_with_methods(tmp_path: Path) -> None:
    """Cells, the evaluation that all share, tables and the fairness card."""
    study = small_study(
        tmp_path,
        methods=("grpo", "trl-grpo"),
        train={"checkpoints": 1, "micro_batch": 4},
        method={"grpo": {"beta": 0, "group_size": 2}},
    )
    run_dir = tmp_path / "run"
    _, cells = prepare_cells(study, run_dir)
    assert cells["trl-grpo-0"].identity["versions"]["trl"].startswith("1.16.")
    assert cells["trl-grpo-0"].identity["hyper_parameters"]["group_size"] == 2
    for cell in cells.values():
        assert main([str(run_dir), cell.id]) == 0
    written = {path.name: path for path in Comparison().write(run_dir, Console(quiet=True))}
    table = written["scores.md"].read_text()
    assert "+ GRPO" in table and "+ TRL GRPO" in table
    card = written["fairness.md"].read_text()
    assert "## Guests" in card and "again for every completion" in card
    consumed = [line for line in card.splitlines() if line.startswith(("| GRPO", "| TRL GRPO"))][:2]
    assert [line.split("|")[4].strip() for line in consumed] == ["4", "4"]  # prompts


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("method", ["trl-sft", "trl-dpo"])
def test_a_loss_that_does_not_see_the_video_is_refused(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def blind(prompts: Any) -> dict[str, Tensor]:
        seen = trl_video.pixels_of(prompts)
        return seen | {"pixel_values_videos": torch.zeros_like(seen["pixel_values_videos"])}

    monkeypatch.setattr(trl_steps, "pixels_of", blind)
    policy = policy_of(kit)
    before = weights(policy)
    with pytest.raises(UserError, match=r"differ by .* plain forward pass with the video"):
        kit.guest(tmp_path, method, policy, options=GUESTS[method])
    assert far(before, weights(policy)) == 0


@pytest.mark.parametrize("method", ["trl-sft", "trl-dpo"])
def test_a_loss_over_the_prompt_is_refused(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    stock = trl_steps._batch

    def unmasked(rows: Any, pad: int) -> dict[str, Any]:
        batch = stock(rows, pad)
        return batch and batch | {"completion_mask": batch["attention_mask"]}

    monkeypatch.setattr(trl_steps, "_batch", unmasked)
    with pytest.raises(UserError, match="tokens outside the completions"):
        kit.guest(tmp_path, method, policy_of(kit), options=GUESTS[method])


def test_settings_that_trl_would_not_follow_are_refused(kit: Kit, tmp_path: Path) -> None:
    for changes, words in (
        ({"updates_per_batch": 2}, "train.updates_per_batch"),
        ({"budget": ("examples", 9)}, "multiple of train.prompts_per_step = 4"),
    ):
        with pytest.raises(UserError, match=words):
            kit.guest(tmp_path, "trl-sft", policy_of(kit), **changes)
    guest, run = kit.parts(tmp_path, "trl-grpo", policy_of(kit, "lora"))
    for section, words in (
        ({"quantisation": "4bit"}, "model.quantisation"),
        ({"freeze_vision": False}, "model.freeze_vision"),
    ):
        run.about["model"] = kit.section(tuning="lora", **section).model_dump()
        with pytest.raises(UserError, match=words):
            guest.train(run)


def test_another_version_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = registry.create("algorithms", "trl-dpo")
    assert guest.versions()["trl"].startswith("1.16.")
    assert all(result.passed for result in check_guest(guest))
    monkeypatch.setattr(trl_video, "version", lambda name: "1.17.0")
    with pytest.raises(UserError, match=r"trl 1\.17\.0 is installed"):
        guest.versions()
    failed = {result.name: result.message for result in check_guest(guest) if not result.passed}
    assert list(failed) == ["versions"] and "pip install 'trl==1.16.0'" in failed["versions"]


def test_a_guest_takes_the_settings_of_the_method_that_it_is_compared_with() -> None:
    overrides = ["grpo.group_size=5", "grpo.clip_low=0.1", "grpo.train.learning_rate=3e-5", "trl-grpo.beta=0.5"]
    study = load_study("tiny", methods=["grpo", "trl-grpo", "trl-grpo:loss_type=dapo"], overrides=overrides)
    config = study.algorithm("trl-grpo").config
    assert (config.group_size, config.beta, config.epsilon) == (5, 0.5, 0.2)  # clip_low is no setting of TRL's
    assert study.for_method("trl-grpo").train.learning_rate == 3e-5
    assert study.algorithm("trl-grpo:loss_type=dapo").config.group_size == 5
    assert study.label("trl-grpo") == "TRL GRPO"
