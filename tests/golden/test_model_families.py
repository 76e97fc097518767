"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL through one engine: what a family adds is there, what it needs is asked for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from engine_kit import (
    FAMILIES,
    START,
    STOP,
    VIDEO,
    stock_log_probs,
    stock_logits,
    tiny_config,
    tiny_model,
    tiny_policy,
    tiny_prompt,
    tiny_video,
)
from transformers import AutoModelForImageTextToText

from harness.data.encode import EncodedPrompt
from harness.engine.model_runner import Engine
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.errors import UserError

COMPLETIONS = [[4, 5, 6, 1], [7], [8, 9, 1]]


def prompts(family: str) -> list[EncodedPrompt]:
    first, second = tiny_video((3, 4, 6)), tiny_video((2, 6, 4), 1)
    return [
        tiny_prompt(first, [3, 4, 5], family),
        tiny_prompt(second, [11], family),
        tiny_prompt(first, [3, 8, 9], family),
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ["shared", "naive"])
def test_log_probs_equal_the_stock_forward(family: str, engine: Engine) -> None:
    policy = tiny_policy(tiny_model(family), engine)
    with torch.no_grad():
        values, _ = policy.log_probs(prompts(family), COMPLETIONS)
        for row, prompt, tokens in zip(values, prompts(family), COMPLETIONS, strict=True):
            expected = stock_log_probs(policy.model, prompt, tokens)
            torch.testing.assert_close(row[: len(tokens)], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ["shared", "naive"])
def test_greedy_answers_are_those_of_the_stock_forward(family: str, engine: Engine) -> None:
    policy = tiny_policy(tiny_model(family), engine)
    answers = TransformersSampler(policy, 8).sample(prompts(family), 1, temperature=0.0, max_new_tokens=5, seed=0)
    for prompt, (answer,) in zip(prompts(family), answers, strict=True):
        with torch.no_grad():
            logits = stock_logits(policy.model, prompt, answer.tokens)
        logits[:, list(policy.banned_tokens)] = -torch.inf
        assert tuple(logits.argmax(-1).tolist()) == answer.tokens


def value_of(policy: Policy, prompt: EncodedPrompt) -> torch.Tensor:
    with torch.no_grad():
        return policy.log_probs([prompt] * 2, COMPLETIONS[:2])[0]


def test_qwen3s_deepstack_features_reach_the_language_model() -> None:
    policy = tiny_policy(tiny_model("qwen3_vl"))
    policy.base.model.visual.requires_grad_(False)  # so that features are kept, and can be tampered with
    prompt = prompts("qwen3_vl")[0]
    features = policy.video.of([prompt])[prompt.video.digest]
    assert features.shape == (3, 3 * 4 * 6 // 4, 32)  # the tokens' own, and two levels
    before = value_of(policy, prompt)
    features[1:] = 0
    assert (value_of(policy, prompt) - before).abs().max() > 1e-2


def test_qwen25s_positions_follow_the_seconds() -> None:
    policy = tiny_policy(tiny_model("qwen2_5_vl"))
    prompt, found = prompts("qwen2_5_vl")[0], []
    for seconds in (1.0, 3.0):
        video = dataclasses.replace(prompt.video, seconds_per_patch=seconds)
        timed = dataclasses.replace(prompt, id=str(seconds), video=video)
        state = policy.prompt_states([timed])[timed.id]
        found.append((state.positions[0, 4:22:6].tolist(), value_of(policy, timed)))
    assert [positions for positions, _ in found] == [[4, 6, 8], [4, 10, 16]]  # 2 tokens a second
    assert (found[0][1] - found[1][1]).abs().max() > 1e-3


def test_qwen25s_tower_has_windows() -> None:
    """Without windows the features differ, so their equality above is one of the windowed tower."""
    config = tiny_config("qwen2_5_vl")
    config.vision_config.fullatt_block_indexes = [0, 1]
    torch.manual_seed(0)
    windowed = tiny_model("qwen2_5_vl")
    full = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    full.load_state_dict(windowed.state_dict())
    one, other = (tiny_policy(model).video.of(prompts("qwen2_5_vl")[:1]) for model in (windowed, full))
    assert all((one[key] - other[key]).abs().max() > 1e-3 for key in one)


def test_qwen3_without_time_stamps_is_refused() -> None:
    plain = tiny_prompt(tiny_video((3, 4, 6)), [3, 4, 5])
    with pytest.raises(UserError, match=r"record 3-4-5: Qwen3-VL expects every temporal patch"):
        tiny_policy(tiny_model("qwen3_vl")).log_probs([plain], [[4]])
    ids = torch.tensor([START, *[VIDEO] * 6, STOP, 3])
    one = dataclasses.replace(
        plain, video=tiny_video((1, 4, 6)), input_ids=ids, mm_token_type_ids=(ids == VIDEO).long() * 2
    )
    tiny_policy(tiny_model("qwen3_vl")).log_probs([one], [[4]])  # one patch is one block
