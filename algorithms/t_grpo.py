"""T-GRPO: correct completions earn a bonus when the order of the frames helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from algorithms.grpo import GRPO, GRPOConfig
from harness.api import Completion, Group, Needs, Sample


class TGRPOConfig(GRPOConfig):
    """Hyper-parameters of T-GRPO: GRPO's, and the contrast with shuffled frames."""

    beta: float = Field(0.04, ge=0, description="Weight of the KL penalty to the reference (0.04: Video-R1's code).")
    shuffled: int = Field(
        4, ge=1, description="Completions per prompt with shuffled frames (half of group_size: arXiv 2503.21776)."
    )
    bonus: float = Field(
        0.3, ge=0, description="Reward bonus of correct completions when order helps (0.3: the paper)."
    )
    share: float = Field(
        0.8,
        ge=0,
        description="Order helps if the mean accuracy is at least this fraction of that with shuffled frames (0.8: "
        "Video-R1's code).",
    )
    right: float = Field(0.1, ge=0, description="Completions of higher accuracy count as correct (0.1: Video-R1).")


class TGRPO(GRPO):
    """Temporal group relative policy optimisation (Feng et al. 2025, Video-R1, arXiv 2503.21776, section 3.2).

    With the mean accuracy ``p`` of the group and ``p~`` of further completions for the same question with the frames in
    random order, ``bonus`` is added to the reward of each correct completion if ``p >= share * p~``; advantages and
    loss are GRPO's. Accuracy is the reward without its part `format`. Completions for shuffled frames are never
    trained on, but their tokens and forward passes are metered like all others.
    """

    Config = TGRPOConfig
    title = "T-GRPO"
    summary = "GRPO with a bonus where the order of frames helps, against shuffled frames (arXiv 2503.21776)."

    @property
    def needs(self) -> Needs:
        """As GRPO, and completions for the same prompts with shuffled frames."""
        return replace(super().needs, shuffled=self.config.shuffled)

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        return super().experience([self.rewarded(group) for group in groups])

    def rewarded(self, group: Group) -> Group:
        """The group's completions for ordered frames, with the bonus where it is earned."""
        ordered, shuffled = group.by_source("policy"), group.by_source("shuffled")
        helps = _mean_accuracy(ordered) >= self.config.share * _mean_accuracy(shuffled)
        return replace(
            group,
            completions=tuple(
                replace(one, reward=one.reward + self.config.bonus)
                if helps and accuracy(one) > self.config.right
                else one
                for one in ordered
            ),
        )


def accuracy(completion: Completion) -> float:
    """The reward without the part for the answer's format."""
    if "format" not in completion.parts:
        return completion.reward
    return sum(value for name, value in completion.parts.items() if name != "format")


def _mean_accuracy(completions: Sequence[Completion]) -> float:
    return sum(map(accuracy, completions)) / max(1, len(completions))
