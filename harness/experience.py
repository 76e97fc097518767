"""What several methods do with scored completions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.errors import UserError
from harness.types import Completion


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
