"""The training loop that every method shares, so that methods differ in nothing but themselves.

The life of a step, :meth:`Trainer._step`, in order:

1. ``TrainingRun.next_records`` draws records, and ``TrainingRun.prompts`` encodes each as an ``EncodedPrompt``.
2. ``GroupBuilder.build`` makes a ``Group`` of each prompt: completions from ``Sampler.sample`` (the rollout), gold and
   corrupted answers as the method needs them, rewards from ``WeightedRewards.score``, reference log-probabilities.
3. ``Ranks.gather`` hands every rank the groups of all.
4. ``Algorithm.experience`` turns groups into ``Sample`` objects (advantages, pairs); prompts that it drops may be
   replaced by new ones.
5. ``micro_batches`` splits the samples. For each micro-batch ``Policy.log_probs`` computes the per-token
   log-probabilities, ``make_batch`` the ``Batch``, ``Algorithm.loss`` the unreduced loss; ``reduce_loss`` sums it and
   divides by the ``denominator`` of the whole step; the backward pass adds to the gradient.
6. ``Ranks.add_gradients`` sums the gradients of all ranks; they are clipped, and the optimiser takes its step.
7. ``BudgetMeter`` counts what was consumed; ``TrainingRun.finish_step`` logs the step and writes a checkpoint when due.

When memory runs out in 5, ``AdaptiveBatchSize`` repeats it with smaller micro-batches. Steps 5 and 6 are repeated
``train.updates_per_batch`` times.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from harness.train.tracking import MISSED

RESAMPLE_ROUNDS = 4
"""How often dropped prompts are replaced in one step; after that the step continues with what it has."""


class Trainer:
    """Trains a method in a run.

    Args:
        run: Model, data, settings, budget, checkpoints.
        algorithm: The method.
    """

    def __init__(self, run: TrainingRun, algorithm: Algorithm) -> None:
        self.run = run
        self.algorithm = algorithm

    def train(self) -> list[Path]:
        """Train to the end of the budget, resuming from the last whole checkpoint; return all checkpoints.

        Raises:
            TrainingError: A loss, gradient, reward or probability is not finite; the last checkpoint stays.
        """
        self.run.begin()
        # After the trackers: building transformers' arguments for them resets accelerate's shared state.
        self.accelerator = Accelerator(cpu=self.run.policy.device.type == "cpu")
        self._batch = AdaptiveBatchSize("training", self.run.settings.micro_batch)
        try:
            self._loop()
        finally:
            self.run.end()
        return self.run.checkpoints()

    def _loop(self) -> None:
        while not self.run.meter.spent:
            self.run.finish_step(self._step(self.run.step))

    # ------------------------------------------------------------------ one step

    def _step(self, step: int) -> dict[str, float]:
        run, consumed = self.run, self.run.meter.consumed
        seconds = consumed.seconds
        updates = run.settings.updates_per_batch
        with run.meter.clock(), run.policy.activation_reuse(self.algorithm.needs, updates):
            passes, sampled = self._counts()
            try:
                prompts, groups, samples = self._experience(step)
            except FloatingPointError as error:
                raise TrainingError(f"{error} (at step {step + 1})") from error
            numbers = describe_groups(groups)
            for repeat in range(updates if samples else 0):
                torch.manual_seed(seed_for(run.seed, "update", step, repeat))
                numbers |= self._update(samples, prompts, step)
            after = self._counts()
        used = {"passes": after[0] - passes, "tokens": after[1] - sampled, "seconds": consumed.seconds - seconds}
        used = run.ranks.total(used)
        consumed.steps += 1
        consumed.seconds = seconds + used["seconds"]
        consumed.forward_passes += int(used["passes"])
        consumed.tokens_sampled += int(used["tokens"])
        return {"examples": float(consumed.examples), "samples": float(len(samples)), **numbers}

    def _counts(self) -> tuple[int, int]:
        """Forward passes of policy and reference, and tokens sampled so far."""
        groups = self.run.groups
        policies = {id(policy): policy for policy in (self.run.policy, groups.reference)}
        videos = {id(policy.video): policy.video for policy in policies.values()}
        passes = sum(p.forward_passes for p in policies.values()) + sum(v.passes for v in videos.values())
        return passes, groups.tokens_sampled

    def _experience(self, step: int) -> tuple[dict[str, EncodedPrompt], list[Group], list[Sample]]:
        """Draw prompts, build groups, let the method choose; replace dropped prompts if it asks for that."""
        prompts: dict[str, EncodedPrompt] = {}
        groups: list[Group] = []
        samples: list[Sample] = []
        wanted = self.run.settings.prompts_per_step
        for round_number in range(RESAMPLE_ROUNDS if self.algorithm.needs.resample_dropped else 1):
            drawn = list(enumerate(self.run.next_records(wanted)))
            if not drawn:
                break
            mine, built = self._share(drawn, step * RESAMPLE_ROUNDS + round_number)
            prompts |= mine
            groups += built
            samples = list(self.algorithm.experience(groups))
            kept = {sample.completion.prompt_id for sample in samples}
            wanted = self.run.settings.prompts_per_step - sum(group.prompt_id in kept for group in groups)
            if wanted <= 0:
                break
        return prompts, groups, samples

    def _share(self, drawn: Sequence[tuple[int, int]], draw: int) -> tuple[dict[str, EncodedPrompt], list[Group]]:
        """This rank's prompts, and the groups of all; a prompt drawn twice belongs to the first rank that drew it."""
        run = self.run
        share = run.ranks.share(drawn)
        prompts = [run.prompts(index) for _, index in share]
        if prompts:
            run.check(prompts[0])
        groups = run.ranks.gather(run.groups.build(prompts, draw, [place for place, _ in share]) if prompts else [])
        run.groups.keep(groups)
        owner: dict[str, int] = {}
        for place, group in enumerate(groups):
            owner.setdefault(group.prompt_id, place % run.ranks.size)
        return {prompt.id: prompt for prompt in prompts if owner[prompt.id] == run.ranks.rank}, groups

    def _update(self, samples: Sequence[Sample], prompts: dict[str, EncodedPrompt], step: int) -> dict[str, float]:
        """One optimiser step."""
        run, model = self.run, self.run.policy.model
        rate = set_learning_rate(run.optimizer, run.settings, run.meter.consumed.updates)
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        numbers = run.ranks.total(self._batch.run(lambda size: self._gradient(samples, prompts, step, size)))
        run.ranks.add_gradients(trained)
        norm = self.accelerator.clip_grad_norm_(trained, run.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradient norm is {norm.item()} at step {step + 1}")
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        model.eval()
        run.meter.consumed.updates += 1
        run.meter.consumed.tokens_trained += sum(len(one.completion.tokens) for one in samples)
        return {**numbers, "grad_norm": float(norm), "learning_rate": rate}

    def _gradient(
        self, samples: Sequence[Sample], prompts: dict[str, EncodedPrompt], step: int, size: int
    ) -> dict[str, float]:
        """The gradient of this rank's prompts, from zero; return the loss and what the method logs.

        The denominator is known beforehand and counts the whole step, so neither micro-batches nor ranks change it.
        """
        total = denominator(samples, self.algorithm.needs)
        self.run.optimizer.zero_grad(set_to_none=True)
        logged: dict[str, float] = {"loss": 0.0}
        with self.run.policy.gradient_of_a_step():
            for part in micro_batches([one for one in samples if one.completion.prompt_id in prompts], size):
                loss, numbers = self._backward(part, prompts, total, step)
                for key, value in numbers.items():
                    logged[key] = logged.get(key, 0.0) + value * len(part) / len(samples)
                logged["loss"] += loss
        return logged

    def _backward(
        self, part: Sequence[Sample], prompts: dict[str, EncodedPrompt], total: float, step: int
    ) -> tuple[float, dict[str, float]]:
        """Forward and backward pass of a micro-batch, whose graph is freed on return."""
        values, mask = self.run.policy.log_probs(
            [prompts[one.completion.prompt_id] for one in part],
            [one.completion.tokens for one in part],
            self.run.groups.temperature,
        )
        batch = make_batch(part, values, mask, self.algorithm.needs)
        unreduced, numbers = self.algorithm.loss(batch)
        loss = reduce_loss(unreduced, batch, self.algorithm.needs, total)
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {step + 1}")
        self.accelerator.backward(loss)
        return loss.item(), numbers


def describe_groups(groups: Sequence[Group]) -> dict[str, float]:
    """Means over the sampled completions: reward, its parts, length, truncation, answers that the scorer misses.

    And the share of groups without variance.
    """
    sampled = [one for group in groups for one in group.by_source("policy")]
    if not sampled:
        return {}
    numbers = {
        "reward": float(np.mean([one.reward for one in sampled])),
        "length": float(np.mean([len(one.tokens) for one in sampled])),
        "truncated": float(np.mean([one.truncated for one in sampled])),
        MISSED: float(np.mean([one.missed for one in sampled])),
        "zero_variance": float(
            np.mean([len({one.reward for one in group.by_source("policy")}) == 1 for group in groups])
        ),
    }
    for name in sorted({name for one in sampled for name in one.parts}):
        numbers[f"reward_{name}"] = float(np.mean([one.parts[name] for one in sampled if name in one.parts]))
    return numbers
