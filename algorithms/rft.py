"""RFT: imitate the best of several sampled answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from algorithms.sft import SFT, SFTConfig
from harness.api import Completion, Group, Needs, Sample, finite_rewards


class RFTConfig(SFTConfig):
    """Hyper-parameters of rejection-sampling fine-tuning: SFT's, and which answers are kept."""

    rollouts: int = Field(8, ge=1, description="Answers sampled a prompt. As GRPO's group; ours.")
    keep: Literal["best", "all"] = Field(
        "best",
        description="Of the answers that reach the threshold: the best of each prompt (arXiv 2304.06767), or all "
        "different ones (arXiv 2308.01825).",
    )
    threshold: float = Field(
        0.5, ge=0, description="An answer below this reward is never imitated, so a prompt may give nothing (ours)."
    )


class RFT(SFT):
    """Rejection-sampling fine-tuning (Yuan et al. 2023, arXiv 2308.01825; Dong et al. 2023, RAFT, arXiv 2304.06767).

    Every step samples answers from the policy as it is now and takes SFT's loss, ``-log p(y_t | x, y_<t)``, on those
    that the reward accepts. There is no negative example, which is all that sets it apart from a policy gradient.
    """

    Config = RFTConfig
    title = "RFT"
    summary = "SFT on the policy's own best answers: rejection sampling, best of n (arXiv 2308.01825)."
    exempt_checks: ClassVar[Mapping[str, str]] = {"contrast": "a good answer is imitated even when all are good"}

    @property
    def needs(self) -> Needs:
        """Sampled answers to choose from; nothing is compared with a reference."""
        return Needs(rollouts=self.config.rollouts, reduce=self.config.average)

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        kept = [one for group in groups for one in self.kept(group.by_source("policy"))]
        return [Sample(one, unit=index) for index, one in enumerate(kept)]

    def kept(self, answers: Sequence[Completion]) -> list[Completion]:
        """The answers of one prompt to imitate; of equal ones the first."""
        rewards = finite_rewards(answers)
        good = [one for one, reward in zip(answers, rewards, strict=True) if reward >= self.config.threshold]
        if self.config.keep == "best":
            return [max(good, key=lambda one: one.reward)] if good else []
        different: dict[tuple[int, ...], Completion] = {}
        for one in good:
            different.setdefault(one.tokens, one)
        return list(different.values())
