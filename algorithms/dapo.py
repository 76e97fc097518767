"""DAPO: decoupled clipping, mean over tokens, dynamic sampling, and overlong filtering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from algorithms.grpo import GRPO, GRPOConfig
from harness.api import Completion, Group, Needs, Sample, finite_rewards


class DAPOConfig(GRPOConfig):
    """Hyper-parameters of DAPO: GRPO's with other defaults, and the treatment of overlong completions."""

    beta: float = Field(
        0.0,
        ge=0,
        description="Weight of the KL penalty to the reference model (0: arXiv 2503.14476; no reference passes).",
    )
    clip_high: float = Field(
        0.28, ge=0, description="The ratio is clipped above at 1 + clip_high, higher than below (0.28: the paper)."
    )
    loss_type: Literal["token"] = Field("token", description="Mean over all tokens of a step; part of DAPO.")
    scale: Literal["group"] = Field("group", description="Advantages are divided by the group's standard deviation.")
    overlong: Literal["filter", "penalty", "keep"] = Field(
        "filter",
        description="Completions cut off by the token limit are left out of the loss (filter; paper, section 3.4); "
        "completions near max_length lose reward (penalty; equation 13); or neither (keep). The paper's final recipe "
        "is penalty; filter is the default here because it needs no max_length.",
    )
    max_length: int = Field(
        16, ge=1, description="For penalty: set it to the study's rollout.max_new_tokens. The paper's is 20480."
    )
    margin: int = Field(
        4, ge=1, description="For penalty: it grows from 0 to 1 over the last `margin` tokens (paper: 4096 of 20480)."
    )


class DAPO(GRPO):
    """Decoupled clip and dynamic sampling policy optimisation (Yu et al. 2025, arXiv 2503.14476, equation 8).

    GRPO's loss with ``clip_high > clip_low``, without KL, averaged over all tokens of a step. A prompt whose
    completions all have the same reward is replaced by another (dynamic sampling, section 3.2). With overlong =
    penalty, ``clamp((max_length - margin - n) / margin, -1, 0)`` is added to the reward of a completion of ``n`` tokens
    before advantages are computed; equality of rewards is judged without it.
    """

    Config = DAPOConfig
    title = "DAPO"
    summary = "GRPO with clip-higher, token mean, dynamic sampling and overlong filtering (arXiv 2503.14476)."

    @property
    def needs(self) -> Needs:
        """As GRPO; prompts without contrast are replaced."""
        return replace(super().needs, resample_dropped=True)

    def scored(self, completions: Sequence[Completion]) -> list[tuple[Completion, float]]:
        rewards = finite_rewards(completions)
        if len(set(rewards)) < 2:
            return []
        shaped = [reward + self.penalty(one) for one, reward in zip(completions, rewards, strict=True)]
        pairs = zip(completions, self.advantages(shaped), strict=True)
        return [pair for pair in pairs if not (pair[0].truncated and self.config.overlong == "filter")]

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        scored = [pair for group in groups for pair in self.scored(group.by_source("policy"))]
        return [Sample(one, advantage, index) for index, (one, advantage) in enumerate(scored)]

    def penalty(self, completion: Completion) -> float:
        """Added to the reward of a completion, from 0 to -1 by its length (equation 13)."""
        if self.config.overlong != "penalty":
            return 0.0
        free = self.config.max_length - self.config.margin
        return max(-1.0, min(0.0, (free - len(completion.tokens)) / self.config.margin))
