"""Direct preference optimisation on one pair of completions per prompt, fixed before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from harness.api import Algorithm, Batch, Completion, Group, Needs, Sample, StrictConfig, finite_rewards, pair_gaps


class DPOConfig(StrictConfig):
    """Hyper-parameters of DPO."""

    beta: float = Field(
        0.1,
        gt=0,
        description="Strength of the pull towards the reference model (0.1: arXiv 2305.18290, appendix B, and TRL; "
        "arXiv 2504.00883 does not state its value).",
    )
    pairs: Literal["ranked", "corrupted", "gold_vs_worst"] = Field(
        "ranked",
        description="Chosen and rejected: the starting model's best and worst completion by the reward that the other "
        "methods see (best and worst of n: arXiv 2405.14734, section 3); the gold answer and a corrupted copy of it "
        "(arXiv 2504.00883, section 3.3.5); or the gold answer and the starting model's worst completion (ours).",
    )
    rollouts: int = Field(
        8,
        ge=2,
        description="Completions of the starting model per prompt to choose pairs from; unused by corrupted (ours, as "
        "GRPO).",
    )


class DPO(Algorithm):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    It is offline, as in the paper: pairs never come from the policy in training. Those of ``ranked`` and
    ``gold_vs_worst`` have completions of the starting model, which are sampled once for each prompt, when it is first
    drawn, with random numbers that depend on the seed and the prompt alone; their cost is metered. Pairs of the current
    policy are ``online-dpo``.

    With the chosen completion ``w``, the rejected one ``l`` and the log-ratios ``h = log pi(y|x) - log pi_ref(y|x)``
    summed over tokens, the loss of a pair is ``-log sigmoid(beta * (h_w - h_l))``, without label smoothing. A prompt
    whose completions have equal rewards gives no pair. One pair is one unit.
    """

    Config: ClassVar[type[StrictConfig]] = DPOConfig
    title = "DPO"
    summary = "Offline DPO: pairs of the starting model's ranked or of corrupted answers (arXiv 2305.18290)."

    @property
    def needs(self) -> Needs:
        corrupted = self.config.pairs == "corrupted"
        return Needs(
            rollouts=0 if corrupted else self.config.rollouts,
            offline=not corrupted,
            gold=self.config.pairs != "ranked",
            corrupted=1 if corrupted else 0,
            reference=True,
            reduce="unit",
        )

    def pairs(self, group: Group) -> list[tuple[Completion, Completion]]:
        """Chosen and rejected completions of one prompt: one pair or none. Ties go to the first."""
        gold, corrupted, sampled = (group.by_source(source) for source in ("gold", "corrupted", "base"))
        if self.config.pairs == "corrupted":
            return list(zip(gold[:1], corrupted[:1], strict=False))
        return best_and_worst(sampled if self.config.pairs == "ranked" else gold, sampled)

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        pairs = [pair for group in groups for pair in self.pairs(group)]
        return [
            Sample(one, weight, unit)
            for unit, pair in enumerate(pairs)
            for one, weight in zip(pair, (1.0, -1.0), strict=True)
        ]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert batch.reference is not None  # needs.reference
        margin = self.config.beta * pair_gaps(batch, batch.seq(batch.policy - batch.reference))
        return -F.logsigmoid(margin), preference_metrics(margin)


def best_and_worst(better: Sequence[Completion], worse: Sequence[Completion]) -> list[tuple[Completion, Completion]]:
    """The best of some completions and the worst of others by reward, unless these are equal; ties go to the first."""
    if not better or not worse:
        return []
    finite_rewards((*better, *worse))
    chosen, rejected = max(better, key=lambda one: one.reward), min(worse, key=lambda one: one.reward)
    return [(chosen, rejected)] if chosen.reward > rejected.reward else []


def preference_metrics(margin: Tensor) -> dict[str, float]:
    """The mean margin of a batch's pairs, and the fraction of pairs that are in the right order."""
    return {"margin": margin.mean().item(), "accuracy": (margin > 0).float().mean().item()}
