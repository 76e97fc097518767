"""KTO: completions that are desirable or undesirable in themselves, without pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from harness.api import Algorithm, Batch, Group, Needs, Sample, StrictConfig, finite_rewards


class KTOConfig(StrictConfig):
    """Hyper-parameters of KTO."""

    beta: float = Field(0.1, gt=0, description="How quickly gains and losses saturate (0.1: arXiv 2402.01306, TRL).")
    threshold: float = Field(
        0.5, ge=0, description="Completions of at least this reward are desirable, others undesirable (ours)."
    )
    desirable_weight: float = Field(1.0, gt=0, description="lambda_D, weight of desirable completions (1: the paper).")
    undesirable_weight: float = Field(
        1.0,
        gt=0,
        description="lambda_U, weight of undesirable completions (1: the paper, which advises balancing the two "
        "when one kind is rare).",
    )
    rollouts: int = Field(8, ge=1, description="Completions sampled per prompt (ours, as GRPO).")


class KTO(Algorithm):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, section 4).

    With the log-ratio ``h = log pi(y|x) - log pi_ref(y|x)`` of a completion, the loss is
    ``lambda_D (1 - sigmoid(beta (h - z)))`` if it is desirable, else ``lambda_U (1 - sigmoid(beta (z - h)))``. The
    reference point ``z`` estimates KL(pi || pi_ref) and gets no gradient: the mean of ``h`` over the step's sampled
    completions at sampling, at least 0. (The paper, whose completions are not the policy's own, takes mismatched
    ones instead.) It is computed in ``experience``, so micro-batches cannot change it.
    """

    Config = KTOConfig
    title = "KTO"
    summary = "Desirable and undesirable completions without pairs, against a KL reference point (arXiv 2402.01306)."
    exempt_checks: ClassVar[Mapping[str, str]] = {
        "contrast": "a completion is good or bad in itself, not relative to the others"
    }

    @property
    def needs(self) -> Needs:
        return Needs(rollouts=self.config.rollouts, reference=True, behaviour=True, reduce="sequence")

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        completions = [one for group in groups for one in group.by_source("policy")]
        if not completions:
            return []
        drift = sum(sum(one.behaviour) - sum(one.reference) for one in completions) / len(completions)
        good, bad = self.config.desirable_weight, -self.config.undesirable_weight
        return [
            Sample(one, good if reward >= self.config.threshold else bad, index, {"z": max(0.0, drift)})
            for index, (one, reward) in enumerate(zip(completions, finite_rewards(completions), strict=True))
        ]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert batch.reference is not None  # needs.reference
        gain = batch.seq(batch.policy - batch.reference) - batch.extras["z"]
        value = torch.sigmoid(self.config.beta * batch.weight.sign() * gain)
        logged = {"kl": batch.extras["z"].mean().item(), "desirable": (batch.weight > 0).float().mean().item()}
        return batch.weight.abs() * (1 - value), logged
