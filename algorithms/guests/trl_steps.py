"""TRL's trainers in the engine's runs: the engine says which prompts a step has, meters it and keeps its checkpoints.

What is the same for every method comes from a :class:`~harness.train.run.TrainingRun`: records in their order,
rewards, AdamW with warm-up and constant rate, clipping, budget, checkpoints. Loop, collation, forward passes and loss
are TRL's. Its data loaders hold placeholders: the step's rows are put in where transformers' loop fetches them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, TrainerCallback

from algorithms.guests.trl_video import TOLERANCE, VideoMissedError, pixels_of, plain_log_probs
from harness.api import Completion, UserError
from harness.data.encode import EncodedPrompt
from harness.seeds import seed_for
from harness.train.optimizer import set_learning_rate
from harness.train.run import TrainingError, TrainingRun

Row = tuple[EncodedPrompt, Completion]
"""A prompt and one answer to it."""

ROWS, SHARE = "harness_rows", "harness_share"
"""Where a batch says which rows it holds, and what its loss is multiplied by; both are taken out before TRL sees it."""

UNBOUNDED = 10**9
"""Steps of a run whose end the meter decides."""


class EngineSteps(TrainerCallback):
    """Opens and closes the steps of one training run around those of transformers' loop.

    Attributes:
        run: The engine's side.
        prompts: Of the open step.
        numbers: What the open step logs beside TRL's own numbers.
        trained: Completion tokens in the loss of the open step (None: all that it sampled); 0 leaves the weights as
            they are.
        sampled: Tokens sampled so far.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.prompts: list[EncodedPrompt] = []
        self.numbers: dict[str, float] = {}
        self.trained: int | None = None
        self.sampled: Callable[[], int] = lambda: 0
        self._passes = 0
        self._rate = 0.0
        self._clock: AbstractContextManager[None]

    def open(self) -> list[EncodedPrompt]:
        """Start the clock and draw the step's prompts; its random numbers depend on the seed and the step alone."""
        run = self.run
        self._clock = run.meter.clock()
        self._clock.__enter__()
        self._before = self._passes, self.sampled()
        self.numbers, self.trained = {}, None
        # transformers' scheduler sets the rate back to its peak after the step.
        self._rate = set_learning_rate(run.optimizer, run.settings, run.meter.consumed.updates)
        torch.manual_seed(seed_for(run.seed, "update", run.step, 0))
        self.prompts = run.draw(run.settings.prompts_per_step)
        return self.prompts

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clock.__exit__(None, None, None)
        consumed, (passes, sampled) = self.run.meter.consumed, self._before
        sampled = self.sampled() - sampled
        trained = sampled if self.trained is None else self.trained
        consumed.steps += 1
        consumed.updates += trained > 0
        consumed.tokens_trained += trained
        consumed.tokens_sampled += sampled
        consumed.forward_passes += self._passes - passes

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:  # the summary at the end
            return
        found = {name: float(logs[name]) for name in ("loss", "grad_norm") if name in logs and self.trained != 0}
        for name, value in found.items():
            if not math.isfinite(value):
                raise TrainingError(f"the {name.replace('grad_', 'gradient ')} is {value} at step {self.run.step + 1}")
        consumed = self.run.meter.consumed
        known = {ours: float(logs[theirs]) for theirs, ours in _NAMES.items() if theirs in logs}
        self.run.finish_step(
            {"examples": float(consumed.examples), "learning_rate": self._rate} | self.numbers | known | found
        )
        control.should_training_stop = self.run.meter.spent

    @contextmanager
    def counting(self, *models: Any) -> Iterator[None]:
        """Count calls of language models and vision towers, as the meter defines a forward pass."""

        def count(*_: Any) -> None:
            self._passes += 1

        parts = [part for model in models for part in (model.model.language_model, model.model.visual)]
        hooks = [part.register_forward_hook(count) for part in parts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


_NAMES = {
    "reward": "reward",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "truncated",
    "frac_reward_zero_std": "zero_variance",
    "kl": "kl",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
}
"""TRL's numbers that have a name here."""


def arguments(run: TrainingRun, micro_batches: int) -> dict[str, Any]:
    """``TrainingArguments`` of one step an epoch; what the engine does itself is switched off."""
    return {
        "output_dir": str(run.folder / "trl"),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": micro_batches,
        "max_steps": (run.expected_steps or UNBOUNDED) - run.step,
        "max_grad_norm": run.settings.max_grad_norm,
        "gradient_checkpointing": False,  # as the study's model section says; it is set on the model
        "bf16": run.policy.precision == "bf16",
        "use_cpu": run.policy.device.type == "cpu",
        "seed": run.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


def train(trainer: Any, steps: EngineSteps) -> None:
    """Run TRL's loop to the end of the budget, then take its changes of the model's ``forward`` back."""
    run, model = steps.run, steps.run.policy.model
    run.check(run.prompts(0))
    # With adapters TRL keeps a copy of them as the reference, which after a resumption would not be the base model;
    # without the copy it switches the adapters off.
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")  # type: ignore[operator]
    trainer.optimizer = run.optimizer
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1.0)  # the rate is set in open
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(steps)
    reference: Any = getattr(trainer, "ref_model", None)
    try:
        with steps.counting(run.policy.base, *([] if reference is None else [reference])):
            trainer.train()
    finally:
        for module in (model, run.policy.base):
            module.__dict__.pop("forward", None)
        model.eval()


class GivenRows:
    """Mixed into TRL's SFT and DPO trainers: they train on the rows that the engine gives for each step."""

    _checked = False

    def bind(self, steps: EngineSteps, rows: Callable[[], list[list[Row]]], *, by_token: bool) -> None:
        """Take each step's rows, in micro-batches, from ``rows``; losses are means over tokens or over rows."""
        self._steps, self._given, self._by_token = steps, rows, by_token

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """The step's micro-batches and the number of trained tokens in them.

        transformers averages over micro-batches as if all were of one size; their shares make up for it.
        """
        parts = self._given()
        assert len(parts) == num_batches
        self._steps.trained = tokens = sum(len(answer.tokens) for part in parts for _, answer in part)
        self._steps.numbers["samples"] = rows = sum(map(len, parts))
        pad = self._steps.run.policy.tokenizer.pad_token_id
        batches = [_batch(part, pad) for part in parts]
        if self._by_token:
            return batches, torch.tensor(tokens, device=device)
        for batch, part in zip(batches, parts, strict=True):
            if batch:
                batch[SHARE] = len(part) * num_batches / rows
        return batches, None

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Tensor:
        """One micro-batch's backward pass; none where it has no row."""
        if not inputs:  # no pair in this micro-batch
            return torch.zeros((), device=self.args.device)  # type: ignore[attr-defined]
        self._rows, self._share = inputs.pop(ROWS), inputs.pop(SHARE)
        if not self._checked:
            self._check_first(model, inputs, *rest)
        loss: Tensor = super().training_step(model, inputs, *rest, **options)  # type: ignore[misc]
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Tensor:
        """TRL's loss, by the micro-batch's share of the step."""
        loss: Tensor = super().compute_loss(model, inputs, *rest, **options) * self._share  # type: ignore[misc]
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers' estimate knows of neither videos nor empty batches."""
        return 0

    @torch.no_grad()
    def _check_first(self, model: Any, inputs: dict[str, Any], *rest: Any) -> None:
        """Compare the log-probabilities inside TRL's loss with plain forwards of its rows with their pixels."""
        outputs: list[Any] = []
        hook = model.register_forward_hook(lambda module, args, output: outputs.append(output))
        model.eval()
        given: dict[str, Any] = self._prepare_inputs(dict(inputs))  # type: ignore[attr-defined]
        self.compute_loss(model, given)
        hook.remove()
        used = outputs[0].log_probs[:, 1 - inputs["input_ids"].shape[1] :].float()
        gap = 0.0
        if int((used != 0).sum()) > sum(len(answer.tokens) for _, answer in self._rows):
            raise UserError(
                f"prompt {self._rows[0][0].id}: TRL's loss counts tokens outside the answers (is the prompt masked?); "
                "training is refused"
            )
        for values, (prompt, answer) in zip(used, self._rows, strict=True):
            first, tokens = len(prompt.input_ids) - 1, torch.tensor(answer.tokens, device=values.device)
            with self.accelerator.autocast():  # type: ignore[attr-defined]
                plain = plain_log_probs(model, prompt, tokens)
            gap = max(gap, float((values[first : first + len(tokens)] - plain).abs().max()))
        if not gap <= TOLERANCE[self._steps.run.policy.precision]:
            raise VideoMissedError(self._rows[0][0].id, gap)
        self._checked = True


def _batch(rows: Sequence[Row], pad: int) -> dict[str, Any]:
    """Right-padded rows of prompt and answer, the answers' tokens marked, and the videos of all rows; {} of none."""
    if not rows:
        return {}
    answers = [torch.tensor(answer.tokens) for _, answer in rows]
    ids, scored, kinds = (
        [torch.cat(pair) for pair in zip(heads, tails, strict=True)]
        for heads, tails in (
            ([prompt.input_ids for prompt, _ in rows], answers),
            ([torch.zeros_like(prompt.input_ids) for prompt, _ in rows], [torch.ones_like(one) for one in answers]),
            ([prompt.mm_token_type_ids for prompt, _ in rows], [torch.zeros_like(one) for one in answers]),
        )
    )
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "completion_mask": pad_sequence(scored, batch_first=True),
        "mm_token_type_ids": pad_sequence(kinds, batch_first=True),
        **pixels_of([prompt for prompt, _ in rows]),
        ROWS: list(rows),
        SHARE: 1.0,
    }


def micro_batches(run: TrainingRun, rows_a_prompt: int) -> int:
    """Into how many micro-batches a step is split."""
    return -(-run.settings.prompts_per_step // max(1, run.settings.micro_batch // rows_a_prompt))


def placeholder(rows: int) -> Any:
    """A data set of TRL's, of one step an epoch; the engine's rows take the place of its rows."""
    import datasets

    datasets.disable_progress_bars()
    return datasets.Dataset.from_list([{"prompt": "-", "chosen": "-", "rejected": "-", "completion": "-"}] * rows)


def split(items: Sequence[Any], parts: int) -> list[list[Any]]:
    """Consecutive parts of about equal size; some are empty when there are too few items."""
    return [[items[index] for index in part] for part in np.array_split(np.arange(len(items)), parts)]


def refuse_unlike(run: TrainingRun, *, reference: bool) -> None:
    """Refuse settings under which TRL's loop would do something else than the study says.

    Raises:
        UserError: Naming the setting.
    """
    settings, budget, model = run.settings, run.budget, run.about["model"]
    if settings.updates_per_batch != 1:
        raise UserError("`train.updates_per_batch`: TRL's trainers are run with one update a batch; set it to 1")
    if budget.kind == "examples" and budget.amount % settings.prompts_per_step:
        raise UserError(
            f"`budget.amount` = {budget.amount:g}: TRL's loop takes whole steps only; make it a multiple of "
            f"train.prompts_per_step = {settings.prompts_per_step}"
        )
    if model["quantisation"] != "none":
        raise UserError(
            "`model.quantisation`: TRL's trainers are run on weights that are not quantised; set it to none"
        )
    if reference and model["tuning"] == "lora" and not model["freeze_vision"]:
        raise UserError(
            "`model.freeze_vision` = false: TRL's reference is the model without its adapters, so that a trained "
            "vision tower would change it; freeze the tower or train all weights"
        )
