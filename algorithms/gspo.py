"""GSPO: one clipped ratio per completion instead of one per token."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from algorithms.grpo import GRPO, GRPOConfig
from harness.api import Batch, token_mean


class GSPOConfig(GRPOConfig):
    """Hyper-parameters of GSPO: GRPO's with a much narrower clipping range."""

    beta: float = Field(
        0.0, ge=0, description="Weight of the KL penalty to the reference model (0: arXiv 2507.18071, equation 5)."
    )
    clip_low: float = Field(
        3e-4,
        ge=0,
        lt=1,
        description="The ratio is clipped below at 1 - clip_low (3e-4: the paper, section 5.1). Widen it in bf16, "
        "whose rounding error is larger.",
    )
    clip_high: float = Field(
        4e-4, ge=0, description="The ratio is clipped above at 1 + clip_high (4e-4: the paper, section 5.1)."
    )
    loss_type: Literal["sequence"] = Field("sequence", description="Mean over completions; part of GSPO.")
    scale: Literal["group"] = Field("group", description="Advantages are divided by the group's standard deviation.")


class GSPO(GRPO):
    """Group sequence policy optimisation (Zheng et al. 2025, arXiv 2507.18071, equations 5 to 7).

    With GRPO's advantages and the geometric mean of a completion's token ratios,

        ``s_i = exp(mean_t(log pi(y_it) - log pi_old(y_it)))``,

    the loss of completion i is ``-min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)``. The KL penalty, if beta
    is above 0, is GRPO's, averaged over the completion's tokens.
    """

    Config = GSPOConfig
    title = "GSPO"
    summary = "GRPO with one ratio per completion, the geometric mean over its tokens (arXiv 2507.18071)."

    def log_ratio(self, batch: Batch) -> Tensor:
        return token_mean(batch, super().log_ratio(batch))[:, None].expand_as(batch.policy)
