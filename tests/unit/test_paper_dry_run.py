"""A step of each of the paper's methods on Qwen2-VL-2B's true configuration, in tensors with shapes and no content."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from harness.api import Completion, Group, Sample
from harness.config.study import load_study
from harness.engine.policy import Policy
from harness.memory import estimate as memory
from harness.memory import trace
from harness.memory.estimate import MemoryLimit, account_for
from harness.models.loading import model_sizes, with_lora
from harness.train.optimizer import build_optimizer
from harness.train.reduction import denominator, make_batch, micro_batches, reduce_loss

pytestmark = pytest.mark.slow

STUDY = load_study("paper-2b")
PROMPT = 8 * 9 * 13 + memory.TEXT_TOKENS
"""16 frames of 480 x 640 pixels, at most 128 x 28 x 28, are 8 times 9 x 13 tokens."""
ADAPTERS = 28 * 16 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
"""Rank 16 on the seven linear layers of each of 28 layers."""


def samples_of(method: str) -> list[Sample]:
    """What the method trains on in a step of eight questions; sampled answers are at the limit, written have 16."""
    algorithm, own, step = STUDY.algorithm(method), STUDY.for_method(method), STUDY.for_method(method).train

    def answer(prompt: int, number: int, length: int, source: Any) -> Completion:
        known = (-1.0,) * length
        return Completion(f"p{prompt}", (5,) * length, str(number), float(number), {}, source, known, known)

    needs = algorithm.needs
    groups = []
    for prompt in range(step.prompts_per_step):
        source = "base" if needs.offline else "policy"
        made = [answer(prompt, n, own.rollout.max_new_tokens, source) for n in range(needs.rollouts)]
        made += [answer(prompt, 1, memory.WRITTEN_TOKENS, "gold")] if needs.gold else []
        made += [answer(prompt, 0, memory.WRITTEN_TOKENS, "corrupted") for _ in range(needs.corrupted)]
        groups.append(Group(f"p{prompt}", tuple(made)))
    return list(algorithm.experience(groups))


@pytest.mark.parametrize(
    ("method", "samples", "micro_batch", "length"),
    [("sft", 8, 4, 16), ("dpo", 16, 4, 64), ("grpo", 8 * 14, 14, 64)],
)
def test_a_whole_step_at_true_size(
    method: str, samples: int, micro_batch: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTensor, "item", lambda self: 0.0)  # what is logged has no content either
    algorithm, settings = STUDY.algorithm(method), STUDY.for_method(method).train
    made = samples_of(method)
    part = micro_batches(made, settings.micro_batch)[0]
    assert (len(made), len(part)) == (samples, micro_batch)
    config, prompts = model_sizes("2b"), len({one.completion.prompt_id for one in part})
    load = trace.Load(PROMPT, 4 * (PROMPT - memory.TEXT_TOKENS), len(part) // prompts, length, len(part), prompts)
    rows = trace._rows(config, load, torch.bfloat16, with_completions=True)
    model = trace.on_meta(config, torch.bfloat16)
    model.model.visual.requires_grad_(False)
    with torch.device("meta"):
        model = with_lora(model, STUDY.model)
    with contextlib.ExitStack() as stack:
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        trace._without_content(model, gradients=True)
        model.train()
        policy = Policy(model, None, torch.device("cpu"), "bf16", engine="shared")
        given = {name: mode.from_tensor(one) for name, one in rows._asdict().items() if isinstance(one, torch.Tensor)}
        fake = rows._replace(vision={}, **given)  # type: ignore[arg-type]
        live = stack.enter_context(trace.LiveBytes())
        hidden = policy.forward(fake.embeddings, fake.positions, fake.mask, **fake.options)
        assert hidden.shape == (prompts, rows.embeddings.shape[1], 1536)
        chosen = policy.token_log_probs(hidden[:, fake.prefix_length :].flatten(0, 1)[fake.source], fake.labels, 1.0)
        values = chosen.new_zeros(len(part) * length).index_put((fake.target,), chosen).view(len(part), length)
    with live:  # numbers that are known stand in real tensors from here on
        batch = make_batch(part, values, torch.ones(len(part), length), algorithm.needs)
        unreduced, _ = algorithm.loss(batch)
        loss = reduce_loss(unreduced, batch, algorithm.needs, denominator(made, algorithm.needs))
        loss.backward()
    assert loss.shape == () and isinstance(loss, FakeTensor)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum(weight.numel() for weight in trained.values()) == ADAPTERS
    assert all("lora_" in name and weight.grad.shape == weight.shape for name, weight in trained.items())
    optimizer = build_optimizer(model, settings)
    optimizer.step()
    moments = [one for state in optimizer.state.values() for one in state.values() if one.ndim]
    assert sum(one.nbytes for one in moments) == 8 * ADAPTERS
    monkeypatch.setattr(memory, "choose_precision", lambda section, device: "bf16")
    account = account_for(STUDY, method, MemoryLimit("a card", 80e9, 1, True))
    estimate = next(one.bytes for one in account.parts if one.name == "activations")
    taken = live.peak + sum(one.nbytes for one in given.values()) + rows.embeddings.nbytes
    assert taken == pytest.approx(estimate, rel=0.05), "28 layers against what two and three layers foretell"
