"""The shared engine's loss and gradients equal the naive engine's, and those of a plain transformers forward.

In float64 the bound is 1e-9 relative: a token that saw what it should not, or missed what it should, is far above it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_kit import (
    FAMILIES,
    compute_in_float64,
    stock_log_probs,
    tiny_model,
    tiny_policy,
    tiny_prompt,
    tiny_video,
)
from torch import Tensor

from algorithms.grpo import GRPO, GRPOConfig
from harness.api.types import Completion, Needs, Sample
from harness.engine import model_runner
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.models.loading import recompute_activations
from harness.train.reduction import denominator, make_batch, micro_batches, reduce_loss

RAGGED = ([4, 5, 6, 1], [7], [8, 9, 1], [4, 5, 30, 31, 32, 33, 1])
SHAPES: dict[str, list[tuple[int, tuple[list[int], ...]]]] = {
    "two grids, ragged": [(0, RAGGED), (1, ([13, 14], [1], [13, 15, 16]))],
    "two questions on one video": [(0, RAGGED[:3]), (2, ([13, 14], [20, 21, 1])), (1, ([1],))],
    "one completion each": [(0, ([4, 5, 1],)), (1, ([7],)), (2, ([8, 9, 10, 1],))],
    "one completion of one token": [(0, ([4],))],
    "all completions identical": [(0, ([4, 5, 1],) * 4)],
}


def prompts(dtype: torch.dtype, family: str = "qwen2_vl") -> list[Any]:
    """Two videos of different grids; the first has two questions that begin alike."""
    first, second = tiny_video((2, 4, 6), dtype=dtype), tiny_video((1, 4, 4), 1, dtype)
    return [
        tiny_prompt(first, [3, 4, 5], family),
        tiny_prompt(second, [3, 11], family),
        tiny_prompt(first, [3, 8, 9, 10, 11], family),
    ]


def samples_of(shape: str, dtype: torch.dtype, family: str) -> tuple[list[Sample], dict[str, Any]]:
    """Weighted samples with reference and behaviour log-probabilities far enough away for the clip to act."""
    known = prompts(dtype, family)
    generator = torch.Generator().manual_seed(1)
    reference, samples = tiny_model(family, dtype, seed=5), []
    with torch.no_grad():
        for index, completions in SHAPES[shape]:
            for tokens in completions:
                values = stock_log_probs(reference, known[index], tokens)
                behaviour = values + 0.3 * torch.randn(len(tokens), generator=generator)
                one = Completion(
                    known[index].id,
                    tuple(tokens),
                    reference=tuple(values.tolist()),
                    behaviour=tuple(behaviour.tolist()),
                )
                weight = torch.randn(1, generator=generator).item()
                samples.append(Sample(one, weight, unit=len(samples)))
    return samples, {prompt.id: prompt for prompt in known}


def step(
    log_probs: Callable[[list[Any], list[Any]], tuple[Tensor, Tensor]],
    network: torch.nn.Module,
    samples: list[Sample],
    known: dict[str, Any],
    beta: float,
    size: int,
) -> tuple[float, dict[str, Tensor]]:
    """One step's loss and gradients, as the trainer computes them."""
    method = GRPO(GRPOConfig(beta=beta))
    network.zero_grad()
    total, value = denominator(samples, method.needs), 0.0
    for part in micro_batches(samples, size):
        values, mask = log_probs(
            [known[one.completion.prompt_id] for one in part], [one.completion.tokens for one in part]
        )
        batch = make_batch(part, values, mask, method.needs)
        loss = reduce_loss(method.loss(batch)[0], batch, method.needs, total)
        loss.backward()
        value += loss.item()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return value, gradients


def differences(ours: tuple[float, dict[str, Tensor]], theirs: tuple[float, dict[str, Tensor]]) -> tuple[float, float]:
    """Relative difference of the loss, and the largest of a parameter's gradient (by norm).

    A gradient that is zero but for rounding (a key's bias, to which softmax is blind) is held against the others.
    """
    assert ours[1].keys() == theirs[1].keys() and ours[1]
    scale = max(gradient.norm() for gradient in theirs[1].values())
    worst = max(
        float((ours[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-3 * scale))
        for name, gradient in theirs[1].items()
    )
    return abs(ours[0] - theirs[0]) / abs(theirs[0]), worst


def with_lora(model: torch.nn.Module) -> Any:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj|up_proj)"))
    torch.manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return wrapped


def network_of(family: str, dtype: torch.dtype, *, tower: bool, lora: bool) -> torch.nn.Module:
    model = tiny_model(family, dtype)
    model.model.visual.requires_grad_(tower)
    if lora:
        model = with_lora(model).to(dtype)
        model.get_base_model().model.visual.requires_grad_(tower)
    return model.train()


def compare(
    network: torch.nn.Module, shape: str, dtype: torch.dtype, family: str, beta: float, size: int
) -> tuple[float, float]:
    """Differences between the shared engine with micro-batches and the naive one in one batch."""
    samples, known = samples_of(shape, dtype, family)
    naive = step(tiny_policy(network, "naive").log_probs, network, samples, known, beta, 64)
    shared = tiny_policy(network)
    assert shared.engine == "shared"
    return differences(step(shared.log_probs, network, samples, known, beta, size), naive)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_in_float64(monkeypatch)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("tower", [True, False], ids=["tower", "frozen"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_float64_loss_and_gradients_equal_naive(shape: str, beta: float, tower: bool, lora: bool) -> None:
    network = network_of("qwen2_vl", torch.float64, tower=tower, lora=lora)
    loss, gradient = compare(network, shape, torch.float64, "qwen2_vl", beta, 64)
    assert loss < 1e-9 and gradient < 1e-9


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 3])
def test_float64_micro_batches_leave_the_gradient_alone(family: str, size: int) -> None:
    network = network_of(family, torch.float64, tower=True, lora=False)
    loss, gradient = compare(network, "two questions on one video", torch.float64, family, 0.04, size)
    assert loss < 1e-9 and gradient < 1e-9


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tower", [True, False], ids=["tower", "frozen"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_float64_gradient_checkpointing_leaves_the_gradient_alone(
    family: str, tower: bool, lora: bool, reentrant: bool
) -> None:
    network = network_of(family, torch.float64, tower=tower, lora=lora)
    samples, known = samples_of("two grids, ragged", torch.float64, family)
    naive = step(tiny_policy(network, "naive").log_probs, network, samples, known, 0.04, 64)
    shared = tiny_policy(network)
    recompute_activations(shared.base, reentrant)
    assert all(layer.gradient_checkpointing for layer in shared.language_model.layers)
    loss, gradient = differences(step(shared.log_probs, network, samples, known, 0.04, 64), naive)
    assert loss < 1e-9 and gradient < 1e-9


KEPT = {"together": [[0, 1, 2]], "one by one": [[0], [1], [2]], "a part": [[0, 2]]}
"""Which prompts are sampled together; the prefill of a prompt that is not sampled is not kept either."""


def step_on_kept_prefills(
    network: torch.nn.Module, samples: list[Sample], known: dict[str, Any], beta: float, size: int, sampled: str
) -> tuple[float, dict[str, Tensor]]:
    """Sample some of the prompts, then take the step that :func:`step` takes."""
    policy = tiny_policy(network)
    drawn = list(known.values())
    with policy.activation_reuse(Needs(rollouts=2), 1) as reuse:
        assert reuse
        for some in KEPT[sampled]:
            group = [drawn[index] for index in some]
            TransformersSampler(policy, 64).sample(group, 2, temperature=1.0, max_new_tokens=3, seed=0)
        with policy.gradient_of_a_step():
            loss, _ = step(policy.log_probs, network, samples, known, beta, size)
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return loss, gradients


@pytest.mark.usefixtures("float64", "recompute")
@pytest.mark.parametrize("shape", ["two grids, ragged", "two questions on one video"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("size", [64, 3, 1])
def test_float64_the_pass_that_sampled_gives_the_naive_gradient(shape: str, beta: float, lora: bool, size: int) -> None:
    network = network_of("qwen2_vl", torch.float64, tower=False, lora=lora)
    samples, known = samples_of(shape, torch.float64, "qwen2_vl")
    naive = step(tiny_policy(network, "naive").log_probs, network, samples, known, beta, 64)
    for sampled in KEPT:
        ours = step_on_kept_prefills(network, samples, known, beta, size, sampled)
        loss, gradient = differences(ours, naive)
        assert loss < 1e-9 and gradient < 1e-9, sampled


@pytest.mark.usefixtures("float64", "recompute")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampled", KEPT)
def test_float64_kept_passes_of_every_family(family: str, sampled: str) -> None:
    network = network_of(family, torch.float64, tower=False, lora=False)
    samples, known = samples_of("two grids, ragged", torch.float64, family)
    naive = step(tiny_policy(network, "naive").log_probs, network, samples, known, 0.04, 64)
    ours = step_on_kept_prefills(network, samples, known, 0.04, 3, sampled)
    assert max(differences(ours, naive)) < 1e-9


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("family", FAMILIES)
def test_float64_loss_and_gradients_equal_the_stock_forward(family: str) -> None:
    """The oracle runs pixels, ids and completions of one row at a time through transformers alone."""
    network = network_of(family, torch.float64, tower=True, lora=False)
    samples, known = samples_of("two questions on one video", torch.float64, family)

    def stock(rows: list[Any], completions: list[Any]) -> tuple[Tensor, Tensor]:
        values = [stock_log_probs(network, row, list(tokens)) for row, tokens in zip(rows, completions, strict=True)]
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(value) for value in values], batch_first=True)
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True), mask

    theirs = step(stock, network, samples, known, 0.04, 64)
    ours = step(tiny_policy(network).log_probs, network, samples, known, 0.04, 64)
    loss, gradient = differences(ours, theirs)
    assert loss < 1e-9 and gradient < 1e-9


@pytest.mark.usefixtures("float64")
def test_float64_chunks_of_the_vocabulary_leave_the_gradient_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("qwen2_vl", torch.float64, tower=False, lora=False)
    monkeypatch.setattr(model_runner, "MAX_LOGITS", 64 * 3)
    loss, gradient = compare(network, "two grids, ragged", torch.float64, "qwen2_vl", 0.04, 64)
    assert loss < 1e-9 and gradient < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_loss_and_gradients_equal_naive(family: str, shape: str) -> None:
    network = network_of(family, torch.float32, tower=True, lora=False)
    loss, gradient = compare(network, shape, torch.float32, family, 0.04, 3)
    assert loss < 1e-5 and gradient < 1e-5


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_bf16_noise_is_that_of_naive_bf16(lora: bool) -> None:
    """Both engines in bf16 against naive in fp32, by the gradient as a whole: one is as far off as the other."""
    network = network_of("qwen2_vl", torch.float32, tower=True, lora=lora)
    samples, known = samples_of("two grids, ragged", torch.float32, "qwen2_vl")

    def whole(policy: Policy) -> tuple[float, Tensor]:
        value, gradients = step(policy.log_probs, network, samples, known, 0.04, 64)
        return value, torch.cat([gradient.flatten() for gradient in gradients.values()])

    exact = whole(tiny_policy(network, "naive"))
    naive = whole(tiny_policy(network, "naive", "bf16"))
    shared = whole(tiny_policy(network, "shared", "bf16"))
    noise = [float((one[1] - exact[1]).norm() / exact[1].norm()) for one in (naive, shared)]
    assert noise[1] < 1.5 * noise[0] < 0.3
    assert abs(shared[0] - exact[0]) < 3 * abs(naive[0] - exact[0]) + 0.01 * abs(exact[0])


def test_a_copied_reference_answers_with_the_same_engine() -> None:
    network = network_of("qwen2_vl", torch.float32, tower=False, lora=False)
    policy = tiny_policy(network)
    frozen = policy.reference()
    known = prompts(torch.float32)
    with torch.no_grad():
        before, _ = policy.log_probs(known[:1] * 2, [[4, 5], [6]])
        for parameter in network.parameters():
            parameter.mul_(1.1)
        kept, _ = frozen.log_probs(known[:1] * 2, [[4, 5], [6]])
    assert frozen.engine == "shared"
    torch.testing.assert_close(kept, before)
    assert copy.deepcopy(frozen.base.config.text_config)._attn_implementation == "harness_shared_prefix"
