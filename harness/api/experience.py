"""Helpers for ``Algorithm.experience``: plain Python on scored completions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.api.types import Completion, Sample
from harness.errors import UserError


def finite_rewards(completions: Sequence[Completion]) -> list[float]:
    """The completions' rewards.

    Raises:
        UserError: A reward is NaN or infinite, and so can be neither ranked nor normalised.
    """
    for one in completions:
        if not math.isfinite(one.reward):
            raise UserError(
                f"prompt {one.prompt_id}: a {one.source} completion has the reward {one.reward} "
                f"(parts {dict(one.parts)}); fix that reward, or if there is none, name one in [reward] of the study"
            )
    return [one.reward for one in completions]


def advantage_samples(
    scored: Sequence[tuple[Completion, float]], *, by_token: bool = False, keep_zero: bool = False
) -> list[Sample]:
    """Samples weighted by advantages, each its own unit, so that a large group can be split into micro-batches.

    A completion of advantage 0 has no policy gradient, so it is dropped before the forward pass; the other weights are
    scaled so that the step's mean still counts it.

    Args:
        scored: Completions with their advantages.
        by_token: Whether the engine's mean is over tokens instead of completions.
        keep_zero: Whether completions of advantage 0 are kept, because a KL penalty acts on them.
    """

    def size(pairs: Sequence[tuple[Completion, float]]) -> int:
        return sum(len(one.tokens) for one, _ in pairs) if by_token else len(pairs)

    kept = [pair for pair in scored if pair[1] != 0 or keep_zero]
    share = size(kept) / max(1, size(scored))
    return [Sample(one, advantage * share, index) for index, (one, advantage) in enumerate(kept)]
