"""What every training run has, whoever owns its loop: data order, meter, metrics, checkpoints, resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.api.types import Group
from harness.config.study import BudgetSection, TrainSection
from harness.data.encode import EncodedPrompt
from harness.engine.policy import Policy
from harness.engine.self_check import check_engine
from harness.io import write_json
from harness.seeds import seed_for
from harness.train import checkpoint as ckpt
from harness.train.groups import GroupBuilder
from harness.train.meter import COMPUTE_FILE, BudgetMeter
from harness.train.optimizer import build_optimizer
from harness.train.ranks import Ranks
from harness.train.tracking import METRICS_FILE, MISSED, Metrics, misses

CHECKPOINTS = "checkpoints"

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with (step, expected steps or 0, numbers); ``missed`` is among them only once it grew."""


class TrainingError(Exception):
    """Training cannot continue; the last checkpoint stays."""


@dataclass(kw_only=True)
class TrainingRun:
    """One method on one seed until the budget is spent.

    A training loop calls :meth:`begin`, then :meth:`draw`, its own step and :meth:`finish_step` until ``meter.spent``,
    then :meth:`end`. The engine's own loop is :class:`~harness.train.trainer.Trainer`; a
    :class:`~harness.api.guest.GuestTrainer` has another.

    Attributes:
        policy: The model, before any checkpoint is restored.
        groups: Builds scored groups from prompts.
        prompts: ``prompts(index)`` encodes the index-th training record.
        size: Number of training records.
        settings: The shared optimisation settings with the method's overrides.
        budget: What may be consumed.
        seed: The repetition's seed.
        folder: The cell's folder.
        about: What a checkpoint's manifest says about the cell; only one with the same ``training`` is resumed.
        progress: Called after each step.
        ranks: The processes that train together; only the first writes.
        step: Steps done.
        meter: What has been consumed, and whether the budget is spent.
        optimizer: Of the trained weights, with the study's settings.
    """

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
    ranks: Ranks = Ranks()  # noqa: RUF009 (frozen)
    step: int = field(default=0, init=False)
    meter: BudgetMeter = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    _cursor: int = field(default=0, init=False)
    _logged: list[dict[str, Any]] = field(default_factory=list, init=False)
    _checked: bool = field(default=False, init=False)

    def begin(self) -> None:
        """Make the optimiser and restore the last whole checkpoint, if there is one.

        Raises:
            UserError: A checkpoint is not what was written.
        """
        self.optimizer = build_optimizer(self.policy.model, self.settings)
        self.meter = BudgetMeter(self.budget, self.policy.device)
        self.step = self._resume()
        self._saved = self._due()
        self._metrics: Metrics | None = None
        if self.ranks.first:
            log = self.folder / METRICS_FILE
            self._metrics = Metrics(log, self._logged, self.settings.report_to, self.policy.model)
        self._clock = time.perf_counter()

    @property
    def expected_steps(self) -> int:
        """Steps of the whole run, or 0 when that cannot be known beforehand."""
        return self.meter.expected_steps(self.settings.prompts_per_step)

    def draw(self, count: int) -> list[EncodedPrompt]:
        """The next prompts, in an order that depends on the seed and the epoch, never on the method."""
        return [self.prompts(index) for index in self.next_records(count)]

    def build(self, prompts: Sequence[EncodedPrompt], draw: int) -> list[Group]:
        """Scored groups of some prompts; random draws depend only on the seed and on ``draw``."""
        self.check(prompts[0])
        return self.groups.build(prompts, draw)

    def check(self, prompt: EncodedPrompt) -> None:
        """Once a run, before its first prompt is used: does the shared engine equal the naive one?"""
        if not self._checked:
            check_engine(self.policy, prompt)
            self._checked = True

    def finish_step(self, numbers: dict[str, float]) -> None:
        """Count a step, log its numbers, write a checkpoint if one is due, and report progress."""
        numbers["seconds"] = time.perf_counter() - self._clock
        self.step += 1
        due = self._due()
        told = {key: value for key, value in numbers.items() if key != MISSED}
        if self._metrics:
            self._metrics.log(self.step, numbers)
            if (missed := misses(self._metrics.logged)) and missed.grew:
                told[MISSED] = missed.last
            if due > self._saved or self.meter.spent:
                self._save()
        self._saved = due
        self._clock = time.perf_counter()
        self.progress(self.step, self.expected_steps, told)

    def end(self) -> None:
        """Close the trackers, whether training is complete or not."""
        if self._metrics:
            self._metrics.close()

    def checkpoints(self) -> list[Path]:
        """The run's whole checkpoints; its consumption is written next to them.

        Even if nothing was left to train: a kill may have come between the last checkpoint and that file.
        """
        if self.ranks.first:
            write_json(self.folder / COMPUTE_FILE, self.meter.state())
        return ckpt.list_checkpoints(self.folder / CHECKPOINTS)

    def next_records(self, count: int) -> Iterator[int]:
        """Indices of the next training records, no more than the budget allows."""
        remaining = self.meter.remaining_examples
        for _ in range(count if remaining is None else min(count, remaining)):
            epoch, place = divmod(self._cursor, self.size)
            order = np.random.default_rng(seed_for(self.seed, "order", epoch)).permutation(self.size)
            self._cursor += 1
            self.meter.consumed.examples += 1
            yield int(order[place])

    def _due(self) -> int:
        """How many of the checkpoints should have been written by now."""
        return min(self.settings.checkpoints, math.floor(self.meter.progress * self.settings.checkpoints + 1e-9))

    def _resume(self) -> int:
        found = ckpt.list_checkpoints(self.folder / CHECKPOINTS)
        if not found:
            return 0
        last = ckpt.read_checkpoint(found[-1], self.about.get("training"))
        if self.ranks.first:
            ckpt.drop_older_states(last.folder)
        ckpt.restore_weights(self.policy.model, last)
        state = ckpt.restore_state(last, self.optimizer)
        self.meter = BudgetMeter(self.budget, self.policy.device, state["consumed"])
        self._cursor, self._logged = state["cursor"], state["logged"]
        self.groups.restore_offline(state["offline"])
        return last.step

    def _save(self) -> None:
        consumed = self.meter.state()
        ckpt.save_checkpoint(
            self.folder / CHECKPOINTS,
            self.step,
            self.policy.model,
            self.policy.tokenizer,
            self.optimizer,
            {
                "consumed": consumed,
                "cursor": self._cursor,
                "logged": self._metrics.logged if self._metrics else [],
                "offline": self.groups.offline_state(),
            },
            self.about | {"consumed": consumed},
        )
        write_json(self.folder / COMPUTE_FILE, consumed)
