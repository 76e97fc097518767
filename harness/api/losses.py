"""Helpers for ``Algorithm.loss``: tensors in, unreduced tensors out."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.api.types import Batch


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7, negated).

    Args:
        log_ratio: Log of the policy's probability over that at sampling, by token (n, L) or completion (n,).
        advantage: Broadcast against ``log_ratio``.
        low: The ratio ``q`` is clipped below at ``1 - low``.
        high: The ratio ``q`` is clipped above at ``1 + high``.

    Returns:
        ``-min(q A, clip(q, 1 - low, 1 + high) A)``, and 1.0 where clipping stops the gradient, else 0.0.
    """
    ratio = log_ratio.exp()
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    stopped = ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))
    return loss, stopped.to(loss.dtype)


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimate of KL(policy || reference) per token: ``exp(d) - d - 1`` with ``d = reference - policy``."""
    difference = reference - policy
    return difference.exp() - difference - 1


def token_mean(batch: Batch, values: Tensor) -> Tensor:
    """(n,) means of (n, L) values over each completion's tokens."""
    return batch.seq(values) / batch.lengths


def pair_gaps(batch: Batch, scores: Tensor) -> Tensor:
    """(pairs,) differences of chosen and rejected scores, in ascending order of unit.

    Args:
        batch: With weight +1 on chosen and -1 on rejected completions; each pair is a unit.
        scores: (n,), one per completion.
    """
    pairs, place = torch.unique(batch.unit, return_inverse=True)
    return scores.new_zeros(len(pairs)).index_add(0, place, batch.weight * scores)
