"""What the engine refuses, when it falls back, and how it goes on when memory runs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import END, IMAGE, VIDEO, tiny_config, tiny_model, tiny_policy, tiny_prompt, tiny_video
from torch import Tensor
from trainer_kit import Kit, make_kit, metrics, weights
from transformers import AutoModelForImageTextToText

from harness.engine import packing
from harness.engine.out_of_memory import AdaptiveBatchSize
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.engine.self_check import check_engine
from harness.errors import UserError
from harness.train.trainer import TrainingError

VIDEO_OF_12 = tiny_video((2, 4, 6))
PROMPT = tiny_prompt(VIDEO_OF_12, [3, 4, 5])


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


# ------------------------------------------------------------------ what is refused


def test_a_prompt_longer_than_the_models_positions_is_refused_by_name() -> None:
    policy = tiny_policy(tiny_model())
    longest = tiny_prompt(VIDEO_OF_12, [3] * (255 - 17))
    policy.log_probs([longest], [[4]])
    with pytest.raises(UserError, match=rf"record {longest.record.key[:12]}.*256 tokens, the model takes 256"):
        policy.log_probs([tiny_prompt(VIDEO_OF_12, [3] * (256 - 17))], [[4]])
    assert policy.video.passes == 1  # before the tower runs


def test_an_empty_completion_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"record 3-4-5: an empty completion"):
        tiny_policy(tiny_model()).log_probs([PROMPT, PROMPT], [[4], []])


@pytest.mark.parametrize("token", [VIDEO, IMAGE])
@pytest.mark.parametrize("engine", ["shared", "naive"])
def test_a_completion_with_a_vision_token_is_refused_by_name(token: int, engine: Any) -> None:
    with pytest.raises(UserError, match=rf"record 3-4-5: a completion contains a vision token \(\{{{token}\}}\)"):
        tiny_policy(tiny_model(), engine).log_probs([PROMPT], [[4, token, 5]])


def test_a_qwen25_video_without_its_duration_is_refused() -> None:
    video = dataclasses.replace(VIDEO_OF_12, seconds_per_patch=None)
    with pytest.raises(UserError, match="how many seconds"):
        tiny_policy(tiny_model("qwen2_5_vl")).log_probs([tiny_prompt(video, [3])], [[4]])


# ------------------------------------------------------------------ when the naive engine takes over


def test_sliding_window_layers_take_the_naive_engine_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config("qwen2_vl")
    config.text_config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    config.text_config.sliding_window = 8
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    policy = tiny_policy(model)
    assert policy.engine == "naive"
    assert "sliding_attention" in caplog.text
    with torch.no_grad():
        assert policy.log_probs([PROMPT] * 2, [[4, 5], [6]])[0].isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_self_check_passes_a_right_engine_and_moves_nothing(precision: str) -> None:
    policy = tiny_policy(tiny_model(), precision=precision)
    state = torch.get_rng_state()
    difference = check_engine(policy, PROMPT)
    assert difference < (1e-5 if precision == "fp32" else 0.1)
    assert policy.engine == "shared"
    assert (policy.forward_passes, policy.video.passes) == (0, 0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fault", ["mask", "positions"])
def test_the_self_check_refuses_a_wrong_engine(precision: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = packing.pack

    def wrong(*args: Any) -> packing.PackedRows:
        rows = right(*args)
        if fault == "mask":
            return rows._replace(mask=rows.mask.masked_fill(torch.ones_like(rows.mask).bool(), 0.0))
        return rows._replace(positions=torch.arange(rows.positions.shape[2]).expand_as(rows.positions))

    monkeypatch.setattr("harness.engine.policy.pack", wrong)
    policy = tiny_policy(tiny_model(), precision=precision)
    with pytest.raises(UserError, match=r"`model\.engine` = shared.* off by .*--engine naive"):
        check_engine(policy, PROMPT)
    assert policy.engine == "shared"


def test_a_run_whose_engine_is_wrong_trains_nothing(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on with the naive engine would mix its weights and answers with those of the shared one."""
    right = packing.pack
    monkeypatch.setattr("harness.engine.policy.pack", lambda *args: right(*args)._replace(mask=right(*args).mask * 0))
    with pytest.raises(UserError, match="use the naive engine for all cells"):
        kit.trainer(tmp_path / "wrong", "grpo", kit.policy(), options={"group_size": 4}).train()
    assert not (tmp_path / "wrong" / "checkpoints").exists()


# ------------------------------------------------------------------ out of memory


def cuda_error() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cpu_error() -> Exception:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you")


ERRORS = pytest.mark.parametrize("error", [cuda_error, cpu_error])


@ERRORS
def test_the_batch_size_is_halved_for_good_with_a_warning(
    error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def work(size: int) -> int:
        tried.append(size)
        if size > 3:
            raise error()
        return size

    batch = AdaptiveBatchSize("training", 13)
    assert (batch.run(work), batch.run(work)) == (3, 3)
    assert tried == [13, 6, 3, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"Out of memory in training: continuing with {less} completions at once instead of {more}; "
        "the results are the same."
        for more, less in ((13, 6), (6, 3))
    ]


@ERRORS
def test_no_memory_for_one_is_an_error_that_helps(error: Callable[[], Exception]) -> None:
    def work(size: int) -> None:
        raise error()

    with pytest.raises(UserError, match=r"out of memory in training, one completion.*gradient_checkpointing"):
        AdaptiveBatchSize("training", 4).run(work)


def test_other_errors_are_not_swallowed() -> None:
    calls = []

    def work(size: int) -> None:
        calls.append(size)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        AdaptiveBatchSize("training", 4).run(work)
    assert calls == [4]


def test_the_failed_works_tensors_are_released_before_the_next_try() -> None:
    import weakref

    held: list[weakref.ref[Tensor]] = []

    def work(size: int) -> bool:
        if size == 4:
            large = torch.zeros(10)
            held.append(weakref.ref(large))
            raise cuda_error()
        return held[0]() is None

    assert AdaptiveBatchSize("training", 4).run(work)


def scarce(policy: Policy, method: str, most: int, error: Callable[[], Exception]) -> list[int]:
    """Let ``policy.method`` run out of memory when it is given more than ``most`` rows; returns what it was given."""
    plain, given = getattr(policy, method), []

    def limited(rows: Any, *rest: Any, **named: Any) -> Any:
        given.append(len(rows))
        result = plain(rows, *rest, **named)
        if len(rows) > most:
            raise error()
        return result

    setattr(policy, method, limited)
    return given


@ERRORS
@pytest.mark.parametrize(("n", "batch"), [(1, 64), (4, 64), (4, 2)])
def test_sampling_goes_on_with_the_same_answers(n: int, batch: int, error: Callable[[], Exception]) -> None:
    prompts = [PROMPT, tiny_prompt(VIDEO_OF_12, [3, 8]), tiny_prompt(tiny_video((1, 4, 4), 1), [9])]
    draw: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 6, "seed": 3}
    expected = TransformersSampler(tiny_policy(tiny_model()), 64).sample(prompts, n, **draw)
    policy = tiny_policy(tiny_model())
    given = scarce(policy, "logits", 2, error)
    answers = TransformersSampler(policy, batch).sample(prompts, n, **draw)
    assert [[one.tokens for one in group] for group in answers] == [[one.tokens for one in group] for group in expected]
    assert max(given[-4:]) <= 2
    assert policy.model.training is False


@ERRORS
@pytest.mark.parametrize("method", ["grpo", "dpo", "sft"])
def test_training_goes_on_with_the_same_gradient(
    method: str,
    error: Callable[[], Exception],
    kit: Kit,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the update and, for methods with a reference, in its pass. SGD, so that a step is the gradient itself."""
    monkeypatch.setattr(
        "harness.train.run.build_optimizer", lambda model, _: torch.optim.SGD(model.parameters(), lr=1e-3)
    )
    steps = []
    for name in ("enough", "scarce"):
        policy = kit.policy()
        options = {"group_size": 4} if method == "grpo" else None
        settings: dict[str, Any] = {"micro_batch": 16, "budget": ("steps", 1), "learning_rate": 1.0}
        trainer = kit.trainer(tmp_path / name, method, policy, options=options, **settings)
        if name == "scarce":
            scarce(policy, "log_probs", 2, error)
            scarce(trainer.run.groups.reference, "log_probs", 2, error)
        before = weights(policy)
        trainer.train()
        steps.append({key: value - before[key] for key, value in weights(policy).items()})
    largest = max(value.abs().max() for value in steps[0].values())
    for key, value in steps[0].items():
        torch.testing.assert_close(steps[1][key], value, atol=float(1e-3 * largest), rtol=1e-3)
    assert ("Out of memory in the reference pass" in caplog.text) is (method != "sft")
    assert "Out of memory in training" in caplog.text


def test_gradients_of_a_failed_try_are_cleared(kit: Kit, tmp_path: Path) -> None:
    """Memory runs out at the third micro-batch, when two have left their gradients."""
    policy = kit.policy()
    trainer = kit.trainer(tmp_path / "a", "sft", policy, micro_batch=1, prompts_per_step=4, budget=("steps", 1))
    trainer.train()
    expected = metrics(tmp_path / "a")[0]["grad_norm"]
    policy = kit.policy()
    trainer = kit.trainer(tmp_path / "b", "sft", policy, micro_batch=2, prompts_per_step=4, budget=("steps", 1))
    calls = iter([False, True])
    plain = policy.log_probs

    def limited(*args: Any) -> Any:
        if len(args[0]) == 2 and trainer._batch.size == 2 and policy.model.training and next(calls):
            raise cuda_error()
        return plain(*args)

    policy.log_probs = limited  # type: ignore[method-assign]
    trainer.train()
    assert metrics(tmp_path / "b")[0]["grad_norm"] == pytest.approx(expected, rel=1e-4)


def test_out_of_memory_in_the_backward_pass_is_met_too(kit: Kit, tmp_path: Path) -> None:
    runs = []
    for name in ("enough", "scarce"):
        policy = kit.policy()
        trainer = kit.trainer(tmp_path / name, "sft", policy, micro_batch=4, budget=("steps", 1))
        if name == "scarce":
            _fail_first_backward(policy)
        trainer.train()
        runs.append(metrics(tmp_path / name)[0]["grad_norm"])
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)


def _fail_first_backward(policy: Policy) -> None:
    failures: Iterator[bool] = iter([True])

    def fail(gradient: Tensor) -> Tensor:
        if next(failures, False):
            raise cuda_error()
        return gradient

    parameter = next(p for n, p in policy.model.named_parameters() if p.requires_grad and "layers.0" in n)
    parameter.register_hook(fail)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_gradient_checkpointing_is_a_study_key_and_changes_no_gradient(tuning: str, kit: Kit, tmp_path: Path) -> None:
    norms = []
    for name in (False, True):
        policy = kit.policy(tuning=tuning, gradient_checkpointing=name)
        assert {layer.gradient_checkpointing for layer in policy.language_model.layers} == {name}
        kit.trainer(tmp_path / str(name), "sft", policy, budget=("steps", 1)).train()
        norms.append(metrics(tmp_path / str(name))[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_damaged_weights_are_reported_by_the_step(kit: Kit, tmp_path: Path) -> None:
    policy = kit.policy()
    with torch.no_grad():
        next(p for p in policy.model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(TrainingError, match="at step 1"):
        kit.trainer(tmp_path, "sft", policy).train()


def test_the_end_token_is_a_completion_like_any_other() -> None:
    values, mask = tiny_policy(tiny_model()).log_probs([PROMPT], [[END]])
    assert values.shape == mask.shape == (1, 1) and values.isfinite().all()
