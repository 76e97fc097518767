"""Sampling answers: the Sampler protocol and its transformers implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from harness.data.encode import EncodedPrompt
from harness.models.policy import Policy, PromptState
from harness.rollout.decoding import Decoder, RepeatedDecoder, SharedDecoder


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
        self, prompts: Sequence[EncodedPrompt], n: int, *, temperature: float, max_new_tokens: int, seed: int
    ) -> list[list[Sampled]]:
        """Answer each prompt n times; greedy when the temperature is 0 (then n must be 1)."""
        ...


class TransformersSampler:
    """Prefill each prompt once, let its n answers attend to the one copy, decode with transformers' modules.

    Every row draws from its own random stream, derived from the seed and its place, so that the draw does not
    depend on how rows are batched. Special tokens other than the end of turn are never sampled. The model is in
    evaluation mode, so dropout is off.

    Args:
        policy: The model that answers.
        batch: Most completions decoded at once.
    """

    def __init__(self, policy: Policy, batch: int) -> None:
        self._policy = policy
        self._batch = batch
        self.tokens_sampled = 0

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[EncodedPrompt], n: int, *, temperature: float, max_new_tokens: int, seed: int
    ) -> list[list[Sampled]]:
        if n < 1 or max_new_tokens < 1:
            raise ValueError("n and max_new_tokens must be at least 1")
        if temperature == 0 and n != 1:
            raise ValueError("greedy decoding gives one answer; n must be 1")
        was_training = self._policy.model.training
        self._policy.model.eval()
        results: list[list[Sampled]] = []
        size = max(1, self._batch // n)
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            noise = self._noise(seed, start, len(part), n, max_new_tokens) if temperature > 0 else None
            results.extend(self._sample_batch(part, n, temperature, max_new_tokens, noise))
        self._policy.model.train(was_training)
        self.tokens_sampled += sum(len(one.tokens) for group in results for one in group)
        return results

    def _noise(self, seed: int, start: int, prompts: int, n: int, steps: int) -> Tensor:
        rows = []
        for index in range(start, start + prompts):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
            rows.append(torch.rand(n, steps, generator=generator, dtype=torch.float64))
        return torch.cat(rows).to(self._policy.device)

    def _sample_batch(
        self, prompts: Sequence[EncodedPrompt], n: int, temperature: float, steps: int, noise: Tensor | None
    ) -> list[list[Sampled]]:
        policy = self._policy
        states = policy.prompt_states(prompts)
        rows = [states[prompt.id] for prompt in prompts]
        logits, decoder = self._prefill(rows, n, steps)
        logits = logits.repeat_interleave(n, 0)
        position = torch.tensor([row.next_position for row in rows], device=policy.device).repeat_interleave(n)
        ends = torch.tensor(policy.end_tokens, device=policy.device)
        done = torch.zeros(len(logits), dtype=torch.bool, device=policy.device)
        tokens: list[Tensor] = []
        log_probs: list[Tensor] = []
        for step in range(steps):
            token, log_prob = self._choose(logits, temperature, None if noise is None else noise[:, step])
            tokens.append(torch.where(done, -1, token))
            log_probs.append(log_prob)
            done = done | torch.isin(token, ends)
            if step + 1 == steps or bool(done.all()):
                break
            logits = decoder.step(token, position + step)
        if not torch.stack(log_probs).isfinite().all():
            raise FloatingPointError("the model's log-probabilities are not finite: its weights are damaged")
        chosen, values = torch.stack(tokens, 1).tolist(), torch.stack(log_probs, 1).tolist()
        flat = [self._finish(row, value) for row, value in zip(chosen, values, strict=True)]
        return [flat[index : index + n] for index in range(0, len(flat), n)]

    def _prefill(self, rows: Sequence[PromptState], n: int, steps: int) -> tuple[Tensor, Decoder]:
        """Run each prompt once. Left-padded, so that every row's next token stands in the same column."""
        from transformers import DynamicCache

        policy = self._policy
        length = max(len(row.embeddings) for row in rows)
        first = rows[0].embeddings
        embeddings = first.new_zeros(len(rows), length, first.shape[1])
        positions = torch.zeros(3, len(rows), length, dtype=torch.long, device=policy.device)
        mask = torch.zeros(len(rows), length, dtype=torch.long, device=policy.device)
        for index, row in enumerate(rows):
            at = length - len(row.embeddings)
            embeddings[index, at:] = row.embeddings
            positions[:, index, at:] = row.positions
            mask[index, at:] = 1
        cache = DynamicCache(config=policy.base.config.text_config)
        logits = policy.next_logits(embeddings, positions, mask, cache)
        shared = policy.engine == "shared"
        return logits, (SharedDecoder if shared else RepeatedDecoder)(policy, cache, mask, n, steps)

    def _choose(self, logits: Tensor, temperature: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pick a token a row: the best one, or the inverse of the cumulative distribution at the row's noise."""
        log_probs = (logits / (temperature or 1.0)).log_softmax(-1)
        allowed = log_probs.clone()
        allowed[:, list(self._policy.banned_tokens)] = -torch.inf
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
