"""The contract of a sampler, which samples completions in training and in evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from harness.api.config import Plugin

Policy = TypeVar("Policy")
"""Always :class:`harness.engine.policy.Policy`, which samplers name; this package may not import it."""

Prompt = TypeVar("Prompt")
"""Always :class:`harness.data.encode.EncodedPrompt`, which samplers name."""


class Sampled(NamedTuple):
    """One sampled completion.

    Attributes:
        tokens: Token ids, including the end-of-turn token if it was sampled. Never empty.
        text: Decoded text without special tokens.
        log_probs: Per-token log-probabilities under the sampling policy at the sampling temperature.
        truncated: Whether it was cut off by the token limit.
    """

    tokens: tuple[int, ...]
    text: str
    log_probs: tuple[float, ...]
    truncated: bool


class Sampler(Plugin, ABC, Generic[Policy, Prompt]):
    """Samples completions from a policy; a study names it as ``rollout.sampler``.

    Args:
        policy: The model. Training changes its weights in place, so do not keep copies between calls.
        batch: The largest number of completions to decode at once.
        config: Options, from ``rollout.sampler_options``.
    """

    plugin_group: ClassVar[str] = "samplers"

    def __init__(self, policy: Policy, batch: int, config: Any = None) -> None:
        super().__init__(config)
        self.policy = policy
        self.batch = batch

    @abstractmethod
    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        places: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        """Sample n completions per prompt, in the order of the prompts.

        Args:
            prompts: Encoded prompts.
            n: Completions per prompt.
            temperature: Divides the logits; 0 means greedy decoding, with n = 1.
            max_new_tokens: Token limit of a completion.
            seed: A prompt's random numbers depend only on this and on its place.
            places: The places of the prompts; by default 0, 1, ...
        """
