"""Supervised fine-tuning: maximise the likelihood of the gold answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from harness.api import Algorithm, Batch, Group, Needs, Sample, StrictConfig


class SFTConfig(StrictConfig):
    """Hyper-parameters of supervised fine-tuning."""

    average: Literal["token", "sequence"] = Field(
        "token",
        description="Mean over all tokens of a step, so that long answers weigh more (the usual choice, TRL's "
        "too), or over each answer's tokens and then over answers, so that all answers weigh the same.",
    )


class SFT(Algorithm):
    """Maximum likelihood of the gold answers.

    The loss of a token is ``-log p(y_t | x, y_<t)``: cross-entropy with teacher forcing, the supervised stage of
    Ouyang et al. 2022 (arXiv 2203.02155, section 3.5) and the SFT baseline of arXiv 2504.00883, section 3.3.5
    (question to short answer). A batch holds completions only, so prompt tokens are never in the loss.
    """

    Config = SFTConfig
    title = "SFT"
    summary = "Supervised fine-tuning on the gold answers (arXiv 2504.00883, section 3.3.5)."

    @property
    def needs(self) -> Needs:
        return Needs(gold=True, reduce=self.config.average)

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        golds = [gold for group in groups for gold in group.by_source("gold")]
        return [Sample(gold, unit=index) for index, gold in enumerate(golds)]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        if self.config.average == "token":
            return -batch.policy, {}
        return -batch.seq(batch.policy) / batch.lengths, {}
