"""Synthetic completions with log-probabilities, and one training step on them, without a model.

The log-probability of every token is a parameter, so the gradient of a step shows where the method pushes each token
of each completion. Batches and reduced losses come from the trainer's own functions.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.api.algorithm import Algorithm
from harness.api.types import Batch, Completion, Group, Needs, Sample, Source
from harness.train.reduction import denominator, make_batch, reduce_loss

PROMPTS = 5
LONGEST = 8
GARBAGE = -1.7
"""A log-probability at padding, which a method must not use."""

Key = tuple[str, tuple[int, ...]]


class Step(NamedTuple):
    """The result of one training step.

    Attributes:
        loss: The reduced loss.
        gradient: By completion, with respect to its tokens' log-probabilities.
        padding: The largest absolute gradient at padding.
        logged: What ``loss`` logged for each micro-batch.
    """

    loss: float
    gradient: dict[Key, Tensor]
    padding: float
    logged: list[dict[str, float]]

    def change(self, other: Step) -> float:
        """The largest difference between two gradients, relative to the largest gradient."""
        mine, theirs = torch.cat([*self.gradient.values()]), torch.cat([*other.gradient.values()])
        largest = max(float(mine.abs().max()), float(theirs.abs().max()))
        return float((mine - theirs).abs().max()) / largest if largest > 0 else 0.0


@dataclass(frozen=True)
class World:
    """Scored groups and the policy's log-probabilities of their completions."""

    groups: tuple[Group, ...]
    policy: dict[Key, Tensor]

    def step(self, method: Algorithm, parts: Sequence[Sequence[Sample]], padding: int = 0) -> Step:
        """Run the method's loss on micro-batches and accumulate the gradient.

        Args:
            method: The method.
            parts: The samples of one step, by micro-batch.
            padding: Extra columns of padding; if any, padding holds garbage instead of 0.
        """
        leaves = {key: values.clone().requires_grad_() for key, values in self.policy.items()}
        total = denominator([sample for part in parts for sample in part], method.needs)
        value, at_padding, logged = 0.0, 0.0, []
        for part in parts:
            batch, filler = collate(part, leaves, method.needs, padding)
            unreduced, numbers = method.loss(batch)
            loss = reduce_loss(unreduced, batch, method.needs, total)
            loss.backward()
            value += loss.item()
            logged.append(numbers)
            if filler.grad is not None:
                at_padding = max(at_padding, float(filler.grad.abs().max()))
        gradient = {key: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for key, leaf in leaves.items()}
        return Step(value, gradient, at_padding, logged)


def build_world(needs: Needs, *, noise: float = 0.3, contrast: bool = True) -> World:
    """Groups with exactly what a method needs.

    Args:
        needs: The completions and log-probabilities to make.
        noise: Standard deviation of sampling and reference log-probabilities around the policy's; 0 as in a first step.
        contrast: Whether the completions of a prompt differ in reward. If not, rewards differ only between prompts,
            and all completions are equally long and not truncated.
    """
    rng = random.Random(20240402)
    groups, policy = [], {}
    for index in range(PROMPTS):
        flat = not contrast or (index == PROMPTS - 1 and needs.rollouts > 1)
        level = 0.5 * (index % 3) if not contrast else 0.5
        rewards = [level if flat else _reward(place, index, rng) for place in range(needs.rollouts)]
        plan: list[tuple[Source, float]] = [("base" if needs.offline else "policy", reward) for reward in rewards]
        plan += [("shuffled", level if flat else rng.choice((0.0, 1.0))) for _ in range(needs.shuffled)]
        plan += [("gold", 1.0) for _ in range(needs.gold)] + [("corrupted", 0.0) for _ in range(needs.corrupted)]
        completions = []
        for place, (source, reward) in enumerate(plan):
            one = _completion(f"prompt-{index}", place, source, reward, rng, plain=not contrast)
            values = [rng.uniform(-3.0, -0.1) for _ in one.tokens]
            policy[one.prompt_id, one.tokens] = torch.tensor(values)
            nearby = [tuple(value + rng.gauss(0.0, noise) for value in values) for _ in range(2)]
            completions.append(
                replace(
                    one,
                    behaviour=nearby[0] if needs.behaviour and source == "policy" else (),
                    reference=nearby[1] if needs.reference and source != "shuffled" else (),
                )
            )
        groups.append(Group(f"prompt-{index}", tuple(completions), "object_counting"))
    return World(tuple(groups), policy)


def shifted(world: World, which: Literal["reference", "behaviour"]) -> World:
    """The same groups with other ``reference`` or ``behaviour`` log-probabilities."""
    rng = random.Random(7)

    def moved(one: Completion) -> Completion:
        values = tuple(value + rng.uniform(1.0, 4.0) for value in getattr(one, which))
        return replace(one, reference=values) if which == "reference" else replace(one, behaviour=values)

    groups = tuple(replace(group, completions=tuple(map(moved, group.completions))) for group in world.groups)
    return World(groups, world.policy)


def collate(
    samples: Sequence[Sample], leaves: dict[Key, Tensor], needs: Needs, padding: int = 0
) -> tuple[Batch, Tensor]:
    """A batch, and the (n, L) tensor whose values it has at padding."""
    rows = [leaves[key_of(sample.completion)] for sample in samples]
    policy = torch.nn.functional.pad(pad_sequence(rows, batch_first=True), (0, padding))
    lengths = torch.tensor([len(row) for row in rows])
    real = torch.arange(policy.shape[1])[None] < lengths[:, None]
    filler = torch.full(policy.shape, GARBAGE if padding else 0.0, requires_grad=True)
    return make_batch(samples, torch.where(real, policy, filler), real.float(), needs), filler


def key_of(completion: Completion) -> Key:
    """Identifies a completion, whatever a method changes about its reward."""
    return completion.prompt_id, completion.tokens


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators inside, and restore their states afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _reward(place: int, index: int, rng: random.Random) -> float:
    """Good and bad completions for every prompt; with one completion per prompt, good and bad prompts."""
    first = (1.0, 0.0)[(place + index) % 2]
    return first if place < 2 else rng.choice((0.0, 0.5, 1.0))


def _completion(prompt: str, place: int, source: Source, reward: float, rng: random.Random, plain: bool) -> Completion:
    length = LONGEST if plain else rng.randint(1, LONGEST)
    tokens = (place, *(rng.randrange(100, 200) for _ in range(length - 1)))
    truncated = source in ("policy", "base") and not plain and rng.random() < 0.2
    return Completion(prompt, tokens, f"text {place}", reward, {"choice": reward}, source=source, truncated=truncated)
