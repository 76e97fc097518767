"""Who takes the step: TRL's own GRPO trainer with video repaired, and this project's two engines.

All load the same weights, sample with the same tokens forbidden (the end of turn among them, so that every completion
has exactly the wanted length), score with the same reward and take one AdamW step on one group with a k3 KL term
against a reference. Prompts come with their pixels: nobody decodes or preprocesses a video in the step.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from meters import Clock, HeldMemory, timed
from synthetic import rewards

from algorithms.grpo import GRPO
from algorithms.guests.trl_video import grpo_trainer
from harness.config.study import BudgetSection, ModelSection, RolloutSection, TrainSection
from harness.data.encode import EncodedPrompt
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.models.loading import load_model
from harness.train.groups import GroupBuilder
from harness.train.run import TrainingRun
from harness.train.trainer import Trainer

LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Task:
    """One cell of the benchmark and what all contenders share."""

    prompt: int
    completion: int
    group: int
    beta: float
    lora: bool
    precision: str
    device: torch.device
    seed: int
    model: Path
    folder: Path


@dataclass
class Step:
    """One measured step.

    Attributes:
        wall: Seconds by phase, and of the whole ``step``.
        processor: Processor seconds likewise.
        tokens: Completion tokens in the loss.
        changed: Whether a trained parameter changed.
        held: Bytes kept for the backward pass, where they were counted.
        peak: Most bytes that lived at once in forward and backward passes, likewise.
        allocated: Most bytes allocated on a GPU during the step.
    """

    wall: dict[str, float]
    processor: dict[str, float]
    tokens: int
    changed: bool
    held: int = 0
    peak: int = 0
    allocated: int = 0


class FixedLength(Policy):
    """A policy that never ends an answer, so that all completions are as long as allowed."""

    @property
    def banned_tokens(self) -> tuple[int, ...]:
        return tuple(sorted({*super().banned_tokens, *self.end_tokens}))


class Contender:
    """Base: loads the model, and measures :meth:`run`, one whole step on a prompt."""

    def __init__(self, task: Task, engine: Any) -> None:
        section = ModelSection(
            name=str(task.model),
            tuning="lora" if task.lora else "full",
            precision=task.precision,  # type: ignore[arg-type]
        )
        torch.manual_seed(task.seed)
        loaded = load_model(section, task.device)
        self.task = task
        self.clock = Clock(task.device)
        self.policy = FixedLength(loaded.model, loaded.tokenizer, task.device, loaded.precision, engine=engine)
        self.tokens = 0
        self.prompt: EncodedPrompt

    def run(self) -> None:
        raise NotImplementedError

    def optimizer(self) -> Any:
        raise NotImplementedError

    def others(self) -> list[Any]:
        """Further modules whose weights are held."""
        return []

    def step(self, prompt: EncodedPrompt, count_held: bool = False) -> Step:
        """Take one step; counting held bytes calls Python for every operation, so it is not for timed steps."""
        self.prompt, self.tokens = prompt, 0
        cuda = self.task.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.task.device)
        before = self._checksum()
        memory = HeldMemory(self.policy.model, self.policy.language_model)
        with memory.watch() if count_held else contextlib.nullcontext():
            self.run()
        wall, processor = self.clock.take()
        allocated = torch.cuda.max_memory_allocated(self.task.device) if cuda else 0
        changed = self._checksum() != before
        return Step(wall, processor, self.tokens, changed, memory.held, memory.peak, allocated)

    def move(self, device: torch.device) -> None:
        """Park on the CPU between turns, or come back, so that contenders do not share a GPU's memory."""
        for module in self._modules():
            module.to(device)
        for state in self.optimizer().state.values() if self.optimizer() else ():
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.ndim:
                    state[key] = value.to(device)
        gc.collect()
        if self.task.device.type == "cuda":
            torch.cuda.empty_cache()

    def _modules(self) -> list[Any]:
        return [self.policy.model, *self.others()]

    def _checksum(self) -> float:
        trained = (weight for weight in self.policy.model.parameters() if weight.requires_grad)
        return sum(float(weight.detach().double().sum()) for weight in trained)


class Ours(Contender):
    """This project's GroupBuilder and Trainer, with one engine or the other."""

    def __init__(self, task: Task, engine: str, batch: int) -> None:
        super().__init__(task, engine)
        algorithm = GRPO(GRPO.Config(group_size=task.group, beta=task.beta))
        settings = TrainSection(
            learning_rate=LEARNING_RATE, warmup_steps=0, prompts_per_step=1, micro_batch=batch, max_grad_norm=1.0
        )
        groups = GroupBuilder(
            policy=self.policy,
            reference=self.policy.reference() if algorithm.needs.reference else self.policy,
            sampler=TransformersSampler(self.policy, task.group),
            rewards=rewards(),
            needs=algorithm.needs,
            rollout=RolloutSection(temperature=1.0, max_new_tokens=task.completion, batch=task.group),
            mode="vanilla",
            seed=task.seed,
            micro_batch=batch,
        )
        run = TrainingRun(
            policy=self.policy,
            groups=groups,
            prompts=lambda index: self.prompt,
            size=1,
            settings=settings,
            budget=BudgetSection(kind="steps", amount=1_000_000),
            seed=task.seed,
            folder=task.folder,
            about={},
            progress=lambda step, steps, numbers: None,
        )
        self.trainer = Trainer(run, algorithm)
        self.trainer._loop = lambda: None  # so that train() sets itself up and takes no step yet
        self.trainer.train()
        self._taken = 0
        timed(groups.sampler, "sample", self.clock, "sampling")
        timed(groups, "_with_reference", self.clock, "reference")

    def run(self) -> None:
        before = self.trainer.run.meter.consumed.tokens_trained
        with self.clock.phase("step"):
            self.trainer._step(self._taken)
        if self.trainer._batch.size < self.trainer.run.settings.micro_batch:
            raise torch.OutOfMemoryError("the trainer went on with smaller micro-batches than were asked for")
        self._taken += 1
        self.tokens = self.trainer.run.meter.consumed.tokens_trained - before

    def optimizer(self) -> Any:
        return self.trainer.run.optimizer

    def others(self) -> list[Any]:
        reference = self.trainer.run.groups.reference
        return [] if reference is self.policy else [reference.model]


class TRL(Contender):
    """TRL 1.16's GRPOTrainer, loop and all; a step is what lies between its on_step_begin and on_step_end.

    Its settings are its fastest here: no gradient checkpointing (its default recomputes), no logging.
    """

    def __init__(self, task: Task, batch: int) -> None:
        super().__init__(task, "naive")
        from transformers import PrinterCallback, TrainerCallback

        score = rewards().score
        settings = {
            "output_dir": str(task.folder),
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": task.group // batch,
            "num_generations": task.group,
            "max_completion_length": task.completion,
            "generation_kwargs": {"suppress_tokens": list(self.policy.banned_tokens)},
            "beta": task.beta,
            "loss_type": "grpo",
            "use_bias_correction_kl": False,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 1.0,
            "gradient_checkpointing": False,
            "bf16": task.precision == "bf16",
            "use_cpu": task.device.type == "cpu",
            "max_steps": 1,
            "seed": task.seed,
            "report_to": [],
            "logging_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        self.trainer = grpo_trainer(
            self.policy,
            lambda name: self.prompt,
            ["current"],
            lambda text, prompt: score(text, prompt.record, prompt.mode).total,
            settings,
        )
        clock = self.clock
        started: list[tuple[float, float]] = []

        class Watch(TrainerCallback):
            def on_step_begin(self, *args: Any, **options: Any) -> None:
                started.append(clock.now())

            def on_step_end(self, *args: Any, **options: Any) -> None:
                clock.add("step", started.pop())

        self.trainer.add_callback(Watch())
        self.trainer.remove_callback(PrinterCallback)
        timed(self.trainer, "_generate", clock, "sampling")
        self._time_reference()
        self._count_tokens()

    def _time_reference(self) -> None:
        stock = self.trainer._get_per_token_logps_and_entropies

        def call(*args: Any, **options: Any) -> Any:
            if torch.is_grad_enabled():
                return stock(*args, **options)
            with self.clock.phase("reference"):
                return stock(*args, **options)

        self.trainer._get_per_token_logps_and_entropies = call

    def _count_tokens(self) -> None:
        stock = self.trainer._compute_loss

        def call(model: Any, inputs: dict[str, Any]) -> Any:
            self.tokens += int(inputs["completion_mask"].sum())
            return stock(model, inputs)

        self.trainer._compute_loss = call

    def run(self) -> None:
        self.trainer.train()

    def optimizer(self) -> Any:
        return self.trainer.optimizer

    def others(self) -> list[Any]:
        return [] if self.trainer.ref_model is None else [self.trainer.ref_model]


def build(name: str, task: Task, batch: int) -> Contender:
    """The contender of a name at a micro-batch size, in completions."""
    if name == "trl":
        return TRL(task, batch)
    return Ours(task, "shared" if name == "engine" else "naive", batch)


def batch_sizes(name: str, group: int, wanted: list[int]) -> Iterator[int]:
    """Sizes to try. The engine runs a group at once; TRL takes divisors of the group, so a size that is none gives way
    to the next larger divisor."""
    if name == "engine":
        yield group
        return
    fitting = {next(size for size in range(min(one, group), group + 1) if group % size == 0) for one in wanted}
    yield from sorted(fitting)
