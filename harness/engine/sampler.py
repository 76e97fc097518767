"""Sampling answers: the Sampler protocol and its transformers implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from harness.data.encode import EncodedPrompt
from harness.engine.cuda_graphs import DecodingGraphs
from harness.engine.decoding import Decoder, NaiveDecoder, SharedPrefixDecoder
from harness.engine.out_of_memory import AdaptiveBatchSize
from harness.engine.policy import Policy

KEEP_BELOW = 0.5
"""Finished rows leave the batch when no more than this share of it goes on."""


class Sampled(NamedTuple):
    """One sampled answer.

    Attributes:
        tokens: Token ids, with the end token if it was sampled.
        text: Decoded, without special tokens.
        log_probs: Per-token log-probabilities of the sampling policy at the sampling temperature.
        truncated: The token limit ended it.
    """

    tokens: tuple[int, ...]
    text: str
    log_probs: tuple[float, ...]
    truncated: bool


class Sampler(Protocol):
    """Anything that answers prompts."""

    def sample(
        self,
        prompts: Sequence[EncodedPrompt],
        n: int,
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        places: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        """Answer each prompt n times; greedy when the temperature is 0 (then n must be 1).

        A prompt's draws depend on the seed and its place, which is where it stands among these prompts unless told.
        """
        ...


class TransformersSampler:
    """Prefill each prompt once, let its n answers attend to the one copy, decode with transformers' modules.

    Every row draws from its own random stream, derived from the seed and its place, so that the draw does not
    depend on how rows are batched. Special tokens other than the end of turn are never sampled. The model is in
    evaluation mode, so dropout is off.

    Args:
        policy: The model that answers.
        batch: Most completions decoded at once; half as many from when memory runs out.
    """

    def __init__(self, policy: Policy, batch: int) -> None:
        self._policy = policy
        self._batch = AdaptiveBatchSize("sampling", batch)
        self._graphs = DecodingGraphs.for_device(policy.device)
        self._banned = torch.tensor(policy.banned_tokens, dtype=torch.long, device=policy.device)
        self.tokens_sampled = 0

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[EncodedPrompt],
        n: int,
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        places: Sequence[int] | None = None,
    ) -> list[list[Sampled]]:
        if n < 1 or max_new_tokens < 1:
            raise ValueError("n and max_new_tokens must be at least 1")
        if temperature == 0 and n != 1:
            raise ValueError("greedy decoding gives one answer; n must be 1")
        was_training = self._policy.model.training
        self._policy.model.eval()
        noise = None
        if temperature > 0:
            noise = self._noise(seed, range(len(prompts)) if places is None else places, n, max_new_tokens)
        results = self._batch.run(lambda size: self._sample(prompts, n, temperature, max_new_tokens, noise, size))
        self._policy.model.train(was_training)
        self.tokens_sampled += sum(len(one.tokens) for group in results for one in group)
        return results

    def _noise(self, seed: int, places: Sequence[int], n: int, steps: int) -> Tensor:
        rows = []
        for index in places:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
            rows.append(torch.rand(n, steps, generator=generator, dtype=torch.float64))
        return torch.stack(rows).to(self._policy.device)

    def _sample(
        self,
        prompts: Sequence[EncodedPrompt],
        n: int,
        temperature: float,
        steps: int,
        noise: Tensor | None,
        size: int,
    ) -> list[list[Sampled]]:
        """At most ``size`` completions at once: several prompts with all their n, or a part of one prompt's n."""
        results: list[list[Sampled]] = []
        together, each = max(1, size // n), min(n, size)
        for start in range(0, len(prompts), together):
            some = prompts[start : start + together]
            groups: list[list[Sampled]] = [[] for _ in some]
            for first in range(0, n, each):
                count = min(each, n - first)
                drawn = None
                if noise is not None:
                    drawn = noise[start : start + together, first : first + count].flatten(0, 1)
                for group, more in zip(groups, self._sample_batch(some, count, temperature, steps, drawn), strict=True):
                    group += more
            results += groups
        return results

    def _sample_batch(
        self, prompts: Sequence[EncodedPrompt], n: int, temperature: float, steps: int, noise: Tensor | None
    ) -> list[list[Sampled]]:
        policy = self._policy
        keys = [prompt.id for prompt in prompts]
        with policy.prefill_gradient(prompts):
            states = policy.prompt_states(prompts)
            decoder: Decoder = (
                SharedPrefixDecoder(policy, states, keys, n, steps, self._graphs)
                if policy.engine == "shared"
                else NaiveDecoder(policy, states, keys, n, steps)
            )
        logits = decoder.logits.repeat_interleave(n, 0)
        position = torch.tensor([states[key].next_position for key in keys], device=policy.device).repeat_interleave(n)
        ends = torch.tensor(policy.end_tokens, device=policy.device)
        tokens = torch.full((len(logits), steps), -1, device=policy.device)
        log_probs = logits.new_zeros(len(logits), steps)
        rows = torch.arange(len(logits), device=policy.device)
        done = torch.zeros(len(logits), dtype=torch.bool, device=policy.device)
        for step in range(steps):
            token, log_prob = self._choose(logits, temperature, None if noise is None else noise[rows, step])
            tokens[rows, step] = torch.where(done, -1, token)
            log_probs[rows, step] = log_prob
            done = done | torch.isin(token, ends)
            if step + 1 == steps:
                break
            if (step + 1) % decoder.check_every == 0:
                going = int((~done).sum())
                if going == 0:
                    break
                if going <= KEEP_BELOW * len(done):
                    keep = (~done).nonzero()[:, 0]
                    if decoder.keep_rows(keep):
                        rows, token, done = rows[keep], token[keep], done[keep]
            logits = decoder.step(token, position[rows] + step)
        if not log_probs.isfinite().all():
            raise FloatingPointError("the model's log-probabilities are not finite, so its weights are damaged")
        flat = [self._finish(row, value) for row, value in zip(tokens.tolist(), log_probs.tolist(), strict=True)]
        return [flat[index : index + n] for index in range(0, len(flat), n)]

    def _choose(self, logits: Tensor, temperature: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pick a token a row: the best one, or the inverse of the cumulative distribution at the row's noise."""
        log_probs = (logits / (temperature or 1.0)).log_softmax(-1)
        allowed = log_probs.clone()
        allowed.index_fill_(1, self._banned, -torch.inf)
        if noise is None:
            token = allowed.argmax(-1)
        else:
            cumulative = allowed.double().softmax(-1).cumsum(-1)
            token = torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None], right=True)[:, 0]
            token = token.clamp(max=cumulative.shape[1] - 1)
        return token, log_probs.gather(-1, token[:, None])[:, 0]

    def _finish(self, row: list[int], values: list[float]) -> Sampled:
        tokens = tuple(token for token in row if token >= 0)
        truncated = tokens[-1] not in self._policy.end_tokens
        text = self._policy.tokenizer.decode(tokens, skip_special_tokens=True)
        return Sampled(tokens, text, tuple(values[: len(tokens)]), truncated)
