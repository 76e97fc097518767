"""Decoding with CUDA graphs: the same completions; graphs are kept by shape, dropped when weights move, bounded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_kit import END, tiny_model, tiny_policy, tiny_prompt, tiny_tokenizer, tiny_video
from torch import Tensor

from harness.engine import cuda_graphs as graphs_module
from harness.engine.cuda_graphs import BFloat16Weights, DecodingGraphs
from harness.engine.policy import Policy
from harness.engine.sampler import Sampled, TransformersSampler

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def prompts() -> list[Any]:
    """Three prompts on two videos; two share a prefix."""
    first, second = tiny_video((2, 4, 6)), tiny_video((1, 4, 4), 1)
    return [tiny_prompt(first, [3, 4, 5]), tiny_prompt(second, [3, 11]), tiny_prompt(first, [3, 4, 9, 10, 11])]


def draw(sampler: TransformersSampler, some: list[Any], n: int = 4, steps: int = 12, seed: int = 0) -> list[Any]:
    return sampler.sample(some, n, temperature=1.0, max_new_tokens=steps, seed=seed)


def assert_same(ours: list[list[Sampled]], theirs: list[list[Sampled]]) -> None:
    assert [[a.tokens for a in group] for group in ours] == [[a.tokens for a in group] for group in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(torch.tensor(a.log_probs), torch.tensor(b.log_probs), atol=1e-5, rtol=1e-5)


class Recorder:
    """Stands in for CUDA's capture: what was recorded runs again, into the same place."""

    def __init__(self) -> None:
        self.captured = 0
        self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.captured += 1
        place = run()

        def replay() -> None:
            self.replayed += 1
            place.copy_(run())

        return replay, place


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(graphs_module, "capture", made)
    monkeypatch.setattr(DecodingGraphs, "for_device", staticmethod(lambda device: DecodingGraphs()))
    return made


def test_a_captured_step_answers_as_the_plain_one(recorder: Recorder) -> None:
    plain = TransformersSampler(tiny_policy(tiny_model(), "naive"), 64)
    sampler = TransformersSampler(tiny_policy(tiny_model()), 64)
    for seed in range(3):
        assert_same(draw(sampler, prompts(), seed=seed), draw(plain, prompts(), seed=seed))
    assert recorder.captured == 1, "the same shapes are captured once"
    assert recorder.replayed > 20


def test_prompts_of_other_lengths_meet_the_same_graph(recorder: Recorder) -> None:
    sampler, plain = (TransformersSampler(tiny_policy(tiny_model(), engine), 64) for engine in ("shared", "naive"))
    for words in ([3, 4], [3, 4, 5, 6, 7, 8]):
        some = [tiny_prompt(tiny_video((2, 4, 6)), words)]
        assert_same(draw(sampler, some), draw(plain, some))
    assert recorder.captured == 1


def test_graphs_follow_the_weights_and_are_bounded(recorder: Recorder) -> None:
    policy = tiny_policy(tiny_model())
    sampler, some = TransformersSampler(policy, 64), prompts()
    draw(sampler, some)
    with torch.no_grad():
        for parameter in policy.language_model.parameters():
            parameter.mul_(1.1)  # an optimiser's step changes weights where they are
    assert_same(draw(sampler, some), draw(TransformersSampler(tiny_policy(policy.model, "naive"), 64), some))
    assert recorder.captured == 1
    for n in (2, 3, 5):
        draw(sampler, some, n=n)
    assert recorder.captured == 4
    assert len(sampler._graphs._graphs) == graphs_module.MAX_GRAPHS  # type: ignore[union-attr]
    for parameter in policy.language_model.parameters():
        parameter.data = parameter.data.clone()  # moved: a graph would read freed memory
    draw(sampler, some, n=5)
    assert recorder.captured == 5
    assert len(sampler._graphs._graphs) == 1  # type: ignore[union-attr]


def test_every_row_goes_on_and_the_end_is_looked_for_less_often(recorder: Recorder) -> None:
    policy = tiny_policy(tiny_model())
    plain = policy.logits

    def ending(hidden: Tensor) -> Tensor:
        values = plain(hidden)
        values[..., END] += 1e4
        return values

    policy.logits = ending  # type: ignore[method-assign]
    answers = draw(TransformersSampler(policy, 64), prompts(), steps=64)
    assert all(one.tokens == (END,) and not one.truncated for group in answers for one in group)
    assert recorder.replayed == 7, "the first look comes after the eighth token"


def test_capturing_that_fails_is_said_and_decoding_goes_on(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(run: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs_module, "capture", fail)
    sampler = TransformersSampler(tiny_policy(tiny_model()), 64)
    with caplog.at_level(logging.WARNING):
        answers = [draw(sampler, prompts(), seed=seed) for seed in range(2)]
    expected = TransformersSampler(tiny_policy(tiny_model(), "naive"), 64)
    for seed, answer in enumerate(answers):
        assert_same(answer, draw(expected, prompts(), seed=seed))
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == 1
    assert "not permitted when stream is capturing" in caplog.text


def test_bf16_copies_compute_what_autocast_computes() -> None:
    policy = tiny_policy(tiny_model(), precision="bf16")
    prompt = tiny_prompt(tiny_video((2, 4, 6)), [3, 4, 5])
    with torch.no_grad():
        expected, _ = policy.log_probs([prompt], [[4, 5, 6]])
        weights = BFloat16Weights(policy)
        with weights.in_place():
            assert policy.base.lm_head.weight.dtype == torch.bfloat16
            assert policy.log_probs([prompt], [[4, 5, 6]])[0].equal(expected)
        assert policy.base.lm_head.weight.dtype == torch.float32
        policy.base.lm_head.weight.mul_(1.5)
        weights.refresh()
        expected, _ = policy.log_probs([prompt], [[4, 5, 6]])
        with weights.in_place():
            assert policy.log_probs([prompt], [[4, 5, 6]])[0].equal(expected)


@gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_graphs_answer_as_plain_decoding(precision: str) -> None:
    """Real captures, also after the weights have changed in place."""
    device = torch.device("cuda")
    policy = Policy(tiny_model().to(device), tiny_tokenizer(), device, precision)
    sampler, plain = TransformersSampler(policy, 64), TransformersSampler(policy, 64)
    plain._graphs = None
    for seed in range(2):
        ours, theirs = draw(sampler, prompts(), seed=seed), draw(plain, prompts(), seed=seed)
        if precision == "fp32":
            assert_same(ours, theirs)
        pairs = [(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
        first = torch.tensor([(a.log_probs[0], b.log_probs[0]) for a, b in pairs])
        torch.testing.assert_close(first[:, 0], first[:, 1], atol=0.05, rtol=0.05)
        with torch.no_grad():
            for parameter in policy.language_model.parameters():
                parameter.mul_(1.05)
    assert sampler._graphs
    assert len(sampler._graphs._graphs) == 1
