"""Dr. GRPO: GRPO without its two biased normalisations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from algorithms.grpo import GRPO, GRPOConfig


class DrGRPOConfig(GRPOConfig):
    """Hyper-parameters of Dr. GRPO: GRPO's, with constant-length loss and unscaled advantages."""

    beta: float = Field(
        0.0,
        ge=0,
        description="Weight of the KL penalty to the reference model (0: arXiv 2503.20783).",
    )
    loss_type: Literal["dr_grpo"] = Field(
        "dr_grpo", description="Sum over tokens divided by the constant max_length; part of Dr. GRPO."
    )
    scale: Literal["none"] = Field(
        "none", description="Advantages are not divided by the group's standard deviation; part of Dr. GRPO."
    )


class DrGRPO(GRPO):
    """GRPO done right (Liu et al. 2025, arXiv 2503.20783, section 3).

    Dividing by a completion's length favours short correct completions and long wrong ones; dividing by the group's
    standard deviation favours questions that are nearly always or almost never answered correctly. Without both, and
    with the constant ``L`` = max_length, the loss of completion i is

        ``-(1 / L) sum_t min(q_it A_i, clip(q_it, 1 - clip_low, 1 + clip_high) A_i)``, ``A_i = r_i - mean(r)``
    """

    Config = DrGRPOConfig
    title = "Dr. GRPO"
    summary = "GRPO without its length and standard-deviation normalisation (arXiv 2503.20783)."
