"""TRL's trainers in the harness's training runs, which supply each step's prompts, meter it and write checkpoints.

What all methods share comes from a :class:`~harness.train.run.TrainingRun`: the order of records, rewards, AdamW with
warm-up and constant rate, clipping, budget, checkpoints. Loop, collation, forward passes and loss are TRL's. Its data
loaders hold placeholders, which the step's rows replace where transformers' loop fetches its batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, TrainerCallback

from algorithms.guests.trl_video import pixels_of, plain_log_probs, refuse_gap
from harness.api import Completion, Group, UserError
from harness.data.encode import EncodedPrompt
from harness.seeds import seed_for
from harness.train.optimizer import set_learning_rate
from harness.train.run import TrainingError, TrainingRun
from harness.train.trainer import RESAMPLE_ROUNDS

Row = tuple[EncodedPrompt, Completion]
"""A prompt and one completion."""

ROWS, SHARE = "harness_rows", "harness_share"
"""Keys of a batch's rows and of the factor of its loss; both are removed before TRL sees the batch."""

UNBOUNDED = 10**9
"""``max_steps`` of a run that the budget meter ends."""


class EngineSteps(TrainerCallback):
    """Begins and ends a step of the training run with each step of transformers' loop.

    Attributes:
        run: The training run.
        prompts: The current step's prompts.
        numbers: What the current step logs in addition to TRL's own numbers.
        trained: Completion tokens in the current step's loss; None means all sampled ones, 0 means no update.
        sampled: Returns the tokens sampled so far.
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
        """Start the clock, seed the step (by seed and step number alone) and draw its prompts."""
        run = self.run
        self._clock = run.meter.clock()
        self._clock.__enter__()
        self._before = self._passes, self.sampled()
        self.numbers, self.trained = {}, None
        # transformers' scheduler resets the rate to its peak after each step.
        self._rate = set_learning_rate(run.optimizer, run.settings, run.meter.consumed.updates)
        torch.manual_seed(seed_for(run.seed, "update", run.step, 0))
        self.prompts = run.draw(run.settings.prompts_per_step)
        return self.prompts

    def open_with_groups(self) -> tuple[list[EncodedPrompt], list[Group]]:
        """As :meth:`open`, and each prompt's scored group."""
        prompts = self.open()
        return prompts, self.run.build(prompts, self.run.step * RESAMPLE_ROUNDS)

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

    def arguments(self, micro_batches: int) -> dict[str, Any]:
        """``TrainingArguments`` with one step per epoch, without what the training run does itself."""
        run = self.run
        return {
            "output_dir": str(run.folder / "trl"),
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": micro_batches,
            "max_steps": (run.expected_steps or UNBOUNDED) - run.step,
            "max_grad_norm": run.settings.max_grad_norm,
            "gradient_checkpointing": False,  # already set on the model, as the study says
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

    def build(
        self,
        trainer_class: type[Any],
        arguments_class: type[Any],
        parts: int,
        rows: Callable[[], list[list[Row]]],
        options: dict[str, Any],
        *,
        by_token: bool,
    ) -> Any:
        """A trainer of TRL's on given rows; ``rows`` begins a step and returns its rows in ``parts`` batches."""
        import datasets

        datasets.disable_progress_bars()
        policy = self.run.policy
        trainer = type(trainer_class.__name__, (GivenRows, trainer_class), {})(
            model=policy.model,
            args=arguments_class(**self.arguments(parts), max_length=None, **options),
            # One step per epoch; the step's real rows replace these.
            train_dataset=datasets.Dataset.from_list(
                [dict.fromkeys(("prompt", "chosen", "rejected", "completion"), "-")] * parts
            ),
            processing_class=policy.tokenizer,
        )
        trainer.bind(self, rows, by_token=by_token)
        return trainer

    @contextmanager
    def counting(self, *models: Any) -> Iterator[None]:
        """Count forward passes as the budget meter does: calls of language models and vision towers."""

        def count(*_: Any) -> None:
            self._passes += 1

        # A frozen tower may be in several models.
        parts = {id(part): part for one in models for part in (one.model.language_model, one.model.visual)}
        hooks = [part.register_forward_hook(count) for part in parts.values()]
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
"""TRL's metrics, and what the harness calls them."""


def train(trainer: Any, steps: EngineSteps) -> None:
    """Run TRL's loop to the end of the budget, then undo its changes to the model's ``forward``."""
    run, model = steps.run, steps.run.policy.model
    run.check(run.prompts(0))
    # TRL copies the adapters as its reference, which after a resumption would not be the base model. Without the copy
    # it disables the adapters for reference passes.
    if "ref" in getattr(model, "peft_config", {}):
        model.delete_adapter("ref")  # type: ignore[operator]
    trainer.optimizer = run.optimizer
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1.0)  # the rate is set in open
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(steps)
    reference: Any = getattr(trainer, "ref_model", None)
    try:
        sampled = run.groups.reference.base  # by an offline method
        with steps.counting(run.policy.base, sampled, *([] if reference is None else [reference])):
            trainer.train()
    finally:
        for module in (model, run.policy.base):
            module.__dict__.pop("forward", None)
        model.eval()


class GivenRows:
    """A mix-in for TRL's SFT and DPO trainers, which then train on given rows in each step."""

    _checked = False

    def bind(self, steps: EngineSteps, rows: Callable[[], list[list[Row]]], *, by_token: bool) -> None:
        """Take each step's rows, by micro-batch, from ``rows``; the loss is a mean over tokens or over rows."""
        self._steps, self._given, self._by_token = steps, rows, by_token

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """The step's micro-batches and the number of trained tokens in them.

        transformers averages over micro-batches as if they had equal sizes; ``SHARE`` corrects for that.
        """
        parts = self._given()
        assert len(parts) == num_batches
        self._steps.trained = tokens = sum(len(completion.tokens) for part in parts for _, completion in part)
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
        """The backward pass of one micro-batch; none if it is empty."""
        if not inputs:  # no pair in this micro-batch
            return torch.zeros((), device=self.args.device)  # type: ignore[attr-defined]
        self._rows, self._share = inputs.pop(ROWS), inputs.pop(SHARE)
        if not self._checked:
            self._check_first(model, inputs, *rest)
        loss: Tensor = super().training_step(model, inputs, *rest, **options)  # type: ignore[misc]
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Tensor:
        """TRL's loss, weighted by the micro-batch's share of the step; for SFT, the completions are the labels."""
        if self._by_token:
            scored = inputs.pop("completion_mask")
            inputs = inputs | {"labels": inputs["input_ids"].masked_fill(scored == 0, -100)}
        loss: Tensor = super().compute_loss(model, inputs, *rest, **options) * self._share  # type: ignore[misc]
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: transformers' estimate supports neither videos nor empty batches."""
        return 0

    @torch.no_grad()
    def _check_first(self, model: Any, inputs: dict[str, Any], *rest: Any) -> None:
        """Compare the log-probabilities in TRL's loss with plain forward passes on rows and pixels."""
        outputs: list[Any] = []
        hook = model.register_forward_hook(lambda module, args, output: outputs.append(output))
        model.eval()
        given: dict[str, Any] = self._prepare_inputs(dict(inputs))  # type: ignore[attr-defined]
        self.compute_loss(model, given)
        hook.remove()
        used = outputs[0].log_probs[:, 1 - inputs["input_ids"].shape[1] :].float()
        gap = 0.0
        if int((used != 0).sum()) > sum(len(completion.tokens) for _, completion in self._rows):
            raise UserError(
                f"prompt {self._rows[0][0].id}: TRL's loss includes tokens outside the completions; is the prompt "
                "masked? Training is refused"
            )
        for values, (prompt, completion) in zip(used, self._rows, strict=True):
            first, tokens = len(prompt.input_ids) - 1, torch.tensor(completion.tokens, device=values.device)
            with self.accelerator.autocast():  # type: ignore[attr-defined]
                plain = plain_log_probs(model, prompt, tokens)
            gap = max(gap, float((values[first : first + len(tokens)] - plain).abs().max()))
        refuse_gap(gap, self._rows[0][0], self._steps.run.policy.precision)
        self._checked = True


def _batch(rows: Sequence[Row], pad: int) -> dict[str, Any]:
    """Right-padded rows of prompt and completion with the completion mask and all videos; {} for no rows."""
    if not rows:
        return {}
    completions = [torch.tensor(completion.tokens) for _, completion in rows]
    ids, scored, kinds = (
        [torch.cat(pair) for pair in zip(heads, tails, strict=True)]
        for heads, tails in (
            ([prompt.input_ids for prompt, _ in rows], completions),
            ([torch.zeros_like(prompt.input_ids) for prompt, _ in rows], [torch.ones_like(one) for one in completions]),
            ([prompt.mm_token_type_ids for prompt, _ in rows], [torch.zeros_like(one) for one in completions]),
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


def refuse_unlike(run: TrainingRun, *, reference: bool) -> None:
    """Refuse settings that TRL's loop cannot follow.

    Raises:
        UserError: Naming the setting.
    """
    settings, budget, model = run.settings, run.budget, run.about["model"]
    if settings.updates_per_batch != 1:
        raise UserError("`train.updates_per_batch`: TRL's trainers make one update per batch; set it to 1")
    if budget.kind == "examples" and budget.amount % settings.prompts_per_step:
        raise UserError(
            f"`budget.amount` = {budget.amount:g}: TRL's loop trains whole steps only; make it a multiple of "
            f"train.prompts_per_step = {settings.prompts_per_step}"
        )
    if model["quantisation"] != "none":
        raise UserError("`model.quantisation`: TRL's trainers are supported without quantisation only; set it to none")
    if reference and model["tuning"] == "lora" and not model["freeze_vision"]:
        raise UserError(
            "`model.freeze_vision` = false: TRL's reference is the model without its adapters, which a trained vision "
            "tower would change; freeze the tower, or set model.tuning to full"
        )
