"""What a sampler is: it answers prompts with completions, in training and in evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from harness.api.config import StrictConfig

Policy = TypeVar("Policy")
"""The model: :class:`harness.engine.policy.Policy`, which a sampler names as its first parameter."""

Prompt = TypeVar("Prompt")
"""An encoded prompt: :class:`harness.data.encode.EncodedPrompt`, a sampler's second parameter."""


class Sampled(NamedTuple):
    """One sampled completion.

    Attributes:
        tokens: Token ids, with the end token if it was sampled. Never empty.
        text: Decoded, without special tokens.
        log_probs: Per-token log-probabilities under the sampling policy at the sampling temperature.
        truncated: Whether the token limit ended it.
    """

    tokens: tuple[int, ...]
    text: str
    log_probs: tuple[float, ...]
    truncated: bool


class Sampler(ABC, Generic[Policy, Prompt]):
    """Samples completions from a policy; a study names it as ``rollout.sampler``.

    Args:
        policy: The model to sample from. Training changes its weights in place, so it must be read anew in every call.
        batch: The most completions to decode at once.
        config: Validated options.

    Attributes:
        plugin_group: Where plugins of this kind are registered.
        Config: Its options (``rollout.sampler_options``).
        summary: One line for ``harness list``.
    """

    plugin_group: ClassVar[str] = "samplers"
    Config: ClassVar[type[StrictConfig]] = StrictConfig
    summary: ClassVar[str] = ""

    def __init__(self, policy: Policy, batch: int, config: Any = None) -> None:
        self.policy = policy
        self.batch = batch
        self.config: Any = self.Config() if config is None else config

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
        """Sample n completions of each prompt, in the order of the prompts.

        Args:
            prompts: Encoded prompts.
            n: Completions of each prompt.
            temperature: Divides the logits; 0 is greedy decoding, and then n is 1.
            max_new_tokens: The most tokens of a completion.
            seed: A prompt's random draws depend only on this and on its place.
            places: The prompts' places; 0, 1, ... if None.
        """
