"""The built-in methods keep the contract, two methods of another kind keep it, and planted bugs do not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.sft import SFT
from algorithms.t_grpo import TGRPO
from harness.api import Algorithm, Batch, Group, Needs, Sample, StrictConfig, UserError
from harness.api.testing import Check, check_algorithm, checks_for, parametrize_with_checks


class RLOOConfig(StrictConfig):
    group_size: int = Field(4, ge=2, description="Answers a prompt; ours.")


class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline (arXiv 2402.14740, section 3)."""

    Config = RLOOConfig
    summary = "REINFORCE, leave one out."

    @property
    def needs(self) -> Needs:
        return Needs(rollouts=self.config.group_size)

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        samples = []
        for group in groups:
            total, others = sum(one.reward for one in group.completions), len(group.completions) - 1
            samples += [Sample(one, one.reward - (total - one.reward) / others) for one in group.completions]
        return [replace(sample, unit=index) for index, sample in enumerate(samples)]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return -batch.weight * batch.seq(batch.policy), {}


class KTOConfig(StrictConfig):
    beta: float = Field(0.1, gt=0, description="Strength of the reference (arXiv 2402.01306).")
    rollouts: int = Field(4, ge=1, description="Answers a prompt; ours.")


class KTO(Algorithm):
    """Unpaired preferences (arXiv 2402.01306, equation 8); the KL baseline is fixed with the experience."""

    Config = KTOConfig
    summary = "Unpaired preferences."
    exempt_checks = {"contrast": "a completion is good or bad in itself, not relative to the others"}  # noqa: RUF012

    @property
    def needs(self) -> Needs:
        return Needs(rollouts=self.config.rollouts, reference=True, behaviour=True)

    def experience(self, groups: Sequence[Group]) -> list[Sample]:
        done = [one for group in groups for one in group.completions]
        baseline = max(0.0, sum(sum(one.behaviour) - sum(one.reference) for one in done) / len(done))
        signs = [1.0 if one.reward >= 0.5 else -1.0 for one in done]
        return [Sample(one, sign, i, {"z": baseline}) for i, (one, sign) in enumerate(zip(done, signs, strict=True))]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert batch.reference is not None
        gain = batch.seq(batch.policy - batch.reference) - batch.extras["z"]
        return 1 - torch.sigmoid(self.config.beta * batch.weight * gain), {"gain": gain.mean().item()}


METHODS = [
    SFT,
    SFT(SFT.Config(average="sequence")),
    DPO,
    DPO(DPO.Config(pairs="corrupted")),
    DPO(DPO.Config(pairs="gold_vs_worst", rollouts=2)),
    GRPO,
    GRPO(GRPO.Config(beta=0.0)),
    GRPO(GRPO.Config(beta=0.0, loss_type="token")),
    GRPO(GRPO.Config(loss_type="token", group_size=14)),
    GRPO(GRPO.Config(loss_type="dr_grpo")),
    RLOO,
    KTO,
]


@parametrize_with_checks(METHODS)
def test_methods_keep_the_contract(check: Check) -> None:
    result = check.run()
    assert result.passed, result.message


# ------------------------------------------------------------------ planted bugs


class BatchMean(SFT):
    def loss(self, batch):
        return super().loss(batch)[0].mean(), {}


class HiddenBatchMean(RLOO):
    def loss(self, batch):
        return super().loss(batch)[0] / len(batch.weight), {}


class NormalisedInLoss(RLOO):
    def loss(self, batch):
        return super().loss(replace(batch, weight=batch.weight - batch.weight.mean()))


class FlippedLoss(GRPO):
    def loss(self, batch):
        loss, logged = super().loss(batch)
        return -loss, logged


class FlippedPairs(DPO):
    def pairs(self, group):
        return [pair[::-1] for pair in super().pairs(group)]


class FlippedAdvantage(GRPO):
    def advantages(self, rewards):
        return [-advantage for advantage in super().advantages(rewards)]


class IgnoredMask(RLOO):
    def loss(self, batch):
        return -batch.weight * batch.policy.sum(-1), {}


class WidthForLength(GRPO):
    def loss(self, batch):
        return (self.per_token(batch)[0] * batch.mask).mean(-1), {}


class ShiftedTokens(SFT):
    def loss(self, batch):
        return -batch.policy.roll(1, -1), {}


class AdvantageOverBatch(GRPO):
    def experience(self, groups):
        everything = Group("all", tuple(one for group in groups for one in group.completions))
        return super().experience([everything])


class NoBaseline(RLOO):
    def experience(self, groups):
        return [replace(sample, weight=sample.completion.reward) for sample in super().experience(groups)]


class GradientThroughReference(GRPO):
    def loss(self, batch):
        assert batch.reference is not None
        return super().loss(replace(batch, reference=batch.reference + batch.policy - batch.policy.detach()))


class PolicyForReference(GRPO):
    def loss(self, batch):
        return super().loss(replace(batch, reference=batch.policy))


class PolicyForBehaviour(GRPO):
    def loss(self, batch):
        return super().loss(replace(batch, behaviour=batch.policy.detach()))


class DetachedPolicy(RLOO):
    def loss(self, batch):
        return -batch.weight * batch.seq(batch.policy.detach()), {}


class EditedBatch(RLOO):
    def loss(self, batch):
        batch.weight.clamp_(-0.1, 0.1)
        return super().loss(batch)


class EditedPolicy(RLOO):
    def loss(self, batch):
        batch.policy.mul_(batch.mask).mul_(2.0)
        return super().loss(batch)


class EditedGroups(RLOO):
    def experience(self, groups):
        for group in groups:
            group.completions[0].parts["bonus"] = 1.0
        return super().experience(groups)


class DroppedGroups(RLOO):
    def experience(self, groups):
        groups.pop()
        return super().experience(groups)


class PairsByPlace(DPO):
    def loss(self, batch):
        gap = batch.seq(batch.policy - batch.reference)
        return -torch.nn.functional.logsigmoid(self.config.beta * (gap[0::2] - gap[1::2])), {}


class Counting(RLOO):
    calls = itertools.count()

    def experience(self, groups):
        noise = 0.01 * next(self.calls)
        return [replace(sample, weight=sample.weight + noise) for sample in super().experience(groups)]


class LooseConfig(StrictConfig, extra="ignore"):
    group_size: int = Field(4, ge=2, description="Answers a prompt; ours.")


class Loose(RLOO):
    """Takes any key."""

    Config = LooseConfig


class ForeignConfig(BaseModel):
    group_size: int = 4


class Foreign(RLOO):
    """Has a configuration of its own kind."""

    Config = ForeignConfig


class SilentConfig(StrictConfig):
    group_size: int = Field(4, ge=2)


class Silent(RLOO):
    """Does not say what its field means."""

    Config = SilentConfig


class BoundlessConfig(StrictConfig):
    group_size: int = Field(4, description="Answers a prompt; ours.")


class Boundless(RLOO):
    """Accepts -1."""

    Config = BoundlessConfig


class WrongShape(RLOO):
    def loss(self, batch):
        return -batch.weight[:, None] * batch.policy, {}


class Undeclared(KTO):
    @property
    def needs(self):
        return replace(super().needs, reference=False)


class ForeignTokens(RLOO):
    def experience(self, groups):
        samples = super().experience(groups)
        return [replace(one, completion=replace(one.completion, tokens=(1, 2, 3))) for one in samples]


class TrainsOnShuffled(TGRPO):
    def experience(self, groups):
        return [Sample(one, 1.0, unit=i) for i, group in enumerate(groups) for one in group.completions]


class EmptyHanded(RLOO):
    def experience(self, groups):
        return []


class LogsTensors(RLOO):
    def loss(self, batch):
        return super().loss(batch)[0], {"weight": batch.weight.mean()}


class NothingNeeded(RLOO):
    @property
    def needs(self):
        return Needs()


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (BatchMean, "loss", "shape (), expected"),
        (HiddenBatchMean, "micro-batches", "average"),
        (NormalisedInLoss, "micro-batches", "in `experience`"),
        (FlippedLoss, "direction", "sign flipped"),
        (FlippedPairs, "direction", "sign flipped"),
        (FlippedAdvantage, "direction", "bad minus good"),
        (IgnoredMask, "padding", "mask ignored"),
        (WidthForLength, "padding", "batch.lengths"),
        (ShiftedTokens, "padding", "mask ignored"),
        (AdvantageOverBatch, "contrast", "over the batch instead of the prompt's group"),
        (NoBaseline, "contrast", "or missing"),
        (GradientThroughReference, "reference", "gradient flow through it"),
        (PolicyForReference, "reference", "batch.policy used in its place"),
        (PolicyForBehaviour, "reference", "batch.behaviour"),
        (DetachedPolicy, "loss", "without gradient"),
        (EditedBatch, "batch-unchanged", "batch.weight"),
        (EditedPolicy, "batch-unchanged", "batch.policy"),
        (EditedGroups, "groups-unchanged", "dataclasses.replace"),
        (DroppedGroups, "groups-unchanged", "dataclasses.replace"),
        (PairsByPlace, "order", "by their position"),
        (Counting, "determinism", "counter"),
        (Loose, "config", "unknown keys"),
        (Foreign, "config", "StrictConfig"),
        (Silent, "documentation", "`group_size` has no description"),
        (Boundless, "documentation", "`group_size` has no range"),
        (WrongShape, "loss", "one number a sample"),
        (Undeclared, "loss", "raises"),
        (ForeignTokens, "experience", "none of the groups"),
        (TrainsOnShuffled, "experience", "a completion for shuffled frames"),
        (EmptyHanded, "experience", "dropped every group"),
        (LogsTensors, "loss", "log finite Python numbers"),
        (NothingNeeded, "needs", "no completions"),
    ],
)
def test_planted_bugs_are_caught(method: type[Algorithm], check: str, words: str) -> None:
    failed = {result.name: result.message for result in check_algorithm(method) if not result.passed}
    assert check in failed, f"caught only by {failed}"
    assert words in failed[check]


def test_each_planted_bug_is_the_only_difference() -> None:
    """The methods that the bugs were planted in pass, so it is the bug that is caught."""
    for method in (SFT, DPO, GRPO, RLOO, KTO):
        assert all(result.passed for result in check_algorithm(method))


# ------------------------------------------------------------------ the suite itself


def test_abstract_method_is_one_clear_failure() -> None:
    class Half(Algorithm):
        """No loss."""

        @property
        def needs(self) -> Needs:
            return Needs(gold=True)

        def experience(self, groups: Sequence[Group]) -> list[Sample]:
            return []

    (result,) = check_algorithm(Half)
    assert result.name == "construction" and not result.passed
    assert "abstract" in result.message and "loss" in result.message


def test_exemptions_are_named_and_known() -> None:
    results = {result.name: result for result in check_algorithm(KTO)}
    assert results["contrast"].message == "exempt: a completion is good or bad in itself, not relative to the others"

    class Typo(KTO):
        exempt_checks = {"contrasts": "?"}  # noqa: RUF012

    with pytest.raises(UserError, match="did you mean contrast"):
        checks_for(Typo)


def test_only_methods_are_checked() -> None:
    with pytest.raises(UserError, match="not a subclass"):
        checks_for(dict)  # type: ignore[arg-type]


def test_the_given_configuration_is_the_one_checked() -> None:
    results = {result.name: result for result in check_algorithm(GRPO, GRPO.Config(beta=0.0, group_size=2))}
    assert all(result.passed for result in results.values())
    by_instance = {check.subject.config.beta for check in checks_for(GRPO(GRPO.Config(beta=0.5)))}
    assert by_instance == {0.5}


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check_algorithm(GRPO)
    assert torch.equal(torch.rand(1), expected)
