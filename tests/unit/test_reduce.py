"""Batches, micro-batches, denominators and the reduction."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from harness.api.types import Completion, Needs, Sample
from harness.errors import UserError
from harness.train.reduction import denominator, make_batch, micro_batches, reduce_loss


def sample(length: int, unit: int = 0, prompt: str = "p", weight: float = 1.0, **extras: float) -> Sample:
    return Sample(Completion(prompt, tuple(range(1, length + 1))), weight, unit, extras)


def rows(*lengths: int, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    width = width or max(lengths)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).float()
    return (-torch.arange(1.0, width + 1).expand(len(lengths), -1) * mask).requires_grad_(), mask


SAMPLES = [sample(1, 5), sample(3, 2), sample(2, 5)]


@pytest.mark.parametrize(("reduce", "count"), [("token", 6.0), ("sequence", 3.0), ("unit", 2.0)])
def test_denominator_counts(reduce: str, count: float) -> None:
    assert denominator(SAMPLES, Needs(reduce=reduce)) == count  # type: ignore[arg-type]


def test_denominator_of_nothing() -> None:
    with pytest.raises(ValueError, match="without samples"):
        denominator([], Needs())


def test_reduction_sums_what_is_real() -> None:
    policy, mask = rows(1, 3, 2)
    batch = make_batch(SAMPLES, policy, mask, Needs())
    garbage = torch.where(mask > 0, -policy, torch.tensor(99.0))
    assert reduce_loss(garbage, batch, Needs(reduce="token"), 6.0).item() == pytest.approx((1 + 6 + 3) / 6)
    each = -policy.sum(-1)
    assert reduce_loss(each, batch, Needs(reduce="sequence"), 4.0).item() == pytest.approx(10 / 4)
    assert reduce_loss(each[:2], batch, Needs(reduce="unit"), 2.0).item() == pytest.approx(7 / 2)


@pytest.mark.parametrize(
    ("reduce", "shape", "expected"),
    [
        ("token", (3,), r"\(3,\), expected \(3, 3\)"),
        ("sequence", (3, 3), r"\(3, 3\), expected \(3,\)"),
        ("sequence", (), r"\(\), expected \(3,\)"),
        ("unit", (3,), r"\(3,\), expected \(2,\)"),
    ],
)
def test_wrong_shapes_are_named(reduce: str, shape: tuple[int, ...], expected: str) -> None:
    policy, mask = rows(1, 3, 2)
    batch = make_batch(SAMPLES, policy, mask, Needs())
    with pytest.raises(UserError, match=expected):
        reduce_loss(torch.zeros(shape) * policy.sum(), batch, Needs(reduce=reduce), 1.0)  # type: ignore[arg-type]


def test_a_loss_without_gradient_is_refused() -> None:
    policy, mask = rows(1, 3, 2)
    batch = make_batch(SAMPLES, policy, mask, Needs())
    with pytest.raises(UserError, match="without gradient"):
        reduce_loss(policy.detach().sum(-1), batch, Needs(), 1.0)
    with pytest.raises(UserError, match="got float"):
        reduce_loss(1.0, batch, Needs(), 1.0)  # type: ignore[arg-type]
    with torch.no_grad():
        frozen = replace(batch, policy=policy.detach())
        assert reduce_loss(-frozen.policy.sum(-1), frozen, Needs(), 1.0).item() == pytest.approx(10.0)


def test_batch_carries_what_was_asked_for() -> None:
    one = Sample(Completion("p", (7, 8), behaviour=(-1.0, -2.0), reference=(-3.0, -4.0)), 0.5, 3, {"z": 2.0, "a": 1.0})
    two = Sample(Completion("p", (9,), behaviour=(-5.0,), reference=(-6.0,)), -0.5, 1, {"a": 4.0, "z": 3.0})
    policy, mask = rows(2, 1, width=3)
    batch = make_batch([one, two], policy, mask, Needs(reference=True, behaviour=True))
    assert batch.policy is policy and batch.policy.requires_grad
    assert batch.reference is not None and batch.behaviour is not None
    assert batch.reference.tolist() == [[-3.0, -4.0, 0.0], [-6.0, 0.0, 0.0]]
    assert batch.behaviour.tolist() == [[-1.0, -2.0, 0.0], [-5.0, 0.0, 0.0]]
    assert not batch.reference.requires_grad and not batch.behaviour.requires_grad
    assert batch.weight.tolist() == [0.5, -0.5] and batch.unit.tolist() == [3, 1]
    assert {name: values.tolist() for name, values in batch.extras.items()} == {"a": [1.0, 4.0], "z": [2.0, 3.0]}
    assert batch.lengths.tolist() == [2.0, 1.0]
    plain = make_batch([one, two], policy, mask, Needs())
    assert plain.reference is None and plain.behaviour is None


def test_missing_log_probabilities_are_named() -> None:
    policy, mask = rows(2)
    given = Sample(Completion("scene-7", (1, 2), source="gold", reference=(-1.0,)))
    with pytest.raises(UserError, match="scene-7: a gold completion of 2 tokens carries 1 reference"):
        make_batch([given], policy, mask, Needs(reference=True))
    with pytest.raises(UserError, match="only sampled completions have them"):
        make_batch([given], policy, mask, Needs(behaviour=True))


def test_prompt_tokens_in_the_mask_are_refused() -> None:
    policy, mask = rows(4)
    with pytest.raises(ValueError, match="without the prompt's"):
        make_batch([sample(2)], policy, mask, Needs())
    with pytest.raises(ValueError, match=r"must both be \(2, tokens\)"):
        make_batch([sample(4), sample(4)], policy, mask, Needs())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_must_be_finite(bad: float) -> None:
    policy, mask = rows(1)
    with pytest.raises(UserError, match="weight="):
        make_batch([sample(1, weight=bad)], policy, mask, Needs())
    with pytest.raises(UserError, match="z="):
        make_batch([sample(1, z=bad)], policy, mask, Needs())


def test_extras_must_agree() -> None:
    policy, mask = rows(1, 1)
    with pytest.raises(UserError, match="the same"):
        make_batch([sample(1, z=1.0), sample(1)], policy, mask, Needs())


def shape(parts: list[list[Sample]]) -> list[list[tuple[str, int]]]:
    return [[(one.completion.prompt_id, one.unit) for one in part] for part in parts]


def test_units_are_never_split() -> None:
    pairs = [sample(1, unit, f"p{unit}") for unit in (0, 0, 1, 1, 2, 2)]
    assert shape(micro_batches(pairs, 3)) == [[("p0", 0)] * 2, [("p1", 1)] * 2, [("p2", 2)] * 2]
    assert shape(micro_batches(pairs, 4)) == [[("p0", 0)] * 2 + [("p1", 1)] * 2, [("p2", 2)] * 2]
    assert shape(micro_batches(pairs, 1)) == [[("p0", 0)] * 2, [("p1", 1)] * 2, [("p2", 2)] * 2]
    scattered = [pairs[0], pairs[2], pairs[1], pairs[3]]
    assert shape(micro_batches(scattered, 2)) == [[("p0", 0)] * 2, [("p1", 1)] * 2]


def test_prompts_stay_together_where_they_fit() -> None:
    answers = [sample(1, place, prompt) for place, prompt in enumerate("aaabbbcc")]
    assert ["".join(p for p, _ in part) for part in shape(micro_batches(answers, 4))] == ["aaa", "bbb", "cc"]
    assert ["".join(p for p, _ in part) for part in shape(micro_batches(answers, 5))] == ["aaa", "bbbcc"]
    assert ["".join(p for p, _ in part) for part in shape(micro_batches(answers, 2))] == ["aa", "ab", "bb", "cc"]
    mixed = [sample(1, place, prompt) for place, prompt in enumerate("abab")]
    assert ["".join(p for p, _ in part) for part in shape(micro_batches(mixed, 2))] == ["aa", "bb"]


def test_every_sample_is_in_exactly_one_micro_batch() -> None:
    answers = [sample(1, place // 2, f"p{place // 5}") for place in range(23)]
    for size in range(1, 25):
        parts = micro_batches(answers, size)
        assert sorted(id(one) for part in parts for one in part) == sorted(map(id, answers))
        assert all(len(part) <= max(size, 2) for part in parts)
    assert micro_batches([], 3) == []
    with pytest.raises(ValueError, match="at least 1"):
        micro_batches(answers, 0)
