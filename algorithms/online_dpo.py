"""Online DPO: pairs of completions of the current policy, ranked by the reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from algorithms.dpo import DPO, best_and_worst
from harness.api import Completion, Group, Needs, StrictConfig, finite_rewards


class OnlineDPOConfig(StrictConfig):
    """Hyper-parameters of online DPO."""

    beta: float = Field(0.1, gt=0, description="Strength of the pull towards the reference model (0.1: TRL's default).")
    pairs: Literal["drawn", "ranked"] = Field(
        "drawn",
        description="Completions 1 and 2, 3 and 4, ... (arXiv 2402.04792); or the best and the worst of all (ours).",
    )
    rollouts: int = Field(2, ge=2, multiple_of=2, description="Completions sampled per prompt (2: arXiv 2402.04792).")


class OnlineDPO(DPO):
    """Direct preference optimisation from online feedback (Guo et al. 2024, arXiv 2402.04792, algorithm 1).

    Every step samples pairs of completions from the current policy, the reward says which of the two is better, and
    the loss is DPO's. Completions 1 and 2 are a pair, 3 and 4, and so on, or the extremes of all; pairs of equal reward
    are dropped. ``dpo`` is its offline counterpart.
    """

    Config = OnlineDPOConfig
    title = "Online DPO"
    summary = "DPO on pairs sampled from the current policy and judged by the reward (arXiv 2402.04792)."

    @property
    def needs(self) -> Needs:
        """Sampled completions to pair, and the reference model."""
        return Needs(rollouts=self.config.rollouts, reference=True, reduce="unit")

    def pairs(self, group: Group) -> list[tuple[Completion, Completion]]:
        completions = group.by_source("policy")
        if self.config.pairs == "ranked":
            return best_and_worst(completions, completions)
        finite_rewards(completions)
        drawn = zip(completions[::2], completions[1::2], strict=False)
        return [(a, b) if a.reward > b.reward else (b, a) for a, b in drawn if a.reward != b.reward]
