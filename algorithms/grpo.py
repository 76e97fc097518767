"""Group relative policy optimisation: each completion is judged against the others of its prompt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

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
    advantage_samples,
    clipped_surrogate,
    finite_rewards,
    k3,
    token_mean,
)

SCALE_EPSILON = 1e-4  # added to the standard deviation of a group's rewards, as TRL and R1-V do


class GRPOConfig(StrictConfig):
    """Hyper-parameters of GRPO; "paper" is vsGRPO, arXiv 2504.00883."""

    group_size: int = Field(8, ge=2, description="Completions sampled per prompt (paper: 14; 8 is TRL's default).")
    beta: float = Field(
        1e-4,
        ge=0,
        description="Weight of the KL penalty to the reference model (paper: 1e-4; its figure 3: rewards collapse at "
        "0). 0 saves the reference passes.",
    )
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - clip_low (ours, as PPO).")
    clip_high: float = Field(0.2, ge=0, description="The ratio is clipped above at 1 + clip_high (ours, as PPO).")
    loss_type: Literal["sequence", "token", "dr_grpo"] = Field(
        "sequence",
        description="Mean over each completion's tokens, then over completions (paper, arXiv 2402.03300); mean over "
        "all tokens (DAPO, arXiv 2503.14476); or sum over tokens divided by max_length (Dr. GRPO, arXiv 2503.20783).",
    )
    scale: Literal["auto", "group", "none"] = Field(
        "auto",
        description="Divide advantages by the group's standard deviation (group; paper), or not (none; Dr. GRPO). "
        "auto: none with loss_type dr_grpo, else group.",
    )
    max_length: int = Field(16, ge=1, description="Divisor of loss_type dr_grpo: set it to rollout.max_new_tokens.")


class GRPO(Algorithm):
    """GRPO (Shao et al. 2024, arXiv 2402.03300, equation 3; vsGRPO, arXiv 2504.00883, section 3.2, equation 1).

    The advantage of completion i of a group is ``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` with the sample standard
    deviation, as in TRL and R1-V. With the ratio ``q`` of a token's probability under the policy to that at sampling,
    and ``d = log pi_ref - log pi``, the loss of a token is

        ``-min(q A, clip(q, 1 - clip_low, 1 + clip_high) A) + beta (exp(d) - d - 1)``

    Completions of a group with equal rewards have advantage 0: only the KL penalty acts on them. With beta = 0 a
    completion of advantage 0 has no gradient and is dropped before the forward pass; the other weights are scaled so
    that the step's mean still counts it.
    """

    Config = GRPOConfig
    title = "GRPO"
    summary = "Group relative policy optimisation with clipped ratio and k3 KL (arXiv 2402.03300, 2504.00883)."

    @property
    def needs(self) -> Needs:
        return Needs(
            rollouts=self.config.group_size,
            behaviour=True,
            reference=self.config.beta > 0,
            reduce="token" if self.config.loss_type == "token" else "sequence",
        )

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        """The advantages of one group; all 0 when its rewards are equal."""
        if len(set(rewards)) < 2:
            return [0.0] * len(rewards)
        scaled = self.config.scale == "group" or (self.config.scale == "auto" and self.config.loss_type != "dr_grpo")
        mean, divisor = statistics.fmean(rewards), statistics.stdev(rewards) + SCALE_EPSILON if scaled else 1.0
        return [(reward - mean) / divisor for reward in rewards]

    def scored(self, completions: Sequence[Completion]) -> list[tuple[Completion, float]]:
        """The sampled completions of one prompt with their advantages."""
        return list(zip(completions, self.advantages(finite_rewards(completions)), strict=True))

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        scored = [pair for group in groups for pair in self.scored(group.by_source("policy"))]
        return advantage_samples(scored, by_token=self.needs.reduce == "token", keep_zero=self.config.beta > 0)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        per_token, logged = self.per_token(batch)
        if self.config.loss_type == "token":
            return per_token, logged
        length = batch.lengths if self.config.loss_type == "sequence" else self.config.max_length
        return batch.seq(per_token) / length, logged

    def per_token(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """(n, L) losses; clipped fraction and KL, averaged over each completion's tokens, then over completions."""
        low, high = self.config.clip_low, self.config.clip_high
        loss, stopped = clipped_surrogate(self.log_ratio(batch), batch.weight[:, None], low, high)
        logged = {"clip_fraction": token_mean(batch, stopped).mean().item()}
        if self.config.beta > 0:
            assert batch.reference is not None  # needs.reference
            kl = k3(batch.policy, batch.reference)
            loss = loss + self.config.beta * kl
            logged["kl"] = token_mean(batch, kl).mean().item()
        return loss, logged

    def log_ratio(self, batch: Batch) -> Tensor:
        """(n, L) log-ratios of the policy's probability to that at sampling."""
        assert batch.behaviour is not None  # needs.behaviour
        return batch.policy - batch.behaviour
