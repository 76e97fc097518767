"""The checks of a method. Each raises a :class:`ContractError` that names the likely mistake."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor

from harness.api.algorithm import Algorithm
from harness.api.config import StrictConfig
from harness.api.testing.synthetic import Step, World, build_world, collate, key_of, seeded, shifted
from harness.api.types import Batch, Completion, Needs, Reduction, Sample
from harness.errors import UserError
from harness.train.reduction import micro_batches

TOLERANCE = 1e-4
"""Relative differences between gradients up to this count as rounding of float32 log-probabilities."""

VISIBLE = 1e-6
"""Relative differences between gradients up to this count as none."""


class ContractError(Exception):
    """The plugin breaks the contract; the message names the likely mistake."""


class InapplicableError(Exception):
    """The check does not apply to this plugin; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A plugin under test: its class and configuration."""

    cls: type[Any]
    config: Any = None

    @classmethod
    def of(cls, plugin: Any, contract: type, config: Any = None) -> Subject:
        """That of a class, or of an instance with its configuration.

        Raises:
            UserError: It is not a subclass of the contract.
        """
        kind = plugin if isinstance(plugin, type) else type(plugin)
        if not issubclass(kind, contract):
            raise UserError(f"`{kind.__name__}` is not a subclass of harness.api.{contract.__name__}")
        return cls(kind, plugin.config if config is None and plugin is not kind else config)

    def new(self) -> Any:
        return self.cls(self.config)

    def run(self, **world: Any) -> tuple[Algorithm, World, list[Sample]]:
        """A new instance, synthetic groups for it, and its samples from them."""
        method = self.new()
        made = build_world(method.needs, **world)
        samples = method.experience(list(made.groups))
        if not samples and world.get("contrast", True):
            raise ContractError(
                "`experience` dropped every group, although rewards differ and no completion is missing"
            )
        return method, made, samples


def config_is_strict(subject: Subject) -> None:
    """The configuration refuses unknown keys, is frozen, and has defaults."""
    config = getattr(subject.cls, "Config", None)
    if not (isinstance(config, type) and issubclass(config, StrictConfig)):
        raise ContractError("`Config` must be a subclass of harness.api.StrictConfig")
    required = [name for name, field in config.model_fields.items() if field.is_required()]
    if required:
        raise ContractError(f"give every field of {config.__name__} a default; missing: {', '.join(required)}")
    try:
        config(**{"no_such_key": 1})
    except ValidationError:
        pass
    else:
        raise ContractError(
            f"{config.__name__} accepts unknown keys, so typos are ignored silently: keep extra='forbid'"
        )
    if not config.model_config.get("frozen"):
        raise ContractError(f"{config.__name__} can be changed after it was hashed and logged: keep frozen=True")


def config_is_documented(subject: Subject) -> None:
    """The plugin and the fields of its configuration are documented; numbers have a range."""
    cls = subject.cls
    if not cls.__doc__ or not cls.summary:
        raise ContractError(f"{cls.__name__} needs a docstring (source and equation) and a one-line `summary`")
    for name, field in cls.Config.model_fields.items():
        if not field.description:
            raise ContractError(f"`{name}` has no description: say what it means and where its default comes from")
        if {int, float} & {field.annotation, *get_args(field.annotation)} and not field.metadata:
            raise ContractError(f"`{name}` has no range (ge, gt, le or lt), so a typo such as -1 would be accepted")


def needs_are_sound(subject: Subject) -> None:
    """``needs`` asks for completions, in valid terms, and depends on the configuration alone."""
    needs = subject.new().needs
    if not isinstance(needs, Needs):
        raise ContractError(f"`needs` must be a Needs, got {type(needs).__name__}: is it a method without @property?")
    if needs.reduce not in get_args(Reduction):
        raise ContractError(f"needs.reduce={needs.reduce!r}; known: {', '.join(get_args(Reduction))}")
    given = needs.gold or needs.corrupted
    if min(needs.rollouts, needs.shuffled, needs.corrupted) < 0 or not (needs.rollouts or given):
        raise ContractError("`needs` asks for no completions: set rollouts, gold or corrupted")
    if needs.behaviour and (not needs.rollouts or needs.offline):
        raise ContractError(
            "needs.behaviour is set, but only completions that are sampled from the policy have log-probabilities at "
            "sampling: set rollouts, and not offline"
        )
    if needs.offline and not needs.rollouts:
        raise ContractError("needs.offline is set, but nothing is sampled: set rollouts")
    if subject.new().needs != needs:
        raise ContractError("`needs` differs between two instances of one configuration; it must depend on that alone")


def experience_is_usable(subject: Subject) -> None:
    """``experience`` returns samples of the groups' own completions."""
    _, world, samples = subject.run()
    if not isinstance(samples, list) or not all(isinstance(sample, Sample) for sample in samples):
        raise ContractError("`experience` must return a list of harness.api.Sample")
    for sample in samples:
        if key_of(sample.completion) not in world.policy:
            raise ContractError(
                "`experience` returned a completion that is in none of the groups; keep tokens and prompt_id"
            )
        if sample.completion.source == "shuffled":
            raise ContractError(
                "`experience` returned a completion for shuffled frames; the engine would train on it as if the frames "
                "were in order. Use it for comparison only"
            )
        if not isinstance(sample.unit, int):
            raise ContractError(f"a sample's unit must be an int, got {sample.unit!r}")


def loss_is_usable(subject: Subject) -> None:
    """The loss has the right shape, is finite and differentiable; logged numbers are finite floats."""
    method, world, samples = subject.run()
    step = world.step(method, micro_batches(samples, 3))
    if not math.isfinite(step.loss):
        raise ContractError(f"the loss is {step.loss} on ordinary log-probabilities")
    for numbers in step.logged:
        for name, value in numbers.items():
            if isinstance(value, Tensor) or not math.isfinite(value):
                raise ContractError(f"`loss` logs {name}={value!r}; log finite Python numbers (tensor.item())")


def micro_batches_are_inert(subject: Subject) -> None:
    """Splitting a step into micro-batches does not change its gradient."""
    method, world, samples = subject.run()
    whole = world.step(method, [samples])
    for size in (1, 3):
        _same(
            whole,
            world.step(method, micro_batches(samples, size)),
            "splitting a step into micro-batches",
            "does `loss` average, normalise, rank or count over the batch? Do that in `experience`, and return the "
            "loss unreduced",
        )


def padding_is_inert(subject: Subject) -> None:
    """Padding has no effect and gets no gradient."""
    method, world, samples = subject.run()
    padded = world.step(method, [samples], padding=3)
    mistake = "is batch.mask ignored? Sum with batch.seq(...) and divide by batch.lengths, not by the tensor's width"
    _same(world.step(method, [samples]), padded, "more padding", mistake)
    if padded.padding > 0:
        raise ContractError(f"padding gets a gradient of up to {padded.padding:.2g}: {mistake}")


def order_is_inert(subject: Subject) -> None:
    """The order of samples in a batch has no effect."""
    method, world, samples = subject.run()
    whole = world.step(method, [samples])
    for order in (samples[::-1], samples[::2] + samples[1::2]):
        _same(
            whole,
            world.step(method, [order]),
            "reordering the samples",
            "does `loss` pair samples by their position? Use batch.unit and batch.weight",
        )


def step_prefers_good(subject: Subject) -> None:
    """A gradient step makes good completions more likely relative to bad ones."""
    method, world, samples = subject.run(noise=0.0)
    gradient = world.step(method, [samples]).gradient
    pull = sum(good * -float(gradient[key].sum()) for key, good in _goodness(world).items())
    if not pull > 0:
        how = "unchanged" if pull == 0 else "smaller"
        raise ContractError(
            f"a gradient step leaves the gap between good and bad completions {how}: is a sign flipped (the loss is "
            "minimised), is the advantage bad minus good, or is the policy detached?"
        )


def no_contrast_no_gradient(subject: Subject) -> None:
    """Completions of equal reward get no gradient in the first step, where a KL penalty has none."""
    needs = subject.new().needs
    if needs.gold or needs.corrupted or needs.rollouts < 2:
        raise InapplicableError("learns from given answers, or from one completion per prompt")
    method, world, samples = subject.run(noise=0.0, contrast=False)
    if not samples:
        return
    largest = max(float(values.abs().max()) for values in world.step(method, [samples]).gradient.values())
    if largest > VISIBLE:
        raise ContractError(
            f"a gradient of up to {largest:.2g}, although the completions of each prompt are equally good and only "
            "prompts differ: is the baseline taken over the batch instead of the prompt's group, or missing? If each "
            "completion is meant to be judged by itself, say so: exempt_checks = {'contrast': 'the reason'}"
        )


def seed_decides(subject: Subject) -> None:
    """Equal seeds give equal samples and gradients, with a used and with a new instance."""
    first = subject.new()
    world = build_world(first.needs)
    runs = []
    for method in (first, first, subject.new()):
        with seeded(11):
            samples = method.experience(list(world.groups))
            runs.append((samples, world.step(method, [samples])))
    for samples, step in runs[1:]:
        if samples != runs[0][0] or step.loss != runs[0][1].loss or step.change(runs[0][1]) > 0:
            raise ContractError(
                "two runs with one seed differ: does the method keep a counter or a running mean, read a clock, or "
                "use its own random generator? A resumed run would differ from an uninterrupted one"
            )


def groups_stay_unchanged(subject: Subject) -> None:
    """``experience`` does not modify its input."""
    method = subject.new()
    groups = list(build_world(method.needs).groups)
    before = copy.deepcopy(groups)
    method.experience(groups)
    if groups != before:
        raise ContractError("`experience` modified its groups; make new ones with dataclasses.replace")


def batch_stays_unchanged(subject: Subject) -> None:
    """``loss`` does not modify its input."""
    method, world, samples = subject.run()
    batch, _ = collate(
        samples, {key: value.clone().requires_grad_() for key, value in world.policy.items()}, method.needs
    )
    before = _tensors(batch)
    method.loss(batch)
    after = _tensors(batch)
    kept = {name for name in before if name in after and torch.equal(before[name], after[name])}
    changed = sorted({*before, *after} - kept)
    if changed:
        raise ContractError(f"`loss` modified batch.{', batch.'.join(changed)} in place: use out-of-place operations")


def reference_is_a_constant(subject: Subject) -> None:
    """Reference and sampling log-probabilities, if asked for, affect the gradient, as constants."""
    needs = subject.new().needs
    names: tuple[Literal["reference", "behaviour"], ...] = ("reference", "behaviour")
    asked = [which for which in names if getattr(needs, which)]
    if not asked:
        raise InapplicableError("asks for neither reference nor sampling log-probabilities")
    method, world, samples = subject.run()
    step = world.step(method, [samples])
    for which in asked:
        other = shifted(world, which)
        if step.change(other.step(method, [method.experience(list(other.groups))])) <= VISIBLE:
            raise ContractError(
                f"the gradient does not depend on batch.{which}: does gradient flow through it and cancel, or is "
                f"batch.policy used in its place? If it is not used at all, unset needs.{which} and save its cost"
            )


CHECKS: Mapping[str, Callable[[Subject], None]] = {
    "config": config_is_strict,
    "documentation": config_is_documented,
    "needs": needs_are_sound,
    "experience": experience_is_usable,
    "loss": loss_is_usable,
    "micro-batches": micro_batches_are_inert,
    "padding": padding_is_inert,
    "order": order_is_inert,
    "direction": step_prefers_good,
    "contrast": no_contrast_no_gradient,
    "determinism": seed_decides,
    "groups-unchanged": groups_stay_unchanged,
    "batch-unchanged": batch_stays_unchanged,
    "reference": reference_is_a_constant,
}
"""All checks by name, in the order of reports."""


def _same(one: Step, other: Step, what: str, mistake: str) -> None:
    change = one.change(other)
    if not change <= TOLERANCE:
        raise ContractError(f"{what} changes the gradient by {change:.2g} of its size: {mistake}")


def _goodness(world: World) -> dict[tuple[str, tuple[int, ...]], float]:
    """How much better than its group each completion is; if all are equal, than all groups; if those are, 1."""

    def centred(completions: Sequence[Completion]) -> dict[tuple[str, tuple[int, ...]], float]:
        mean = sum(one.reward for one in completions) / len(completions)
        return {key_of(one): one.reward - mean for one in completions}

    everything = [one for group in world.groups for one in group.completions]
    within = {key: value for group in world.groups for key, value in centred(group.completions).items()}
    for goodness in (within, centred(everything)):
        if any(goodness.values()):
            return goodness
    return {key_of(one): 1.0 for one in everything}


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Copies of the tensors of a batch, by name."""
    extras = {f"extras[{name!r}]": value for name, value in batch.extras.items()}
    values = {**vars(batch), **extras}.items()
    return {name: value.detach().clone() for name, value in values if isinstance(value, Tensor)}
