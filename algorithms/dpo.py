"""Direct preference optimisation on one pair of answers a prompt."""

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
        description="Strength of the pull to the reference model (0.1: arXiv 2305.18290, appendix B, and TRL; "
        "arXiv 2504.00883 does not give its value).",
    )
    pairs: Literal["ranked", "altered", "gold_vs_worst"] = Field(
        "ranked",
        description="Chosen against rejected: best against worst sampled answer by reward, so that DPO sees the same "
        "reward as the other methods (ours); gold against the gold answer altered into a wrong one (arXiv 2504.00883, "
        "section 3.3.5); or gold against the worst sampled answer (ours).",
    )
    rollouts: int = Field(
        8, ge=2, description="Answers sampled a prompt to take pairs from; unused by altered. As GRPO's group; ours."
    )


class DPO(Algorithm):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    With chosen answer ``w``, rejected answer ``l`` and the log-ratios ``h = log pi(y|x) - log pi_ref(y|x)`` summed
    over the answer's tokens, the loss of a pair is ``-log sigmoid(beta * (h_w - h_l))``, without label smoothing.
    A prompt whose answers do not differ in reward gives no pair. One pair is one unit.
    """

    Config: ClassVar[type[StrictConfig]] = DPOConfig
    summary = "Direct preference optimisation on ranked or altered answers (arXiv 2305.18290)."

    @property
    def needs(self) -> Needs:
        altered = self.config.pairs == "altered"
        return Needs(
            rollouts=0 if altered else self.config.rollouts,
            gold=self.config.pairs != "ranked",
            altered=1 if altered else 0,
            reference=True,
            reduce="unit",
        )

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        samples = []
        for unit, group in enumerate(groups):
            pair = self._pair(group)
            if pair is not None:
                chosen, rejected = pair
                samples += [Sample(chosen, 1.0, unit), Sample(rejected, -1.0, unit)]
        return samples

    def _pair(self, group: Group) -> tuple[Completion, Completion] | None:
        """The chosen and the rejected completion; None when none is better. Of equals the first is taken."""
        gold, altered, sampled = (group.by_source(source) for source in ("gold", "altered", "policy"))
        if self.config.pairs == "altered":
            return (gold[0], altered[0]) if gold and altered else None
        better = sampled if self.config.pairs == "ranked" else gold
        if not better or not sampled:
            return None
        finite_rewards((*better, *sampled))
        chosen, rejected = max(better, key=lambda one: one.reward), min(sampled, key=lambda one: one.reward)
        return (chosen, rejected) if chosen.reward > rejected.reward else None

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert batch.reference is not None  # needs.reference
        margin = self.config.beta * pair_gaps(batch, batch.seq(batch.policy - batch.reference))
        logged = {"margin": margin.mean().item(), "accuracy": (margin > 0).float().mean().item()}
        return -F.logsigmoid(margin), logged
