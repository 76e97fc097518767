"""The account of memory: counted parameters, traced activations, and what was measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_small_dataset
from trainer_kit import Kit, make_kit
from transformers import AutoConfig

from harness.config.study import ModelSection, load_study
from harness.console import Console
from harness.data.encode import PromptEncoder
from harness.data.reader import read_dataset
from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.engine.activation_reuse import can_reuse
from harness.memory import estimate as memory
from harness.memory import footprint as module
from harness.memory.estimate import MemoryLimit, account_for, fitting_settings, trained_completions
from harness.memory.footprint import Footprint, Part, count_parameters, footprint
from harness.memory.trace import LiveBytes, Load, trace
from harness.models.loading import model_sizes
from harness.plugins import registry

FRAMES, SIDE = 8, 168
PATCHES = FRAMES // 2 * (SIDE // 14) ** 2


def published(size: str) -> Any:
    """Qwen2-VL's true configuration, without its weights."""
    return model_sizes(size)


@pytest.mark.parametrize(("size", "parameters"), [("2b", 2_208_985_600), ("7b", 8_291_375_616)])
def test_the_published_sizes_come_out(size: str, parameters: int) -> None:
    """2.21 and 8.29 billion, as the models' cards say."""
    config = published(size)
    sizes = count_parameters(config, ModelSection())
    assert sizes.total == parameters
    width, inner, text = config.text_config.hidden_size, config.text_config.intermediate_size, config.text_config
    keys = text.num_key_value_heads * width // text.num_attention_heads
    by_hand = 28 * (2 * width * width + 2 * width * keys + 3 * width * inner)
    assert sizes.linear == by_hand
    assert sizes.adapters == 28 * 16 * (2 * (width + width) + 2 * (width + keys) + 3 * (width + inner))
    assert count_parameters(config, ModelSection(tuning="full")).trained == parameters - sizes.vision


@pytest.mark.parametrize(("size", "answers", "gigabytes", "token"), [("2b", 8, 9.5, 28_672), ("7b", 14, 26.0, 57_344)])
def test_a_dry_run_at_true_width_agrees_with_an_independent_count(
    size: str, answers: int, gigabytes: float, token: int
) -> None:
    """The independent one counted autograd's saved storages of another implementation, without adapters."""
    load = Load(2000, 7760, answers, 128, answers, 1, answers, answers, 0)
    account = footprint(published(size), ModelSection(), "bf16", load, cuda=True)
    parts = {part.name: part for part in account.parts}
    assert parts["activations"].bytes / 1e9 == pytest.approx(gigabytes, rel=0.15)
    assert parts["KV cache in sampling"].bytes == (2000 + answers * 129) * token
    assert parts["weights"].bytes == account.parameters * 2
    assert account.peak == account.always + max(account.phases.values())


def test_quantised_weights_and_recomputed_activations_are_accounted_for() -> None:
    config, load = published("2b"), Load(1228, 4400, 14, 64, 14, 8)
    plain = footprint(config, ModelSection(), "bf16", load)
    small = footprint(config, ModelSection(quantisation="4bit"), "bf16", load)
    again = footprint(config, ModelSection(gradient_checkpointing=True), "bf16", load)
    linear = count_parameters(config, ModelSection()).linear
    assert plain.always - small.always == pytest.approx(linear * (2 - 0.516), rel=1e-3)
    assert again.phases["update"] < 0.25 * plain.phases["update"]


def test_a_model_of_two_layers_is_traced_with_three() -> None:
    config = published("2b")
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    load = Load(150, 400, 1, 4, 1, 1)
    assert trace(config, ModelSection(), "bf16", load, "prefill", 3) > trace(
        config, ModelSection(), "bf16", load, "prefill", 2
    )


def test_tracing_without_content_counts_what_real_tensors_take(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from torch._subclasses import fake_tensor

    config = published("2b")
    config.text_config.hidden_size, config.text_config.intermediate_size, config.text_config.vocab_size = 192, 256, 500
    config.vision_config.hidden_size, config.text_config.rope_parameters["mrope_section"] = 192, [2, 3, 3]
    config.vision_config.embed_dim, config.text_config.pad_token_id = 64, 0
    load = Load(150, 400, 4, 12, 8, 4)

    class Real(contextlib.nullcontext):  # the same run with content in the tensors
        def __init__(self, **options: Any) -> None:
            super().__init__(self)

        def from_tensor(self, value: torch.Tensor) -> torch.Tensor:
            return value

    for what in ("update", "prefill"):
        for section in (ModelSection(), ModelSection(tuning="full"), ModelSection(gradient_checkpointing=True)):
            expected = trace(config, section, "bf16", load, what, 2)
            with monkeypatch.context() as patch:
                patch.setattr(fake_tensor, "FakeTensorMode", Real)
                assert trace(config, section, "bf16", load, what, 2) == pytest.approx(expected, rel=0.02)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Ten questions about ten videos."""
    root = tmp_path_factory.mktemp("kit")
    made = make_kit(root)
    data = read_dataset(write_small_dataset(root / "many", scenes=10))
    return dataclasses.replace(made, data=dataclasses.replace(data, records=data.records[::3]))


@pytest.mark.parametrize(
    ("method", "answers", "rollouts", "changes"),
    [
        ("sft", 1, 0, {"tuning": "lora"}),
        ("grpo", 8, 8, {"tuning": "full"}),
        ("grpo", 8, 8, {"tuning": "lora", "precision": "bf16"}),
        ("grpo", 8, 8, {"tuning": "full", "gradient_checkpointing": True}),
    ],
)
@pytest.mark.usefixtures("recompute")
def test_the_estimate_is_within_a_fifth_of_what_a_training_takes(
    kit: Kit, tmp_path: Path, method: str, answers: int, rollouts: int, changes: dict[str, Any]
) -> None:
    policy = kit.policy(**changes)
    settings = VideoSettings(frames=FRAMES, min_pixels=SIDE**2, max_pixels=SIDE**2)
    frames = FrameCache(tmp_path / "frames", settings)
    encoder = PromptEncoder(policy.tokenizer, policy.base.config.video_token_id, frames, 2)

    def prompt(index: int) -> Any:
        record = kit.data.records[index]
        return encoder.encode(record, "vanilla", kit.data.video_path(record))

    options = {"group_size": 8, "beta": 1e-4} if rollouts else None
    rollout = {"max_new_tokens": 8, "batch": 32}
    trainer = kit.trainer(tmp_path, method, policy, options=options, prompts=prompt, micro_batch=8, rollout=rollout)
    weights = sum(one.nbytes for one in policy.model.parameters())
    length = max(len(prompt(index).input_ids) for index in range(10))
    with LiveBytes() as live:
        trainer.train()
    section = ModelSection(**({"tuning": "full"} | changes))
    reused = 4 if can_reuse(policy, trainer.algorithm.needs, 1) else 0
    load = Load(length, PATCHES, answers, 8, 8, 4, rollouts, 32 if rollouts else 0, videos=10, reused=reused)
    needs = trainer.algorithm.needs
    account = footprint(policy.base.config, section, policy.precision, load, reference=needs.reference)
    estimate = account.peak - module._PROGRAM_BYTES
    assert estimate == pytest.approx(weights + live.peak, rel=0.2)


@pytest.mark.parametrize(("tuning", "measured"), [("lora", 10.8), ("full", 40.0)])
def test_the_estimate_is_within_a_fifth_of_what_a_gpu_measured(tuning: Any, measured: float) -> None:
    """torch.cuda.max_memory_allocated on an H100, in GiB: a GRPO step of tests/benchmarks/step.py, Qwen2-VL-2B's shape,
    prompts of 2,048 tokens (8 x 26 x 38 patches), 14 answers of 16 tokens in one pass, full and LoRA of rank 16.
    """
    load = Load(2048, 8 * 26 * 38, 14, 16, 14, 1, rollouts=14, sampled=14, videos=8)
    section = ModelSection(name="2b", tuning=tuning, precision="bf16")
    account = footprint(model_sizes("2b"), section, "bf16", load, reference=True, cuda=True)
    allocated = account.peak - sum(part.bytes for part in account.parts if part.name == "the program")
    assert allocated / 2**30 == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("method", "answers"), [("sft", 1), ("dpo", 2), ("grpo", 8)])
def test_what_a_method_trains_on_is_found_by_asking_it(method: str, answers: int) -> None:
    options = {"group_size": 8} if method == "grpo" else None
    assert trained_completions(registry.create("algorithms", method, options)) == answers


def test_every_method_can_be_asked() -> None:
    for method in registry.names("algorithms"):
        assert trained_completions(registry.create("algorithms", method)) >= 1


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The 2B preset on a GPU; the model itself is not needed."""
    monkeypatch.setattr(memory, "choose_precision", lambda section, device: "bf16")
    return load_study("2b", methods=["grpo"])


def test_settings_that_make_it_fit_are_found_and_true(study: Any) -> None:
    whole = account_for(study, "grpo", MemoryLimit("a card", 80e9, 1, True))
    room = MemoryLimit("a small card", whole.peak * 0.8, 1, True)
    settings, least = fitting_settings(study, "grpo", room)
    assert not room.holds(whole) and room.holds(least)
    assert settings
    overrides = [setting.removeprefix("-s ") for setting in settings]
    assert account_for(load_study("2b", methods=["grpo"], overrides=overrides), "grpo", room).peak == least.peak
    least_of_all = (
        "model.quantisation=4bit",
        "model.gradient_checkpointing=true",
        "train.micro_batch=1",
        "rollout.batch=1",
        "evaluation.batch=1",
        "data.max_pixels=3136",
        "data.min_pixels=784",
    )
    watch = MemoryLimit("a watch", 2**30, 1, True)
    settings, least = fitting_settings(load_study("2b", methods=["grpo"], overrides=least_of_all), "grpo", watch)
    assert settings == [] and not watch.holds(least)


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("grpo", "train.micro_batch=14", ["-s train.micro_batch=3"]),
        ("grpo", "grpo.train.micro_batch=12", ["-s grpo.train.micro_batch=3"]),
        ("grpo:beta=0", "grpo.train.micro_batch=12", ["-s grpo.train.micro_batch=3"]),
        ("trl-grpo", "grpo.train.micro_batch=12", ["-s trl-grpo.train.micro_batch=3"]),
        ("grpo:train.micro_batch=14", "model.quantisation=4bit", []),  # its own setting stays
    ],
)
def test_settings_that_make_it_fit_reach_a_methods_own_sections(
    method: str, given: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a method has a setting of its own, the shared one would change nothing, and the search would never end."""

    def account(study: Any, method: str, limit: MemoryLimit) -> Footprint:
        return Footprint((Part("activations", "", study.for_method(method).train.micro_batch, "update"),), 0, 0)

    monkeypatch.setattr(memory, "account_for", account)
    overrides = ["model.gradient_checkpointing=true", "data.max_pixels=3136", "data.min_pixels=784", given]
    study = load_study("2b", methods=[method], overrides=overrides)
    settings, _ = fitting_settings(study, method, MemoryLimit("a card", 4, 1, True))
    assert settings == expected


def test_a_methods_own_rollouts_at_once_are_counted() -> None:
    study = load_study("2b", methods=["grpo", "grpo:rollout.batch=14"])
    card = MemoryLimit("a card", 80e9, 1, True)
    sampling = [account_for(study, method, card).phases["sampling"] for method in study.methods]
    assert sampling[1] < sampling[0] / 2


def test_a_run_begins_by_telling_what_it_takes(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, words in (
        (
            MemoryLimit("cuda:0 (a card)", 80e9, 1, True),
            r"Memory: about \d+\.\d GiB \(grpo\) of 74\.5 GiB on cuda:0 \(a card\)$",
        ),
        (
            MemoryLimit("cuda:0 (old)", 11e9, 1, True),
            r"too little\. It would fit with -s .*\nThe calculation: harness doctor",
        ),
    ):
        monkeypatch.setattr(memory, "this_machine", lambda study, room=room: room)
        console = Console(record=True, width=400)
        memory.print_summary(study, console)
        import re

        assert re.search(words, console.export_text().strip()), words
    monkeypatch.setattr(
        memory, "model_sizes", lambda name: AutoConfig.from_pretrained(registry.load("models", "tiny").location)
    )
    console = Console(record=True)
    memory.print_summary(study, console)
    assert console.export_text() == "", "the embedded model is not worth a line"


def test_the_whole_calculation_is_shown(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "this_machine", lambda study: MemoryLimit("a card", 80e9, 1, True))
    console = Console(record=True, width=200)
    assert memory.print_estimates(study, console)
    text = console.export_text()
    for words in ("2,208,985,600 parameters x 2 bytes", "18,464,768 x 8 bytes", "KV cache", ": fits", "peak"):
        assert words in text
