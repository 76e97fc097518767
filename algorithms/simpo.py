"""SimPO: preference optimisation by average log-probability, without a reference model."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from algorithms.dpo import DPO, DPOConfig
from harness.api import Batch, Needs, pair_gaps, token_mean


class SimPOConfig(DPOConfig):
    """Hyper-parameters of SimPO: DPO's pairs, and a target margin."""

    beta: float = Field(
        2.0,
        gt=0,
        description="Scale of the average log-probabilities (mostly 2.0 to 2.5 in arXiv 2405.14734).",
    )
    gamma_ratio: float = Field(
        0.5, ge=0, description="gamma / beta: the target margin of the averages (0.5: a start the authors advise)."
    )


class SimPO(DPO):
    """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6).

    With DPO's pairs and the mean log-probability ``m = log pi(y|x) / |y|`` of an answer's tokens, the loss of a pair is
    ``-log sigmoid(beta (m_w - m_l) - gamma)``. There is no reference model, so no reference passes.
    """

    Config = SimPOConfig
    title = "SimPO"
    summary = "DPO's pairs by average log-probability, without a reference (arXiv 2405.14734)."

    @property
    def needs(self) -> Needs:
        """As DPO, without a reference."""
        return replace(super().needs, reference=False)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        gap = pair_gaps(batch, token_mean(batch, batch.policy))
        logged = {"margin": gap.mean().item(), "accuracy": (gap > 0).float().mean().item()}
        return -F.logsigmoid(self.config.beta * (gap - self.config.gamma_ratio)), logged
