"""A vocabulary of four tokens on which a method's loss and gradient can be worked out by hand.

The policy gives the tokens the probabilities NOW at every position, the policy that sampled gave them THEN, and the
reference gives them REF.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import Algorithm
from harness.api.types import Batch, Completion, Group, Sample, Source
from harness.train.reduction import denominator, make_batch, reduce_loss

NOW = (0.1, 0.2, 0.3, 0.4)
THEN = (0.2, 0.2, 0.2, 0.4)
REF = (0.25, 0.25, 0.25, 0.25)


def completion(tokens: Sequence[int], reward: float = 0.0, source: Source = "policy", prompt: str = "p") -> Completion:
    return Completion(
        prompt,
        tuple(tokens),
        reward=reward,
        source=source,
        behaviour=tuple(math.log(THEN[token]) for token in tokens) if source == "policy" else (),
        reference=tuple(math.log(REF[token]) for token in tokens),
    )


def step(method: Algorithm, samples: Sequence[Sample]) -> tuple[float, Tensor, dict[str, float]]:
    """The reduced loss, its gradient at the four logits, and what was logged."""
    logits = torch.tensor([math.log(p) for p in NOW], dtype=torch.float64, requires_grad=True)
    batch = batch_of(method, samples, logits)
    unreduced, logged = method.loss(batch)
    loss = reduce_loss(unreduced, batch, method.needs, denominator(samples, method.needs))
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad, logged


def batch_of(method: Algorithm, samples: Sequence[Sample], logits: Tensor) -> Batch:
    lengths = [len(sample.completion.tokens) for sample in samples]
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).double()
    ids = torch.zeros(mask.shape, dtype=torch.long)
    for row, sample in zip(ids, samples, strict=True):
        row[: len(sample.completion.tokens)] = torch.tensor(sample.completion.tokens)
    return make_batch(samples, logits.log_softmax(-1)[ids] * mask, mask, method.needs)


def at_logits(coefficients: Sequence[tuple[int, float]]) -> list[float]:
    """The gradient at the logits of ``sum of c * log NOW[token]``: each term gives c * (one-hot - NOW)."""
    return [sum(c * ((place == token) - NOW[place]) for token, c in coefficients) for place in range(4)]


def close(actual: Any, expected: Any) -> None:
    assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


def group(
    rewards: Sequence[float], tokens: Sequence[Sequence[int]], prompt: str = "p", source: Source = "policy"
) -> Group:
    return Group(prompt, tuple(completion(t, r, source, prompt) for t, r in zip(tokens, rewards, strict=True)))


def k3(token: int) -> float:
    ratio = REF[token] / NOW[token]
    return ratio - math.log(ratio) - 1


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
