"""Online DPO: two answers of the current policy, judged as they come."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from algorithms.dpo import DPO
from harness.api import Group, Needs, Sample, StrictConfig, finite_rewards


class OnlineDPOConfig(StrictConfig):
    """Hyper-parameters of online DPO."""

    beta: float = Field(0.1, gt=0, description="Strength of the pull to the reference model (0.1: TRL's default).")
    rollouts: int = Field(
        2, ge=2, multiple_of=2, description="Answers sampled a prompt; each is in one pair (2: arXiv 2402.04792)."
    )


class OnlineDPO(DPO):
    """Direct preference optimisation from online feedback (Guo et al. 2024, arXiv 2402.04792, algorithm 1).

    Every step samples pairs of answers from the policy as it is now, the reward says which of two is better, and the
    loss is DPO's. Answers 1 and 2 are a pair, 3 and 4, and so on; a pair of equal reward teaches nothing
    and is dropped. DPO with pairs = ranked samples from the current policy as well, but trains on the extremes of a
    larger group; here pairs are as the policy draws them.
    """

    Config = OnlineDPOConfig
    title = "Online DPO"
    summary = "DPO on pairs sampled from the current policy and judged by the reward (arXiv 2402.04792)."

    @property
    def needs(self) -> Needs:
        """Sampled answers to pair, and the reference."""
        return Needs(rollouts=self.config.rollouts, reference=True, reduce="unit")

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        samples: list[Sample] = []
        for answers in (group.by_source("policy") for group in groups):
            rewards = finite_rewards(answers)
            for first, second in zip(range(0, len(answers), 2), range(1, len(answers), 2), strict=False):
                if rewards[first] != rewards[second]:
                    chosen, rejected = (first, second) if rewards[first] > rewards[second] else (second, first)
                    unit = len(samples) // 2
                    samples += [Sample(answers[chosen], 1.0, unit), Sample(answers[rejected], -1.0, unit)]
        return samples
