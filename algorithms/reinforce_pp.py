"""REINFORCE++: advantages normalised over the whole step instead of the prompt's group."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from harness.api import (
    Algorithm,
    Batch,
    Completion,
    Group,
    Needs,
    Sample,
    StrictConfig,
    clipped_surrogate,
    finite_rewards,
    token_mean,
)

SCALE_EPSILON = 1e-8  # added to the standard deviation, so that a step without contrast has advantages of 0


class ReinforcePPConfig(StrictConfig):
    """Hyper-parameters of REINFORCE++."""

    group_size: int = Field(
        8, ge=1, description="Completions sampled per prompt (the paper: 1, more with the baseline; 8 as GRPO here)."
    )
    baseline: Literal["none", "group"] = Field(
        "none",
        description="Subtracted from a reward before normalisation: nothing, or the mean of its group (the paper's "
        "`REINFORCE++ w/ baseline`).",
    )
    beta: float = Field(
        0.01, ge=0, description="Weight of the KL penalty per token (ours). 0 saves the reference passes."
    )
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - clip_low (as PPO).")
    clip_high: float = Field(0.2, ge=0, description="The ratio is clipped above at 1 + clip_high (as PPO).")


class ReinforcePP(Algorithm):
    """REINFORCE++ (Hu et al. 2025, arXiv 2501.03262, global advantage normalisation).

    The advantage of token t is ``A_t = r - beta sum_{i >= t} KL_i`` with ``KL_i = log pi_old(y_i) - log pi_ref(y_i)``
    and, with baseline = group, ``r`` minus the mean reward of its group. It is normalised over all tokens of the step,
    ``(A_t - mean(A)) / (std(A) + 1e-8)``; the loss of a token is PPO's clipped surrogate, averaged over each
    completion's tokens, then over completions.
    """

    Config = ReinforcePPConfig
    title = "REINFORCE++"
    summary = "Policy gradient with advantages normalised over the step (arXiv 2501.03262)."
    exempt_checks: ClassVar[Mapping[str, str]] = {
        "contrast": "a completion is judged against all of the step, not those of its prompt"
    }

    @property
    def needs(self) -> Needs:
        return Needs(rollouts=self.config.group_size, behaviour=True, reference=self.config.beta > 0, reduce="sequence")

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        scored: list[tuple[Completion, float]] = []
        for completions in (group.by_source("policy") for group in groups):
            rewards = finite_rewards(completions)
            base = statistics.fmean(rewards) if self.config.baseline == "group" and rewards else 0.0
            scored += [(one, reward - base) for one, reward in zip(completions, rewards, strict=True)]
        everything = [value for one, reward in scored for value in self.token_advantages(one, reward)]
        if not everything:
            return []
        mean = statistics.fmean(everything)
        scale = statistics.pstdev(everything, mean) + SCALE_EPSILON
        return [
            Sample(one, reward, index, {"mean": mean, "scale": scale}) for index, (one, reward) in enumerate(scored)
        ]

    def token_advantages(self, completion: Completion, reward: float) -> list[float]:
        """The advantage of each token before normalisation."""
        if self.config.beta == 0:
            return [reward] * len(completion.tokens)
        values, penalty = [], 0.0
        for now, before in zip(reversed(completion.behaviour), reversed(completion.reference), strict=True):
            penalty += self.config.beta * (now - before)
            values.append(reward - penalty)
        return values[::-1]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert batch.behaviour is not None  # needs.behaviour
        advantage = batch.weight[:, None].expand_as(batch.policy)
        if self.config.beta > 0:
            assert batch.reference is not None  # needs.reference
            kl = (batch.behaviour - batch.reference) * batch.mask
            advantage = advantage - self.config.beta * kl.flip(-1).cumsum(-1).flip(-1)
        advantage = (advantage - batch.extras["mean"][:, None]) / batch.extras["scale"][:, None]
        loss, stopped = clipped_surrogate(
            batch.policy - batch.behaviour, advantage, self.config.clip_low, self.config.clip_high
        )
        return token_mean(batch, loss), {"clip_fraction": token_mean(batch, stopped).mean().item()}
