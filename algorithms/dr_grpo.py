"""Dr. GRPO: GRPO without the two divisions that bias it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from algorithms.grpo import GRPO, GRPOConfig


class DrGRPOConfig(GRPOConfig):
    """Hyper-parameters of Dr. GRPO: GRPO's, with its loss and its unscaled advantages."""

    beta: float = Field(
        0.0, ge=0, description="Weight of the KL term to the reference (0, so no reference passes: arXiv 2503.20783)."
    )
    loss_type: Literal["dr_grpo"] = Field(
        "dr_grpo", description="Sum over an answer's tokens by the constant max_length; what makes it Dr. GRPO."
    )
    scale: Literal["none"] = Field(
        "none", description="Advantages are not divided by the group's deviation; what makes it Dr. GRPO."
    )


class DrGRPO(GRPO):
    """GRPO done right (Liu et al. 2025, arXiv 2503.20783, section 3).

    Dividing by an answer's length favours short right answers and long wrong ones; dividing by a group's standard
    deviation favours questions that are nearly always or nearly never answered. Without both, with the constant
    ``L`` = max_length, the loss of answer i is

        ``-(1 / L) sum_t min(q_it A_i, clip(q_it, 1 - clip_low, 1 + clip_high) A_i)``, ``A_i = r_i - mean(r)``
    """

    Config = DrGRPOConfig
    title = "Dr. GRPO"
    summary = "GRPO without division by length and by deviation (arXiv 2503.20783)."
