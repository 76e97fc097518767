"""GSPO: the ratio that is clipped belongs to the answer, not to its tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from algorithms.grpo import GRPO, GRPOConfig
from harness.api import Batch, token_mean


class GSPOConfig(GRPOConfig):
    """Hyper-parameters of GSPO: GRPO's with a far narrower clipping range."""

    beta: float = Field(
        0.0, ge=0, description="Weight of the KL term to the reference (0: arXiv 2507.18071 has none in equation 5)."
    )
    clip_low: float = Field(
        3e-4,
        ge=0,
        lt=1,
        description="The ratio is clipped below at 1 - clip_low (3e-4: the paper, section 5.1). The sampler's rounding "
        "must be finer than this: widen it in bf16.",
    )
    clip_high: float = Field(
        4e-4, ge=0, description="The ratio is clipped above at 1 + clip_high (4e-4: the paper, section 5.1)."
    )
    loss_type: Literal["sequence"] = Field("sequence", description="Mean over answers; part of GSPO.")
    scale: Literal["group"] = Field("group", description="Advantages are divided by the group's standard deviation.")


class GSPO(GRPO):
    """Group sequence policy optimisation (Zheng et al. 2025, arXiv 2507.18071, equations 5 to 7).

    With GRPO's advantages and the geometric mean of an answer's token ratios,

        ``s_i = exp(mean_t(log pi(y_it) - log pi_old(y_it)))``,

    the loss of answer i is ``-min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)``. A KL term, where asked for,
    is the mean of GRPO's over the answer's tokens.
    """

    Config = GSPOConfig
    title = "GSPO"
    summary = "GRPO with one ratio an answer, the geometric mean of its tokens' (arXiv 2507.18071)."

    def log_ratio(self, batch: Batch) -> Tensor:
        return token_mean(batch, super().log_ratio(batch))[:, None].expand_as(batch.policy)
