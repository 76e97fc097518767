"""The one training loop: every method goes through it, so that no method differs in anything but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from harness.api.algorithm import Algorithm
from harness.api.types import Group, Sample
from harness.data.encode import EncodedPrompt
from harness.engine.out_of_memory import AdaptiveBatchSize
from harness.seeds import seed_for
from harness.train.optimizer import set_learning_rate
from harness.train.reduction import denominator, make_batch, micro_batches, reduce_loss
from harness.train.run import TrainingError, TrainingRun

RESAMPLE_ROUNDS = 4
"""How often dropped prompts are replaced in one step before the step goes on with what it has."""


@dataclass
class Trainer(TrainingRun):
    """Trains one method on one seed until the budget is spent.

    Attributes:
        algorithm: The method.
    """

    algorithm: Algorithm = field(kw_only=True)

    def train(self) -> list[Path]:
        """Train to the end of the budget, resuming from the last whole checkpoint; return all checkpoints.

        Raises:
            TrainingError: A loss, gradient, reward or probability is not finite; the last checkpoint stays.
        """
        self.begin()
        # After the trackers: building transformers' arguments for them resets accelerate's shared state.
        self.accelerator = Accelerator(cpu=self.policy.device.type == "cpu")
        self._batch = AdaptiveBatchSize("training", self.settings.micro_batch)
        try:
            self._loop()
        finally:
            self.end()
        return self.checkpoints()

    def _loop(self) -> None:
        while not self.meter.spent:
            self.finish_step(self._step(self.step))

    # ------------------------------------------------------------------ one step

    def _step(self, step: int) -> dict[str, float]:
        consumed = self.meter.consumed
        seconds = consumed.seconds
        reuse = self.policy.activation_reuse(self.algorithm.needs, self.settings.updates_per_batch)
        with self.meter.clock(), reuse:
            passes, sampled = self._counts()
            try:
                prompts, groups, samples = self._experience(step)
            except FloatingPointError as error:
                raise TrainingError(f"{error} (at step {step + 1})") from error
            numbers = describe_groups(groups)
            for repeat in range(self.settings.updates_per_batch if samples else 0):
                torch.manual_seed(seed_for(self.seed, "update", step, repeat))
                numbers |= self._update(samples, prompts, step)
            after = self._counts()
        used = {"passes": after[0] - passes, "tokens": after[1] - sampled, "seconds": consumed.seconds - seconds}
        used = self.ranks.total(used)
        consumed.steps += 1
        consumed.seconds = seconds + used["seconds"]
        consumed.forward_passes += int(used["passes"])
        consumed.tokens_sampled += int(used["tokens"])
        return {"examples": float(consumed.examples), "samples": float(len(samples)), **numbers}

    def _counts(self) -> tuple[int, int]:
        policies = {id(policy): policy for policy in (self.policy, self.groups.reference)}
        videos = {id(policy.video): policy.video for policy in policies.values()}
        passes = sum(p.forward_passes for p in policies.values()) + sum(v.passes for v in videos.values())
        return passes, getattr(self.groups.sampler, "tokens_sampled", 0)

    def _experience(self, step: int) -> tuple[dict[str, EncodedPrompt], list[Group], list[Sample]]:
        """Draw prompts, build groups, let the method choose; replace dropped prompts if it asks for that."""
        prompts: dict[str, EncodedPrompt] = {}
        groups: list[Group] = []
        samples: list[Sample] = []
        wanted = self.settings.prompts_per_step
        for round_number in range(RESAMPLE_ROUNDS if self.algorithm.needs.resample_dropped else 1):
            drawn = list(enumerate(self._next_records(wanted)))
            if not drawn:
                break
            mine, built = self._share(drawn, step * RESAMPLE_ROUNDS + round_number)
            prompts |= mine
            groups += built
            samples = list(self.algorithm.experience(groups))
            kept = {sample.completion.prompt_id for sample in samples}
            wanted = self.settings.prompts_per_step - sum(group.prompt_id in kept for group in groups)
            if wanted <= 0:
                break
        return prompts, groups, samples

    def _share(self, drawn: Sequence[tuple[int, int]], draw: int) -> tuple[dict[str, EncodedPrompt], list[Group]]:
        """This rank's prompts, and the groups of all; a prompt drawn twice belongs to the first rank that drew it."""
        share = self.ranks.share(drawn)
        prompts = [self.prompts(index) for _, index in share]
        if prompts:
            self.check(prompts[0])
        groups = self.ranks.gather(self.groups.build(prompts, draw, [place for place, _ in share]) if prompts else [])
        owner: dict[str, int] = {}
        for place, group in enumerate(groups):
            owner.setdefault(group.prompt_id, place % self.ranks.size)
        return {prompt.id: prompt for prompt in prompts if owner[prompt.id] == self.ranks.rank}, groups

    def _update(self, samples: Sequence[Sample], prompts: dict[str, EncodedPrompt], step: int) -> dict[str, float]:
        """One optimiser step."""
        rate = set_learning_rate(self.optimizer, self.settings, self.meter.consumed.updates)
        self.policy.model.train()
        trained = [parameter for parameter in self.policy.model.parameters() if parameter.requires_grad]
        numbers = self.ranks.total(self._batch.run(lambda size: self._gradient(samples, prompts, step, size)))
        self.ranks.add_gradients(trained)
        norm = self.accelerator.clip_grad_norm_(trained, self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient norm is {norm.item()} at step {step + 1}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.model.eval()
        self.meter.consumed.updates += 1
        self.meter.consumed.tokens_trained += sum(len(one.completion.tokens) for one in samples)
        return {**numbers, "grad_norm": float(norm), "learning_rate": rate}

    def _gradient(
        self, samples: Sequence[Sample], prompts: dict[str, EncodedPrompt], step: int, size: int
    ) -> dict[str, float]:
        """The gradient of this rank's prompts, from zero; what it is divided by is known beforehand and counts the
        whole step, so that neither micro-batches nor ranks change it.
        """
        needs = self.algorithm.needs
        total = denominator(samples, needs)
        self.optimizer.zero_grad(set_to_none=True)
        logged: dict[str, float] = {"loss": 0.0}
        with self.policy.gradient_of_a_step():
            for part in micro_batches([one for one in samples if one.completion.prompt_id in prompts], size):
                loss, numbers = self._backward(part, prompts, total, step)
                for key, value in numbers.items():
                    logged[key] = logged.get(key, 0.0) + value * len(part) / len(samples)
                logged["loss"] += loss
        return logged

    def _backward(
        self, part: Sequence[Sample], prompts: dict[str, EncodedPrompt], total: float, step: int
    ) -> tuple[float, dict[str, float]]:
        """Forward and backward pass of a micro-batch; none of its graph stays."""
        values, mask = self.policy.log_probs(
            [prompts[one.completion.prompt_id] for one in part],
            [one.completion.tokens for one in part],
            self.groups.temperature,
        )
        batch = make_batch(part, values, mask, self.algorithm.needs)
        unreduced, numbers = self.algorithm.loss(batch)
        loss = reduce_loss(unreduced, batch, self.algorithm.needs, total)
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {step + 1}")
        self.accelerator.backward(loss)
        return loss.item(), numbers


def describe_groups(groups: Sequence[Group]) -> dict[str, float]:
    """What a reader wants to see of the sampled answers: reward, its parts, length, truncation, zero variance."""
    sampled = [one for group in groups for one in group.by_source("policy")]
    if not sampled:
        return {}
    numbers = {
        "reward": float(np.mean([one.reward for one in sampled])),
        "length": float(np.mean([len(one.tokens) for one in sampled])),
        "truncated": float(np.mean([one.truncated for one in sampled])),
        "zero_variance": float(
            np.mean([len({one.reward for one in group.by_source("policy")}) == 1 for group in groups])
        ),
    }
    for name in sorted({name for one in sampled for name in one.parts}):
        numbers[f"reward_{name}"] = float(np.mean([one.parts[name] for one in sampled if name in one.parts]))
    return numbers
