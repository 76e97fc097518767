"""Group relative policy optimisation: answers are judged against the other answers to the same prompt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from harness.api.algorithm import Algorithm
from harness.api.config import StrictConfig
from harness.api.experience import advantage_samples, finite_rewards
from harness.api.losses import clipped_surrogate, k3, token_mean
from harness.api.types import Batch, Group, Needs, Sample

SCALE_EPSILON = 1e-4  # added to the standard deviation of a group's rewards, as TRL and R1-V do


class GRPOConfig(StrictConfig):
    """Hyper-parameters of GRPO; "paper" is vsGRPO, arXiv 2504.00883."""

    group_size: int = Field(8, ge=2, description="Answers sampled a prompt (paper: 14; 8 is TRL's default).")
    beta: float = Field(
        1e-4,
        ge=0,
        description="Weight of the KL term to the reference (paper: 1e-4; its figure 3: rewards collapse at 0). "
        "0 must be written out and saves the reference passes.",
    )
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - clip_low (ours, as PPO).")
    clip_high: float = Field(0.2, ge=0, description="The ratio is clipped above at 1 + clip_high (ours, as PPO).")
    loss_type: Literal["sequence", "token", "dr_grpo"] = Field(
        "sequence",
        description="Mean over each answer's tokens, then over answers (paper, arXiv 2402.03300); mean over all tokens "
        "(DAPO, arXiv 2503.14476); or sum over tokens by the constant max_length (Dr. GRPO, arXiv 2503.20783).",
    )
    scale: Literal["auto", "group", "none"] = Field(
        "auto",
        description="Divide advantages by the group's standard deviation (group; paper), or not (none; Dr. GRPO). "
        "auto: none for dr_grpo, else group.",
    )
    max_length: int = Field(
        16, ge=1, description="Dr. GRPO's constant divisor: set it to the study's rollout.max_new_tokens."
    )


class GRPO(Algorithm):
    """GRPO (Shao et al. 2024, arXiv 2402.03300, equation 3; vsGRPO, arXiv 2504.00883, section 3.2, equation 1).

    The advantage of answer i in its group is ``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` with the sample standard
    deviation, as TRL and R1-V compute it. With the ratio ``q`` of a token's probability now to that at sampling and
    ``d = log pi_ref - log pi``, the loss of a token is

        ``-min(q A, clip(q, 1 - clip_low, 1 + clip_high) A) + beta (exp(d) - d - 1)``

    Answers of a group whose rewards are all equal have advantage 0: only the KL term acts on them. Without a KL term
    (beta = 0) the gradient of an answer with advantage 0 is exactly 0 and it is dropped before the forward pass; the
    others' weights are scaled so that the step's mean still counts it.
    """

    Config = GRPOConfig
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
        """The advantages of one group; all 0 when its rewards do not differ."""
        if len(set(rewards)) < 2:
            return [0.0] * len(rewards)
        scaled = self.config.scale == "group" or (self.config.scale == "auto" and self.config.loss_type != "dr_grpo")
        mean, divisor = statistics.fmean(rewards), statistics.stdev(rewards) + SCALE_EPSILON if scaled else 1.0
        return [(reward - mean) / divisor for reward in rewards]

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        scored = [
            pair
            for answers in (group.by_source("policy") for group in groups)
            for pair in zip(answers, self.advantages(finite_rewards(answers)), strict=True)
        ]
        return advantage_samples(scored, by_token=self.needs.reduce == "token", keep_zero=self.config.beta > 0)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        per_token, logged = self.per_token(batch)
        if self.config.loss_type == "token":
            return per_token, logged
        length = batch.lengths if self.config.loss_type == "sequence" else self.config.max_length
        return batch.seq(per_token) / length, logged

    def per_token(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """(n, L) losses, and the clipped share and KL as means over samples of their token means."""
        loss, stopped = clipped_surrogate(
            self.log_ratio(batch), batch.weight[:, None], self.config.clip_low, self.config.clip_high
        )
        logged = {"clip_fraction": token_mean(batch, stopped).mean().item()}
        if self.config.beta > 0:
            assert batch.reference is not None  # needs.reference
            kl = k3(batch.policy, batch.reference)
            loss = loss + self.config.beta * kl
            logged["kl"] = token_mean(batch, kl).mean().item()
        return loss, logged

    def log_ratio(self, batch: Batch) -> Tensor:
        """(n, L) log-ratios of the probability now to that at sampling."""
        assert batch.behaviour is not None  # needs.behaviour
        return batch.policy - batch.behaviour
