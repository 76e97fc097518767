"""RFT: imitate the best of several sampled completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from algorithms.sft import SFT, SFTConfig
from harness.api import Completion, Group, Needs, Sample, finite_rewards


class RFTConfig(SFTConfig):
    """Hyper-parameters of rejection-sampling fine-tuning: SFT's, and which completions are kept."""

    rollouts: int = Field(8, ge=1, description="Completions sampled per prompt (ours, as GRPO).")
    keep: Literal["best", "all"] = Field(
        "best",
        description="Of the completions that reach the threshold: the best of each prompt (arXiv 2304.06767), or all "
        "distinct ones (arXiv 2308.01825).",
    )
    threshold: float = Field(
        0.5, ge=0, description="Completions below this reward are dropped, so a prompt may give none (ours)."
    )


class RFT(SFT):
    """Rejection-sampling fine-tuning (Yuan et al. 2023, arXiv 2308.01825; Dong et al. 2023, RAFT, arXiv 2304.06767).

    Every step samples completions from the current policy and takes SFT's loss, ``-log p(y_t | x, y_<t)``, on those
    that the reward accepts. Unlike a policy gradient it has no negative examples.
    """

    Config = RFTConfig
    title = "RFT"
    summary = "SFT on the policy's own best completions: rejection sampling, best of n (arXiv 2308.01825)."
    exempt_checks: ClassVar[Mapping[str, str]] = {"contrast": "a good completion is imitated even when all are good"}

    @property
    def needs(self) -> Needs:
        """Sampled completions to choose from; no reference model."""
        return Needs(rollouts=self.config.rollouts, reduce=self.config.average)

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        kept = [one for group in groups for one in self.kept(group.by_source("policy"))]
        return [Sample(one, unit=index) for index, one in enumerate(kept)]

    def kept(self, completions: Sequence[Completion]) -> list[Completion]:
        """The completions of one prompt to imitate; ties go to the first."""
        rewards = finite_rewards(completions)
        good = [one for one, reward in zip(completions, rewards, strict=True) if reward >= self.config.threshold]
        if self.config.keep == "best":
            return [max(good, key=lambda one: one.reward)] if good else []
        distinct: dict[tuple[int, ...], Completion] = {}
        for one in good:
            distinct.setdefault(one.tokens, one)
        return list(distinct.values())
