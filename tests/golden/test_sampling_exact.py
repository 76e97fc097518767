"""Sampling: the shared engine draws what the naive one draws, alone or in a batch, whoever has finished."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_kit import END, FAMILIES, VIDEO, tiny_model, tiny_policy, tiny_prompt, tiny_video

from harness.engine import sampler as sampler_module
from harness.engine.model_runner import Engine
from harness.engine.policy import Policy
from harness.engine.sampler import Sampled, TransformersSampler


def prompts(family: str) -> list[Any]:
    """Different lengths and grids; three questions on one video, apart from each other."""
    first, second = tiny_video((2, 4, 6)), tiny_video((1, 4, 4), 1)
    return [
        tiny_prompt(first, [3, 4, 5], family),
        tiny_prompt(second, [3, 11], family),
        tiny_prompt(first, [3, 4, 9, 10, 11, 12], family),
        tiny_prompt(second, [8, 9, 2, 2, 13, 14, 15, 16], family),
        tiny_prompt(first, [19], family),
    ]


def policy_of(family: str, engine: Engine = "shared", end: float = 2.0) -> Policy:
    """The end token is likely enough for answers to end at different times."""
    policy = tiny_policy(tiny_model(family), engine)
    plain = policy.logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        values = plain(hidden)
        values[..., END] += end
        return values

    policy.logits = logits  # type: ignore[method-assign]
    return policy


def draw(
    policy: Policy, family: str, n: int, temperature: float, seed: int = 0, batch: int = 64
) -> list[list[Sampled]]:
    sampler = TransformersSampler(policy, batch)
    return sampler.sample(prompts(family), n, temperature=temperature, max_new_tokens=12, seed=seed)


def assert_same(ours: list[list[Sampled]], theirs: list[list[Sampled]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a.tokens, a.text, a.truncated) == (b.tokens, b.text, b.truncated)
            torch.testing.assert_close(torch.tensor(a.log_probs), torch.tensor(b.log_probs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("n", "temperature"), [(1, 0.0), (1, 1.0), (4, 1.0), (3, 0.7)])
def test_tokens_and_log_probs_equal_naive(family: str, n: int, temperature: float) -> None:
    ours = draw(policy_of(family), family, n, temperature)
    assert_same(ours, draw(policy_of(family, "naive"), family, n, temperature))
    assert len({len(one.tokens) for group in ours for one in group}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_those_of_the_training_pass(family: str) -> None:
    policy = tiny_policy(tiny_model(family))
    for prompt, group in zip(prompts(family), draw(policy, family, 3, 0.8), strict=True):
        with torch.no_grad():
            values, _ = policy.log_probs([prompt] * 3, [one.tokens for one in group], 0.8)
        for row, one in zip(values, group, strict=True):
            torch.testing.assert_close(row[: len(one.tokens)], torch.tensor(one.log_probs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("engine", ["shared", "naive"])
@pytest.mark.parametrize("n", [1, 3])
def test_an_answer_does_not_depend_on_its_neighbours(engine: Engine, n: int) -> None:
    together = draw(policy_of("qwen2_vl", engine), "qwen2_vl", n, 1.0)
    assert_same(together, draw(policy_of("qwen2_vl", engine), "qwen2_vl", n, 1.0, batch=1))
    assert_same(together, draw(policy_of("qwen2_vl", engine), "qwen2_vl", n, 1.0, batch=2 * n))


@pytest.mark.parametrize("engine", ["shared", "naive"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_finished_rows_leave_without_a_trace(engine: Engine, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never, when half have finished, or one by one; one by one, only unfinished rows are decoded."""
    monkeypatch.setattr(sampler_module, "KEEP_BELOW", 0.0)
    expected = draw(policy_of("qwen2_vl", engine), "qwen2_vl", 4, 1.0)
    monkeypatch.setattr(sampler_module, "KEEP_BELOW", share)
    policy, sizes = policy_of("qwen2_vl", engine), []
    plain = policy.embed

    def embed(ids: torch.Tensor) -> torch.Tensor:
        if ids.ndim == 2:
            sizes.append(len(ids))
        return plain(ids)

    policy.embed = embed  # type: ignore[method-assign]
    assert_same(draw(policy, "qwen2_vl", 4, 1.0), expected)
    lengths = [len(one.tokens) for group in expected for one in group]
    if share == 1.0:
        assert sizes == [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    if share == 0.0:
        assert set(sizes) == {len(lengths)}


@pytest.mark.parametrize("engine", ["shared", "naive"])
def test_decoding_stops_when_every_row_has_ended(engine: Engine) -> None:
    policy = policy_of("qwen2_vl", engine, end=1e4)
    answers = draw(policy, "qwen2_vl", 2, 1.0)
    assert all(one.tokens == (END,) and not one.truncated and one.text == "" for group in answers for one in group)
    assert policy.forward_passes == 1


@pytest.mark.parametrize("engine", ["shared", "naive"])
def test_an_answer_at_the_token_limit_is_truncated(engine: Engine) -> None:
    policy = policy_of("qwen2_vl", engine, end=-1e4)
    answers = draw(policy, "qwen2_vl", 2, 1.0)
    assert all(len(one.tokens) == 12 and one.truncated for group in answers for one in group)
    assert all(VIDEO not in one.tokens for group in answers for one in group)


def test_each_video_and_each_shared_prefix_is_run_once() -> None:
    """Five questions on two videos: two tower passes, one prefill, one row a video in it."""
    policy, shapes = policy_of("qwen2_vl"), []
    plain = policy.forward

    def forward(embeddings: torch.Tensor, *rest: Any, **inputs: Any) -> torch.Tensor:
        shapes.append(embeddings.shape)
        return plain(embeddings, *rest, **inputs)

    policy.forward = forward  # type: ignore[method-assign]
    draw(policy, "qwen2_vl", 1, 0.0)
    assert policy.video.passes == 2
    system, tokens, words = 3, 2 * 4 * 6 // 4, 3 + 6 + 1
    assert shapes[0][:2] == (2, system + tokens + 2 + words)
    assert all(shape[1] == 1 for shape in shapes[1:])
