"""DAPO: decoupled clipping, a mean over tokens, dynamic sampling, and care with overlong answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from algorithms.grpo import GRPO, GRPOConfig
from harness.api.experience import finite_rewards
from harness.api.types import Completion, Group, Needs, Sample


class DAPOConfig(GRPOConfig):
    """Hyper-parameters of DAPO: GRPO's with other defaults, and what happens to overlong answers."""

    beta: float = Field(
        0.0, ge=0, description="Weight of the KL term to the reference (0, so no reference passes: arXiv 2503.14476)."
    )
    clip_high: float = Field(
        0.28, ge=0, description="The ratio is clipped above at 1 + clip_high, higher than below (0.28: the paper)."
    )
    loss_type: Literal["token"] = Field("token", description="Mean over all tokens of a step; part of DAPO.")
    scale: Literal["group"] = Field("group", description="Advantages are divided by the group's standard deviation.")
    overlong: Literal["filter", "penalty", "keep"] = Field(
        "filter",
        description="The loss of answers that the token limit cut off is left out (filter; paper, section 3.4); "
        "answers near max_length lose reward (penalty; equation 13); or neither (keep). The paper ends with penalty; "
        "filter is the default here since it needs no max_length.",
    )
    max_length: int = Field(
        16, ge=1, description="For penalty: set it to the study's rollout.max_new_tokens. The paper's is 20480."
    )
    margin: int = Field(
        4, ge=1, description="For penalty: it grows from 0 to 1 over this many last tokens (paper: 4096 of 20480)."
    )


class DAPO(GRPO):
    """Decoupled clip and dynamic sampling policy optimisation (Yu et al. 2025, arXiv 2503.14476, equation 8).

    GRPO's loss with ``clip_high > clip_low``, without KL, as the mean over all tokens of a step. A group whose rewards
    are all equal is replaced by another prompt's (dynamic sampling, section 3.2). With overlong = penalty an answer of
    ``n`` tokens has ``clamp((max_length - margin - n) / margin, -1, 0)`` added to its reward before the advantages are
    taken; whether a group is flat is decided by the rewards without it.
    """

    Config = DAPOConfig
    title = "DAPO"
    summary = "GRPO with clip-higher, token mean, dynamic sampling and overlong filtering (arXiv 2503.14476)."

    @property
    def needs(self) -> Needs:
        """As GRPO, a token mean, and other prompts for those whose answers are all alike."""
        return Needs(
            rollouts=self.config.group_size,
            behaviour=True,
            reference=self.config.beta > 0,
            resample_dropped=True,
            reduce="token",
        )

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        samples: list[Sample] = []
        for answers in (group.by_source("policy") for group in groups):
            rewards = finite_rewards(answers)
            if len(set(rewards)) < 2:
                continue
            shaped = [reward + self.penalty(one) for one, reward in zip(answers, rewards, strict=True)]
            for one, advantage in zip(answers, self.advantages(shaped), strict=True):
                if not (one.truncated and self.config.overlong == "filter"):
                    samples.append(Sample(one, advantage, len(samples)))
        return samples

    def penalty(self, completion: Completion) -> float:
        """What an answer's length costs, from 0 to -1 (equation 13)."""
        if self.config.overlong != "penalty":
            return 0.0
        free = self.config.max_length - self.config.margin
        return max(-1.0, min(0.0, (free - len(completion.tokens)) / self.config.margin))
