"""From samples to batches, and from unreduced losses to one number, the same for every method.

A loss is divided by a count that is known before the first micro-batch, so that splitting the samples of a
step into micro-batches cannot change its gradient. The trainer and the conformance suite use these functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.api.types import Batch, Needs, Sample
from harness.errors import UserError


def denominator(samples: Sequence[Sample], needs: Needs) -> float:
    """What the summed loss of one optimiser step is divided by.

    Args:
        samples: All samples of the step, over all its micro-batches.
        needs: Says whether tokens, samples or units are counted.

    Raises:
        ValueError: There are no samples.
    """
    if not samples:
        raise ValueError("a step without samples has no denominator")
    if needs.reduce == "token":
        return float(sum(len(sample.completion.tokens) for sample in samples))
    if needs.reduce == "sequence":
        return float(len(samples))
    return float(len({sample.unit for sample in samples}))


def reduce_loss(loss: Tensor, batch: Batch, needs: Needs, denominator: float) -> Tensor:
    """Sum the unreduced loss of a micro-batch over everything but padding, and divide.

    Args:
        loss: What the method returned: (n, L), (n,) or (units,) as ``needs.reduce`` says.
        batch: The micro-batch it was computed from.
        needs: The method's needs.
        denominator: The step's :func:`denominator`, the same for each of its micro-batches.

    Returns:
        A scalar; summed over the micro-batches of a step it is the step's loss.

    Raises:
        UserError: The loss is not a tensor, has the wrong shape, or is cut off from the policy.
    """
    expected, meaning = _expected_shape(batch, needs)
    if not isinstance(loss, Tensor):
        raise UserError(f"`loss` must return a tensor first, got {type(loss).__name__}; expected shape {expected}")
    if tuple(loss.shape) != expected:
        raise UserError(
            f"`loss` returned shape {tuple(loss.shape)}, expected {expected}: needs.reduce={needs.reduce!r} asks for "
            f"{meaning}. Return the loss unreduced; the engine averages it."
        )
    if batch.policy.requires_grad and not loss.requires_grad:
        raise UserError("`loss` returned a tensor without gradient: is batch.policy detached or unused?")
    return ((loss * batch.mask) if needs.reduce == "token" else loss).sum() / denominator


def make_batch(samples: Sequence[Sample], policy: Tensor, mask: Tensor, needs: Needs) -> Batch:
    """Make the batch of some samples and their log-probabilities under the policy.

    Args:
        samples: n samples.
        policy: (n, L) log-probabilities of the completions' tokens, right-padded.
        mask: (n, L), 1.0 on the completions' tokens and 0.0 on padding.
        needs: Says whether reference and sampling log-probabilities are included.

    Returns:
        A batch on the policy's device and in its precision; all but ``policy`` is constant.

    Raises:
        ValueError: Shapes or mask do not fit the completions (prompt tokens in the mask, for example).
        UserError: A sample lacks log-probabilities that the method asked for, has a weight or an extra
            that is not finite, or has other extras than the rest.
    """
    lengths = [len(sample.completion.tokens) for sample in samples]
    if policy.shape != mask.shape or policy.dim() != 2 or len(policy) != len(samples):
        raise ValueError(
            f"policy {tuple(policy.shape)} and mask {tuple(mask.shape)} must both be ({len(samples)}, tokens)"
        )
    if mask.detach().sum(-1).tolist() != lengths:
        raise ValueError(
            f"the mask counts {mask.sum(-1).tolist()} tokens, the completions have {lengths}: "
            "it must cover the completions' tokens, without the prompt's and without padding"
        )
    names = set(samples[0].extras) if samples else set()
    for sample in samples:
        _check_numbers(sample, names)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=policy.dtype, device=policy.device)

    def rows(which: str) -> Tensor:
        values = [column(_log_probs_of(sample, which)) for sample in samples]
        padded = pad_sequence(values, batch_first=True)
        return torch.nn.functional.pad(padded, (0, policy.shape[1] - padded.shape[1]))

    return Batch(
        policy=policy,
        mask=mask.to(policy.dtype),
        weight=column([sample.weight for sample in samples]),
        unit=torch.tensor([sample.unit for sample in samples], dtype=torch.long, device=policy.device),
        reference=rows("reference") if needs.reference else None,
        behaviour=rows("behaviour") if needs.behaviour else None,
        extras={name: column([sample.extras[name] for sample in samples]) for name in sorted(names)},
    )


def micro_batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Split the samples of a step into micro-batches of at most ``size`` samples.

    A unit is never split: one that is larger than ``size`` is a micro-batch of its own. Samples of one prompt
    stay together where ``size`` allows it, since a micro-batch runs each of its prompts once, and prompts
    are far longer than completions.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"the size of a micro-batch must be at least 1, got {size}")
    units: dict[int, list[Sample]] = {}
    for sample in samples:
        units.setdefault(sample.unit, []).append(sample)
    prompts: dict[str, list[list[Sample]]] = {}
    for unit in units.values():
        prompts.setdefault(unit[0].completion.prompt_id, []).append(unit)
    parts: list[list[Sample]] = [[]]
    for blocks in prompts.values():
        whole = [sample for unit in blocks for sample in unit]
        for block in [whole] if len(whole) <= size else blocks:
            if parts[-1] and len(parts[-1]) + len(block) > size:
                parts.append([])
            parts[-1] += block
    return [part for part in parts if part]


def _expected_shape(batch: Batch, needs: Needs) -> tuple[tuple[int, ...], str]:
    if needs.reduce == "token":
        return tuple(batch.policy.shape), "one number a token, (samples, tokens)"
    if needs.reduce == "sequence":
        return (len(batch.policy),), "one number a sample, (samples,)"
    return (int(batch.unit.unique().numel()),), "one number a unit, (distinct values of batch.unit,)"


def _log_probs_of(sample: Sample, which: str) -> tuple[float, ...]:
    one = sample.completion
    values: tuple[float, ...] = getattr(one, which)
    if len(values) != len(one.tokens):
        raise UserError(
            f"prompt {one.prompt_id}: a {one.source} completion of {len(one.tokens)} tokens carries {len(values)} "
            f"{which} log-probabilities, but needs.{which} is set"
            + ("; only sampled completions have them" if which == "behaviour" and one.source != "policy" else "")
        )
    return values


def _check_numbers(sample: Sample, names: set[str]) -> None:
    prompt = sample.completion.prompt_id
    if set(sample.extras) != names:
        raise UserError(
            f"prompt {prompt}: `experience` gave a sample the extras {sorted(sample.extras)} and another one "
            f"{sorted(names)}; give all samples the same"
        )
    for name, value in (("weight", sample.weight), *sample.extras.items()):
        if not math.isfinite(value):
            raise UserError(f"prompt {prompt}: `experience` gave a sample {name}={value}; it must be finite")
