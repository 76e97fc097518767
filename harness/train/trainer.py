"""The one training loop: every method goes through it, so that no method differs in anything but itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from harness.algorithm import Algorithm
from harness.config import BudgetSection, TrainSection
from harness.data.encode import EncodedPrompt
from harness.io import write_json
from harness.memory import Parts
from harness.models.policy import Policy
from harness.rollout.groups import GroupBuilder
from harness.rollout.selfcheck import check_engine
from harness.train import checkpoint as ckpt
from harness.train.meter import BudgetMeter
from harness.train.optimizer import build_optimizer, set_learning_rate
from harness.train.reduce import denominator, make_batch, micro_batches, reduce_loss
from harness.train.seeds import seed_for
from harness.train.tracking import Metrics
from harness.types import Group, Sample

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with (step, expected steps or 0, numbers)."""

RESAMPLE_ROUNDS = 4
"""How often dropped prompts are replaced in one step before the step goes on with what it has."""


class TrainingError(Exception):
    """Training cannot go on; the last checkpoint stays."""


@dataclass
class Trainer:
    """Trains one method on one seed until the budget is spent.

    Attributes:
        algorithm: The method.
        policy: The model, not yet restored.
        groups: Builds scored groups from prompts.
        prompts: ``prompts(index)`` encodes the index-th training record.
        size: Number of training records.
        settings: The shared optimisation settings with the method's overrides.
        budget: What may be consumed.
        seed: The repetition's seed.
        folder: The cell's folder.
        about: What checkpoints say about the cell.
        progress: Called after each step.
    """

    algorithm: Algorithm
    policy: Policy
    groups: GroupBuilder
    prompts: Callable[[int], EncodedPrompt]
    size: int
    settings: TrainSection
    budget: BudgetSection
    seed: int
    folder: Path
    about: dict[str, Any]
    progress: Progress
    _cursor: int = field(default=0, init=False)

    def train(self) -> list[Path]:
        """Train to the end of the budget, resuming from the last whole checkpoint; return all checkpoints.

        Raises:
            TrainingError: A loss, gradient, reward or probability is not finite; the last checkpoint stays.
        """
        self.optimizer = build_optimizer(self.policy.model, self.settings)
        self.meter = BudgetMeter(self.budget, self.policy.device)
        step = self._resume()
        metrics = Metrics(self.folder / "metrics.jsonl", step, self.settings.report_to, self.policy.model)
        # After the trackers: building transformers' arguments for them resets accelerate's shared state.
        self.accelerator = Accelerator(cpu=self.policy.device.type == "cpu")
        self._parts = Parts("training", self.settings.micro_batch)
        self._checked = False
        try:
            self._loop(step, metrics)
        finally:
            metrics.close()
        # Also when nothing was left to train: a kill may have come between the last checkpoint and this file.
        write_json(self.folder / "compute.json", self.meter.state())
        return ckpt.list_checkpoints(self.folder / "checkpoints")

    def _loop(self, step: int, metrics: Metrics) -> None:
        expected = self.meter.expected_steps(self.settings.prompts_per_step)
        saved = math.floor(self.meter.progress * self.settings.checkpoints + 1e-9)
        while not self.meter.spent:
            start = time.perf_counter()
            numbers = self._step(step)
            step += 1
            numbers["seconds"] = time.perf_counter() - start
            metrics.log(step, numbers)
            due = min(self.settings.checkpoints, math.floor(self.meter.progress * self.settings.checkpoints + 1e-9))
            if due > saved or self.meter.spent:
                self._save(step)
                saved = due
            self.progress(step, expected, numbers)

    # ------------------------------------------------------------------ one step

    def _step(self, step: int) -> dict[str, float]:
        with self.meter.clock():
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
        consumed = self.meter.consumed
        consumed.steps += 1
        consumed.forward_passes += after[0] - passes
        consumed.tokens_sampled += after[1] - sampled
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
            drawn = [self.prompts(index) for index in self._draw(wanted)]
            if not drawn:
                break
            self._check_engine(drawn[0])
            prompts |= {prompt.id: prompt for prompt in drawn}
            groups += self.groups.build(drawn, step * RESAMPLE_ROUNDS + round_number)
            samples = list(self.algorithm.experience(groups))
            kept = {sample.completion.prompt_id for sample in samples}
            wanted = self.settings.prompts_per_step - sum(group.prompt_id in kept for group in groups)
            if wanted <= 0:
                break
        return prompts, groups, samples

    def _check_engine(self, prompt: EncodedPrompt) -> None:
        """Before anything is computed with it, once a run: does the shared engine equal the naive one?"""
        if not self._checked:
            check_engine(self.policy, prompt)
            self.groups.reference.engine = self.policy.engine
            self._checked = True

    def _draw(self, count: int) -> Iterator[int]:
        """The next records in an order that depends on the seed and the epoch, never on the method."""
        remaining = self.meter.remaining_examples
        for _ in range(count if remaining is None else min(count, remaining)):
            epoch, place = divmod(self._cursor, self.size)
            order = np.random.default_rng(seed_for(self.seed, "order", epoch)).permutation(self.size)
            self._cursor += 1
            self.meter.consumed.examples += 1
            yield int(order[place])

    def _update(self, samples: Sequence[Sample], prompts: dict[str, EncodedPrompt], step: int) -> dict[str, float]:
        """One optimiser step."""
        rate = set_learning_rate(self.optimizer, self.settings, self.meter.consumed.updates)
        self.policy.model.train()
        numbers = self._parts.run(lambda size: self._gradient(samples, prompts, step, size))
        norm = self.accelerator.clip_grad_norm_(
            [p for p in self.policy.model.parameters() if p.requires_grad], self.settings.max_grad_norm
        )
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
        """The step's whole gradient, from zero; denominators are known beforehand, so micro-batches are inert."""
        needs = self.algorithm.needs
        total = denominator(samples, needs)
        self.optimizer.zero_grad(set_to_none=True)
        logged: dict[str, float] = {"loss": 0.0}
        for part in micro_batches(samples, size):
            values, mask = self.policy.log_probs(
                [prompts[one.completion.prompt_id] for one in part],
                [one.completion.tokens for one in part],
                self.groups.temperature,
            )
            batch = make_batch(part, values, mask, needs)
            unreduced, numbers = self.algorithm.loss(batch)
            loss = reduce_loss(unreduced, batch, needs, total)
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss is {loss.item()} at step {step + 1}")
            self.accelerator.backward(loss)
            for key, value in numbers.items():
                logged[key] = logged.get(key, 0.0) + value * len(part) / len(samples)
            logged["loss"] += loss.item()
        return logged

    # ------------------------------------------------------------------ checkpoints

    def _resume(self) -> int:
        found = ckpt.list_checkpoints(self.folder / "checkpoints")
        if not found:
            return 0
        last = ckpt.read_checkpoint(found[-1])
        ckpt.drop_older_states(last.folder)
        ckpt.restore_weights(self.policy.model, last)
        state = ckpt.restore_state(last, self.optimizer)
        self.meter = BudgetMeter(self.budget, self.policy.device, state["consumed"])
        self._cursor = state["cursor"]
        return last.step

    def _save(self, step: int) -> None:
        consumed = self.meter.state()
        ckpt.save_checkpoint(
            self.folder / "checkpoints",
            step,
            self.policy.model,
            self.policy.tokenizer,
            self.optimizer,
            {"consumed": consumed, "cursor": self._cursor},
            self.about | {"consumed": consumed},
        )
        write_json(self.folder / "compute.json", consumed)


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
