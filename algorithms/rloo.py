"""RLOO: REINFORCE whose baseline is the mean reward of the prompt's other completions."""

from __future__ import annotations

from collections.abc import Sequence

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
)


class RLOOConfig(StrictConfig):
    """Hyper-parameters of RLOO."""

    group_size: int = Field(8, ge=2, description="Completions sampled per prompt (the paper: 2 or 4; 8 as GRPO here).")
    beta: float = Field(
        0.05,
        ge=0,
        description="Weight of the KL penalty in the reward (0.05: TRL's default). 0 saves the reference passes.",
    )
    clip_low: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - clip_low (0.2: TRL).")
    clip_high: float = Field(0.2, ge=0, description="The ratio is clipped above at 1 + clip_high (0.2: TRL).")


class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).

    The reward of completion i of k is ``R_i = r_i - beta (log pi_old(y_i) - log pi_ref(y_i))``, its advantage
    ``A_i = R_i - mean of the other k - 1``. With the ratio ``q_i = pi(y_i) / pi_old(y_i)`` of the whole completion the
    loss is

        ``-min(q_i A_i, clip(q_i, 1 - clip_low, 1 + clip_high) A_i)``

    whose gradient at the first update is REINFORCE's, ``-A_i grad log pi(y_i)``; later updates on the same completions
    (train.updates_per_batch) are clipped, as in TRL.
    """

    Config = RLOOConfig
    title = "RLOO"
    summary = "REINFORCE with a leave-one-out baseline (arXiv 2402.14740)."

    @property
    def needs(self) -> Needs:
        return Needs(rollouts=self.config.group_size, behaviour=True, reference=self.config.beta > 0, reduce="sequence")

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        scored: list[tuple[Completion, float]] = []
        for completions in (group.by_source("policy") for group in groups):
            rewards = [r - self.penalty(one) for one, r in zip(completions, finite_rewards(completions), strict=True)]
            if len(set(rewards)) < 2:
                rewards = [0.0] * len(rewards)  # so that advantages are exactly 0, without rounding error
            total, others = sum(rewards), len(rewards) - 1
            scored += [(one, r - (total - r) / others) for one, r in zip(completions, rewards, strict=True)]
        return advantage_samples(scored)

    def penalty(self, completion: Completion) -> float:
        """The KL penalty of a completion: beta times its log-ratio at sampling."""
        if self.config.beta == 0:
            return 0.0
        return float(self.config.beta * (sum(completion.behaviour) - sum(completion.reference)))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert batch.behaviour is not None  # needs.behaviour
        loss, stopped = clipped_surrogate(
            batch.seq(batch.policy - batch.behaviour), batch.weight, self.config.clip_low, self.config.clip_high
        )
        return loss, {"clip_fraction": stopped.mean().item()}
