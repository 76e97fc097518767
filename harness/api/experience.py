"""What several methods do with scored completions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.api.types import Completion, Sample
from harness.errors import UserError


def finite_rewards(completions: Sequence[Completion]) -> list[float]:
    """The completions' rewards.

    Raises:
        UserError: A reward is NaN or infinite, so that it can neither be ranked nor normalised.
    """
    for one in completions:
        if not math.isfinite(one.reward):
            raise UserError(
                f"prompt {one.prompt_id}: a {one.source} completion has the reward {one.reward} "
                f"(parts {dict(one.parts)}); mend the reward that gave it, or give the study one in [reward]"
            )
    return [one.reward for one in completions]


def advantage_samples(
    scored: Sequence[tuple[Completion, float]], *, by_token: bool = False, keep_zero: bool = False
) -> list[Sample]:
    """Samples weighted by final advantages, each a unit of its own so that a large group may be split.

    The gradient of a policy-gradient loss at an advantage of 0 is exactly 0, so such answers are dropped before the
    forward pass; the others' weights are scaled so that the step's mean still counts them.

    Args:
        scored: Completions with their advantages.
        by_token: The engine's mean is over tokens, not over answers.
        keep_zero: Answers of advantage 0 have a gradient all the same (of a KL term).
    """

    def size(pairs: Sequence[tuple[Completion, float]]) -> int:
        return sum(len(one.tokens) for one, _ in pairs) if by_token else len(pairs)

    kept = [pair for pair in scored if pair[1] != 0 or keep_zero]
    share = size(kept) / max(1, size(scored))
    return [Sample(one, advantage * share, index) for index, (one, advantage) in enumerate(kept)]
