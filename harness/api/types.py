"""The data that engine and methods exchange: Completion, Group, Sample, Needs, Batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Source = Literal["policy", "base", "gold", "corrupted", "shuffled"]
Reduction = Literal["token", "sequence", "unit"]


@dataclass(frozen=True)
class Completion:
    """One completion of one prompt, scored.

    Attributes:
        prompt_id: Id of its prompt.
        tokens: Token ids, including the end-of-turn token if it was emitted. Never empty.
        text: Decoded text without special tokens.
        reward: The weighted reward, or NaN if the study has none.
        parts: The unweighted rewards by name.
        source: ``policy`` if sampled from the policy, ``base`` if from the starting weights; ``gold`` for the data
            set's answer; ``corrupted`` for a wrong answer made from it; ``shuffled`` if sampled with the video's frames
            in random order, for comparison and never trained on.
        behaviour: Per-token log-probabilities under the policy at sampling (empty unless needed).
        reference: Per-token log-probabilities under the reference model (empty unless needed).
        truncated: Whether it was cut off by the token limit.
        missed: Whether the study's scorer does not read its answer, although tolerant reading finds one.
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
    missed: bool = False


@dataclass(frozen=True)
class Group:
    """The scored completions of one prompt."""

    prompt_id: str
    completions: tuple[Completion, ...]
    question_type: str = ""

    def by_source(self, source: Source) -> tuple[Completion, ...]:
        """The completions from one source, in order."""
        return tuple(c for c in self.completions if c.source == source)


@dataclass(frozen=True)
class Sample:
    """A completion to train on.

    Attributes:
        completion: The tokens to train on.
        weight: The method's coefficient: an advantage, or +1 for chosen and -1 for rejected.
        unit: Samples of one unit (such as a preference pair) stay in one micro-batch.
        extras: Further numbers, which reach ``loss`` as ``batch.extras``.
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
        shuffled: Further completions sampled per prompt with the video's frames in random order.
        gold: Whether groups carry the data set's answer.
        corrupted: Synthetic wrong answers made from the gold answer, per prompt.
        reference: Whether completions carry reference log-probabilities.
        behaviour: Whether completions carry their log-probabilities at sampling.
        resample_dropped: Whether prompts whose groups ``experience`` dropped are replaced by new ones.
        reduce: What the engine averages the loss over: ``token``, ``sequence`` (one number per
            sample) or ``unit`` (one number per unit).
        offline: Whether rollouts are sampled once for each prompt, from the starting weights, and kept; their source is
            ``base``. Otherwise they are sampled from the current policy whenever the prompt is drawn.
    """

    rollouts: int = 0
    shuffled: int = 0
    gold: bool = False
    corrupted: int = 0
    reference: bool = False
    behaviour: bool = False
    resample_dropped: bool = False
    reduce: Reduction = "sequence"
    offline: bool = False


@dataclass
class Batch:
    """Per-token log-probabilities of n samples, right-padded to L tokens.

    Attributes:
        policy: (n, L) under the policy, with gradient.
        mask: (n, L), 1.0 on completion tokens and 0.0 on padding.
        weight: (n,), the samples' weights.
        unit: (n,), the samples' units.
        reference: (n, L) under the reference model, without gradient; None unless needed.
        behaviour: (n, L) under the policy at sampling, without gradient; None unless needed.
        extras: (n,) each, the samples' extras.
    """

    policy: Tensor
    mask: Tensor
    weight: Tensor
    unit: Tensor
    reference: Tensor | None = None
    behaviour: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def seq(self, values: Tensor) -> Tensor:
        """(n,) sums of (n, L) values over each sample's tokens."""
        return (values * self.mask).sum(-1)

    @property
    def lengths(self) -> Tensor:
        """(n,) numbers of tokens, at least 1."""
        return self.mask.sum(-1).clamp(min=1.0)
