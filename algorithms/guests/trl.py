"""TRL's own SFT, DPO and GRPO trainers as methods of a study: ``--methods grpo,trl-grpo``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from algorithms.dpo import DPO, DPOConfig
from algorithms.guests.trl_video import grpo_trainer, require_trl
from harness.api import GuestTrainer, Needs, StrictConfig
from harness.data.encode import EncodedPrompt
from harness.train.run import TrainingRun
from harness.train.tracking import MISSED
from harness.train.trainer import describe_groups

if TYPE_CHECKING:
    from algorithms.guests.trl_steps import EngineSteps, Row


class TRLTrainer(GuestTrainer[TrainingRun]):
    """What the three trainers share."""

    remarks: ClassVar[Sequence[str]] = (
        "loop, forward passes and loss are TRL's: each completion is a row of its own, so prompt and video are encoded "
        "again for every completion",
    )

    def versions(self) -> Mapping[str, str]:
        require_trl()
        return {"trl": version("trl"), "transformers": version("transformers")}

    def train(self, run: TrainingRun) -> None:
        from algorithms.guests import trl_steps

        trl_steps.refuse_unlike(run, reference=self.needs.reference)
        run.begin()
        try:
            if not run.meter.spent:
                steps = trl_steps.EngineSteps(run)
                trl_steps.train(self.trainer(steps), steps)
        finally:
            run.end()

    @abstractmethod
    def trainer(self, steps: EngineSteps) -> Any:
        """TRL's trainer for the run's model, which takes its data from ``steps``."""


class TRLSFTConfig(StrictConfig):
    """Options of ``trl.SFTConfig``."""

    loss_type: Literal["nll", "dft"] = Field(
        "nll", description="Negative log-likelihood (TRL's default), or dynamic fine-tuning (arXiv 2508.05629)."
    )


class TRLSFT(TRLTrainer):
    """``trl.SFTTrainer`` on the gold answers, with video; the loss is a mean over a step's tokens, as in ``sft``."""

    Config: ClassVar[type[StrictConfig]] = TRLSFTConfig
    title = "TRL SFT"
    counterpart = "sft"
    summary = "TRL 1.16's own SFT trainer, with video."

    @property
    def needs(self) -> Needs:
        return Needs(gold=True, reduce="token")

    def trainer(self, steps: EngineSteps) -> Any:
        from trl import SFTConfig, SFTTrainer

        def rows() -> list[list[Row]]:
            prompts, groups = steps.open_with_groups()
            given = [(p, gold) for p, group in zip(prompts, groups, strict=True) for gold in group.by_source("gold")]
            return split(given, parts)

        parts = micro_batches(steps.run, rows_a_prompt=1)
        options = {"loss_type": self.config.loss_type, "dataset_kwargs": {"skip_prepare_dataset": True}}
        return steps.build(SFTTrainer, SFTConfig, parts, rows, options, by_token=True)


class TRLDPOConfig(DPOConfig):
    """Hyper-parameters of ``dpo``, and those of ``trl.DPOConfig``."""

    loss_type: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid", description="sigmoid is DPO (TRL's default); IPO (arXiv 2310.12036); hinge (arXiv 2305.10425)."
    )


class TRLDPO(TRLTrainer):
    """``trl.DPOTrainer``, with video, on the pairs that ``dpo`` would choose.

    TRL's DPO does not sample: the engine samples and scores completions of the starting model and chooses pairs as
    ``dpo`` does, so both see the same pairs.
    """

    Config: ClassVar[type[StrictConfig]] = TRLDPOConfig
    title = "TRL DPO"
    counterpart = "dpo"
    summary = "TRL 1.16's own DPO trainer, with video, on the engine's pairs."
    remarks: ClassVar[Sequence[str]] = (
        *TRLTrainer.remarks,
        "completions are sampled by the engine",
    )

    @property
    def needs(self) -> Needs:
        return self._dpo.needs

    @property
    def _dpo(self) -> DPO:
        return DPO(DPOConfig(**self.config.model_dump(exclude={"loss_type"})))

    def trainer(self, steps: EngineSteps) -> Any:
        from trl import DPOConfig as Options
        from trl import DPOTrainer

        def rows() -> list[list[Row]]:
            """Chosen completions first, then the rejected ones in the same order, as in TRL's collator."""
            drawn, groups = steps.open_with_groups()
            prompts = {prompt.id: prompt for prompt in drawn}
            steps.numbers |= describe_groups(groups)
            rows = [(prompts[one.completion.prompt_id], one.completion) for one in dpo.experience(groups)]
            pairs = list(zip(rows[::2], rows[1::2], strict=True))
            return [[*(c for c, _ in part), *(r for _, r in part)] for part in split(pairs, parts)]

        dpo, parts = self._dpo, micro_batches(steps.run, rows_a_prompt=2)
        steps.sampled = lambda: steps.run.groups.tokens_sampled
        options = {"loss_type": [self.config.loss_type], "beta": self.config.beta}
        return steps.build(DPOTrainer, Options, parts, rows, options, by_token=False)


class TRLGRPOConfig(StrictConfig):
    """Options of ``trl.GRPOConfig``; the defaults come as close to ``grpo`` as TRL can."""

    group_size: int = Field(8, ge=2, description="Completions per prompt: TRL's num_generations (TRL: 8).")
    beta: float = Field(1e-4, ge=0, description="Weight of the KL penalty (arXiv 2504.00883: 1e-4; TRL: 0).")
    epsilon: float = Field(0.2, ge=0, lt=1, description="The ratio is clipped below at 1 - epsilon (TRL: 0.2).")
    epsilon_high: float = Field(0.2, ge=0, description="The ratio is clipped above at 1 + epsilon_high (TRL: epsilon).")
    loss_type: Literal["grpo", "dapo", "bnpo", "dr_grpo"] = Field(
        "grpo", description="How token losses are averaged (TRL: dapo; arXiv 2402.03300 and `grpo` here: grpo)."
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="Divide advantages by the standard deviation in the group (TRL's default) or step, or not."
    )
    use_bias_correction_kl: bool = Field(
        False, description="Multiply the KL penalty by the ratio (TRL: true; arXiv 2402.03300 and `grpo` here: false)."
    )


class TRLGRPO(TRLTrainer):
    """``trl.GRPOTrainer`` with its own sampling, repaired so that its loss sees the video."""

    Config: ClassVar[type[StrictConfig]] = TRLGRPOConfig
    title = "TRL GRPO"
    counterpart = "grpo"
    summary = "TRL 1.16's own GRPO trainer and sampling, video repaired."
    remarks: ClassVar[Sequence[str]] = (
        *TRLTrainer.remarks,
        "completions are sampled by TRL, with random numbers of its own",
    )

    @property
    def needs(self) -> Needs:
        return Needs(rollouts=self.config.group_size, behaviour=True, reference=self.config.beta > 0)

    def trainer(self, steps: EngineSteps) -> Any:
        run, size = steps.run, self.config.group_size
        prompts, rollout = run.settings.prompts_per_step, run.groups.rollout
        rows = prompts * size
        batch = max(part for part in range(1, rows + 1) if rows % part == 0 and part <= run.settings.micro_batch)

        missed: list[bool] = []

        def reward(text: str, prompt: EncodedPrompt) -> float:
            scored = run.groups.rewards.score(text, prompt.record, run.groups.mode)
            missed.append(scored.missed)
            steps.numbers[MISSED] = float(np.mean(missed))
            return scored.total

        trainer = grpo_trainer(
            run.policy,
            lambda place: steps.prompts[int(place)],
            [str(place) for place in range(prompts)],
            reward,
            steps.arguments(rows // batch)
            | self.config.model_dump(exclude={"group_size"})
            | {
                "per_device_train_batch_size": batch,
                "num_generations": size,
                "max_completion_length": rollout.max_new_tokens,
                "temperature": rollout.temperature,
                "shuffle_dataset": False,
            },
        )
        fetch = trainer.get_batch_samples

        def opened(*arguments: Any) -> Any:
            steps.open()
            missed.clear()
            steps.numbers["samples"] = rows
            return fetch(*arguments)

        trainer.get_batch_samples = opened
        steps.sampled = lambda: trainer.tokens_sampled
        return trainer


def micro_batches(run: TrainingRun, rows_a_prompt: int) -> int:
    """Number of micro-batches per step."""
    return -(-run.settings.prompts_per_step // max(1, run.settings.micro_batch // rows_a_prompt))


def split(items: Sequence[Any], parts: int) -> list[list[Any]]:
    """Consecutive parts of about equal size; some are empty if there are too few items."""
    return [[items[index] for index in part] for part in np.array_split(np.arange(len(items)), parts)]
