"""TRL's GRPO trainer with video: what its loss uses equals a plain forward with the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", minversion="1.16.0")
pytest.importorskip("datasets")

from conftest import random_tiny
from peft import LoraConfig, get_peft_model
from trl import GRPOTrainer

from algorithms.guests import trl_video
from algorithms.guests.trl_video import VIDEOS, grpo_trainer
from harness.data.encode import EncodedPrompt
from harness.engine.policy import Policy
from harness.errors import UserError
from harness.models.loading import LORA_TARGETS

G = 4


@pytest.fixture
def policy(tiny_tokenizer) -> Policy:
    """As in conftest, on stock attention."""
    model = random_tiny()
    model.model.visual.requires_grad_(False)
    return Policy(model, tiny_tokenizer, torch.device("cpu"), "fp32", engine="naive")


def trainer_of(policy: Policy, prompts: Sequence[EncodedPrompt], folder: Path, **settings: Any) -> Any:
    """TRL on two prompts of different videos, four answers each."""
    policy.model.save_pretrained(folder / "base")
    policy.base.config._name_or_path = str(folder / "base")  # where TRL builds its reference model from
    named = {prompt.id: prompt for prompt in prompts}
    common = {
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "num_generations": G,
        "max_completion_length": 5,
        "use_bias_correction_kl": False,
        "max_steps": 1,
        "seed": 3,
    }
    return grpo_trainer(
        policy, named.__getitem__, list(named), lambda text, prompt: float(sum(map(ord, text)) % 7), common | settings
    )


def two(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """Two prompts of different lengths on different videos."""
    pair = [prompts[0], prompts[4]]
    assert pair[0].video.digest != pair[1].video.digest and len(pair[0].input_ids) != len(pair[1].input_ids)
    return pair


def independent(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Per row of a batch of TRL's: plain transformers, one unpadded row, pixels and all, and its full logits."""
    rows = []
    for prompt, ids, mask in zip(inputs[VIDEOS], inputs["completion_ids"], inputs["completion_mask"], strict=True):
        tokens = ids[mask.bool()]
        kinds = torch.cat([prompt.mm_token_type_ids, torch.zeros(len(tokens), dtype=torch.long)])
        with torch.no_grad():
            logits = model(
                input_ids=torch.cat([prompt.input_ids, tokens])[None],
                mm_token_type_ids=kinds[None],
                pixel_values_videos=prompt.video.pixel_values,
                video_grid_thw=prompt.video.grid_thw,
            ).logits[0]
        start = len(prompt.input_ids) - 1
        rows.append(logits[start : start + len(tokens)].log_softmax(-1).gather(-1, tokens[:, None])[:, 0])
    return rows


def gap(values: torch.Tensor, inputs: dict[str, Any], expected: list[torch.Tensor]) -> float:
    rows = zip(values, inputs["completion_mask"], expected, strict=True)
    return max(float((row[mask.bool()] - truth).abs().max()) for row, mask, truth in rows)


def watch(trainer: Any, gaps: list[float], model: Any) -> None:
    """Record, for every forward of the loss, its distance from the independent one under the weights of the moment."""
    stock = trainer._get_per_token_logps_and_entropies

    def watched(network: Any, *args: Any, **options: Any) -> Any:
        result = stock(network, *args, **options)
        if torch.is_grad_enabled():
            gaps.append(gap(result[0].detach(), batches[-1], independent(model, batches[-1])))
        return result

    batches: list[dict[str, Any]] = []
    loss = trainer._compute_loss

    def kept(network: Any, inputs: dict[str, Any]) -> Any:
        batches.append(inputs)
        return loss(network, inputs)

    trainer._get_per_token_logps_and_entropies = watched
    trainer._compute_loss = kept


def test_the_loss_and_the_reference_see_the_video(policy, prompts, tmp_path):
    pair = two(prompts)
    trainer = trainer_of(policy, pair, tmp_path, beta=0.04, per_device_train_batch_size=8)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # away from the reference
    policy.model.train()
    made = trainer._generate_and_score_completions([{"prompt": one.id} for one in pair for _ in range(G)])
    assert not set(made["completion_ids"][made["completion_mask"].bool()].tolist()) & set(policy.banned_tokens)
    policy.model.requires_grad_(False)
    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], 1)
    mask = torch.cat([made["prompt_mask"], made["completion_mask"]], 1)
    width = made["completion_ids"].shape[1]

    now = independent(policy.model, made)
    repaired = trainer._get_per_token_logps_and_entropies(policy.model, ids, mask, width, batch_size=3)[0]
    assert gap(repaired, made, now) < 1e-5
    assert gap(made["ref_per_token_logps"], made, independent(trainer.ref_model, made)) < 1e-5
    assert gap(made["ref_per_token_logps"], made, now) > 1e-3

    stock = GRPOTrainer._get_per_token_logps_and_entropies(trainer, policy.model, ids, mask, width)[0]
    assert gap(stock, made, now) > 0.05  # runs without an error, and is wrong


@pytest.mark.parametrize(
    ("tuning", "settings"),
    [
        ("full", {"beta": 0.04, "per_device_train_batch_size": 8}),
        ("full", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "gradient_checkpointing": False}),
        ("full", {"per_device_train_batch_size": 8, "num_iterations": 2, "max_steps": 2}),
        ("lora", {"beta": 0.04, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}),
    ],
)
def test_every_loss_of_a_run_sees_the_video(policy, prompts, tmp_path, tuning, settings):
    if tuning == "lora":
        policy = Policy(
            get_peft_model(policy.model, LoraConfig(r=4, target_modules=LORA_TARGETS)),
            policy.tokenizer,
            policy.device,
            policy.precision,
            engine="naive",
        )
    trainer = trainer_of(policy, two(prompts), tmp_path, learning_rate=1e-3, **settings)
    before = {name: value.clone() for name, value in policy.model.named_parameters() if value.requires_grad}
    gaps: list[float] = []
    watch(trainer, gaps, policy.model)
    trainer.train()
    assert len(gaps) >= settings.get("gradient_accumulation_steps", 1) * settings.get("max_steps", 1)
    assert max(gaps) < 1e-5
    moved = [
        name for name, value in policy.model.named_parameters() if name in before and not value.equal(before[name])
    ]
    assert moved


def test_it_samples_up_to_the_ends_that_the_engine_knows(prompts, tmp_path, tiny_tokenizer):
    """Also where the checkpoint's own configuration names one of them only, and brings defaults of generation."""
    model = random_tiny()
    model.generation_config.update(eos_token_id=tiny_tokenizer.pad_token_id, min_new_tokens=5, no_repeat_ngram_size=1)
    policy = Policy(model, tiny_tokenizer, torch.device("cpu"), "fp32", engine="naive")
    likely = torch.tensor([tiny_tokenizer.eos_token_id])
    hook = model.lm_head.register_forward_hook(lambda module, args, logits: logits.index_fill(-1, likely, 50.0))
    trainer = trainer_of(policy, two(prompts), tmp_path, per_device_train_batch_size=8)
    assert sorted(trainer.eos_token_ids) == sorted(policy.end_tokens)
    ids = [{"prompt": one.id} for one in two(prompts) for _ in range(G)]
    made = trainer._generate_and_score_completions(ids)
    hook.remove()
    assert made["completion_ids"].tolist() == [likely.tolist()] * 2 * G


def test_a_loss_that_does_not_see_the_video_is_refused(policy, prompts, tmp_path, monkeypatch):
    trainer = trainer_of(policy, two(prompts), tmp_path, per_device_train_batch_size=8)
    monkeypatch.setattr(trl_video, "_seeing", lambda model, videos, video_token: model)
    with pytest.raises(UserError, match=r"differ by .* plain forward pass with the video"):
        trainer.train()


@pytest.mark.parametrize("found", ["1.15.2", "1.17.0", "2.0.0"])
def test_another_version_is_refused_with_the_reason(monkeypatch, found):
    monkeypatch.setattr(trl_video, "version", lambda name: found)
    with pytest.raises(UserError, match=rf"trl {found} is installed.*private methods"):
        trl_video.require_trl()


def test_a_missing_trl_is_refused(monkeypatch):
    def missing(name: str) -> str:
        raise trl_video.PackageNotFoundError(name)

    monkeypatch.setattr(trl_video, "version", missing)
    with pytest.raises(UserError, match="pip install"):
        trl_video.require_trl()
