"""The shapes that flow between the engine and a method: Completion, Group, Sample, Needs, Batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Source = Literal["policy", "gold", "corrupted", "shuffled"]
Reduction = Literal["token", "sequence", "unit"]


@dataclass(frozen=True)
class Completion:
    """One answer to one prompt, scored.

    Attributes:
        prompt_id: Id of the prompt it answers.
        tokens: Token ids, with the end-of-turn token when it was emitted. Never empty.
        text: Decoded text without special tokens.
        reward: The weighted reward, or NaN when the study asks for none.
        parts: The reward's breakdown by reward name.
        source: ``policy`` for a sampled answer, ``gold`` for the data set's answer, ``corrupted``
            for a gold answer turned into a wrong one, ``shuffled`` for an answer sampled with the video's frames in
            random order, which is there to compare with and must not be trained on.
        behaviour: Per-token log-probabilities under the policy that sampled it (empty unless sampled).
        reference: Per-token log-probabilities under the reference model (empty unless needed).
        truncated: Whether the token limit ended it.
    """

    prompt_id: str
    tokens: tuple[int, ...]
    text: str = ""
    reward: float = float("nan")
    parts: Mapping[str, float] = field(default_factory=dict)
    source: Source = "policy"
    behaviour: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()
    truncated: bool = False


@dataclass(frozen=True)
class Group:
    """One prompt with several completions, each scored."""

    prompt_id: str
    completions: tuple[Completion, ...]
    question_type: str = ""

    def by_source(self, source: Source) -> tuple[Completion, ...]:
        """The completions of one origin, in their order."""
        return tuple(c for c in self.completions if c.source == source)


@dataclass(frozen=True)
class Sample:
    """A completion as one method wants to train on it.

    Attributes:
        completion: The tokens to train on.
        weight: The method's coefficient: an advantage, or +1 and -1 for chosen and rejected.
        unit: Samples of one unit stay in one micro-batch (a preference pair, a group).
        extras: Further numbers per sample; they reach ``loss`` as ``batch.extras``.
    """

    completion: Completion
    weight: float = 1.0
    unit: int = 0
    extras: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What a method asks of the engine.

    Attributes:
        rollouts: Completions sampled per prompt (0 for none).
        shuffled: Further completions sampled per prompt with its video's frames in random order.
        gold: Whether groups carry the data set's answer.
        corrupted: Synthetic wrong answers made from the gold answer, per prompt.
        reference: Whether completions carry reference log-probabilities.
        behaviour: Whether completions carry the sampling policy's log-probabilities.
        resample_dropped: Whether prompts whose groups ``experience`` dropped are replaced by new ones.
        reduce: How the engine averages the unreduced loss: over all tokens, over samples
            (``loss`` returns one number a sample), or over units (one number a unit).
    """

    rollouts: int = 0
    shuffled: int = 0
    gold: bool = False
    corrupted: int = 0
    reference: bool = False
    behaviour: bool = False
    resample_dropped: bool = False
    reduce: Reduction = "sequence"


@dataclass
class Batch:
    """Per-token log-probabilities of n samples, right-padded to L tokens.

    Attributes:
        policy: (n, L) log-probabilities under the policy, with gradient.
        mask: (n, L), 1.0 on real completion tokens and 0.0 on padding.
        weight: (n,) the samples' weights.
        unit: (n,) the samples' units.
        reference: (n, L) under the reference model, without gradient; None unless needed.
        behaviour: (n, L) under the sampling policy, without gradient; None unless needed.
        extras: Each (n,), from the samples' extras.
    """

    policy: Tensor
    mask: Tensor
    weight: Tensor
    unit: Tensor
    reference: Tensor | None = None
    behaviour: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def seq(self, values: Tensor) -> Tensor:
        """Sum (n, L) values over each sample's real tokens, giving (n,)."""
        return (values * self.mask).sum(-1)

    @property
    def lengths(self) -> Tensor:
        """(n,) number of real tokens of each sample, at least 1."""
        return self.mask.sum(-1).clamp(min=1.0)
