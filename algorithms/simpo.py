"""SimPO: preference optimisation by average log-probability, without a reference model."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from algorithms.dpo import DPO, DPOConfig, preference_metrics
from harness.api import Batch, Needs, pair_gaps, token_mean


class SimPOConfig(DPOConfig):
    """Hyper-parameters of SimPO: DPO's pairs, and a target margin."""

    beta: float = Field(
        2.0,
        gt=0,
        description="Scale of the average log-probabilities (mostly 2.0 to 2.5 in arXiv 2405.14734).",
    )
    gamma_ratio: float = Field(
        0.5,
        ge=0,
        description="gamma / beta: the target margin of the averages (0.5: recommended by the authors).",
    )


class SimPO(DPO):
    """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6).

    With DPO's pairs and the mean log-probability ``m = log pi(y|x) / |y|`` of a completion's tokens, the loss of a pair
    is ``-log sigmoid(beta (m_w - m_l) - gamma)``. There is no reference model.
    """

    Config = SimPOConfig
    title = "SimPO"
    summary = "DPO's pairs by average log-probability, without a reference model (arXiv 2405.14734)."

    @property
    def needs(self) -> Needs:
        """As DPO, without a reference model."""
        return replace(super().needs, reference=False)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        gap = pair_gaps(batch, token_mean(batch, batch.policy))
        return -F.logsigmoid(self.config.beta * (gap - self.config.gamma_ratio)), preference_metrics(gap)
