"""IPO: DPO with a squared loss, so that consistent preferences do not push the policy without bound."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from algorithms.dpo import DPO, DPOConfig, preference_metrics
from harness.api import Batch, pair_gaps


class IPOConfig(DPOConfig):
    """Hyper-parameters of IPO: DPO's, where beta has another meaning."""

    beta: float = Field(
        0.1,
        gt=0,
        description="The paper's tau: a pair's gap is pulled to 1 / (2 beta) (0.1: TRL's default; paper: 0.1 to 1).",
    )
    average: Literal["token", "sum"] = Field(
        "token",
        description="Log-ratios are means over a completion's tokens (TRL; confirmed by the authors, it says), or sums "
        "(equation 17 as printed).",
    )


class IPO(DPO):
    """Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17).

    With DPO's pairs and log-ratios ``h``, averaged over each completion's tokens, the loss of a pair is
    ``(h_w - h_l - 1 / (2 beta))**2``.
    """

    Config = IPOConfig
    title = "IPO"
    summary = "DPO's pairs with a squared loss around a finite gap (arXiv 2310.12036)."

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert batch.reference is not None  # needs.reference
        ratios = batch.seq(batch.policy - batch.reference)
        gap = pair_gaps(batch, ratios / batch.lengths if self.config.average == "token" else ratios)
        return (gap - 1 / (2 * self.config.beta)) ** 2, preference_metrics(gap)
