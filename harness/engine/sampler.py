"""The built-in sampler, on the engine's own decoding, and the one place where a study's sampler is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.api.sampler import Sampled, Sampler
from harness.config.study import RolloutSection
from harness.data.encode import EncodedPrompt
from harness.engine.cuda_graphs import DecodingGraphs
from harness.engine.decoding import Decoder, NaiveDecoder, SharedPrefixDecoder
from harness.engine.out_of_memory import AdaptiveBatchSize
from harness.engine.policy import Policy
from harness.plugins import registry

KEEP_BELOW = 0.5
"""Finished rows leave the batch when no more than this share of it continues."""


def make_sampler(policy: Policy, section: RolloutSection, batch: int) -> Sampler[Policy, EncodedPrompt]:
    """The sampler that a study names, for training and evaluation alike.

    Args:
        policy: The model to sample from.
        section: ``[rollout]`` of the study.
        batch: The most completions decoded at once.

    Raises:
        UserError: It is unknown, cannot be imported, or an option is wrong.
    """
    sampler, config = registry.configure("samplers", section.sampler, section.sampler_options)
    made: Sampler[Policy, EncodedPrompt] = sampler(policy, batch, config)
    return made


class TransformersSampler(Sampler[Policy, EncodedPrompt]):
    """Prefills each prompt once, lets its n completions attend to the one KV cache, decodes with transformers' modules.

    Every row draws from its own random stream, derived from the seed and its place, so that the draw does not depend on
    how rows are batched. Special tokens other than the end of turn are never sampled. The model is in evaluation mode,
    so dropout is off. When memory runs out, half as many completions are decoded at once from then on.
    """

    summary: ClassVar[str] = "shared prefill and decoding with transformers' modules, CUDA graphs on a GPU"

    def __init__(self, policy: Policy, batch: int, config: Any = None) -> None:
        super().__init__(policy, batch, config)
        self._batch = AdaptiveBatchSize("sampling", batch)
        self._graphs = DecodingGraphs.for_device(policy.device)
        self._banned = torch.tensor(policy.banned_tokens, dtype=torch.long, device=policy.device)

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
            raise ValueError("greedy decoding gives one completion; n must be 1")
        was_training = self.policy.model.training
        self.policy.model.eval()
        noise = None
        if temperature > 0:
            noise = self._noise(seed, range(len(prompts)) if places is None else places, n, max_new_tokens)
        results = self._batch.run(lambda size: self._sample(prompts, n, temperature, max_new_tokens, noise, size))
        self.policy.model.train(was_training)
        return results

    def _noise(self, seed: int, places: Sequence[int], n: int, steps: int) -> Tensor:
        rows = []
        for index in places:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
            rows.append(torch.rand(n, steps, generator=generator, dtype=torch.float64))
        return torch.stack(rows).to(self.policy.device)

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
        policy = self.policy
        decoder, positions = self._prefill(prompts, n, steps)
        logits = decoder.logits.repeat_interleave(n, 0)
        ends = torch.tensor(policy.end_tokens, device=policy.device)
        tokens = torch.full((len(logits), steps), -1, device=policy.device)
        log_probs = logits.new_zeros(len(logits), steps)
        rows = torch.arange(len(logits), device=policy.device)  # those still in the batch
        done = torch.zeros(len(logits), dtype=torch.bool, device=policy.device)
        for step in range(steps):
            token, log_prob = self._choose(logits, temperature, None if noise is None else noise[rows, step])
            tokens[rows, step] = torch.where(done, -1, token)
            log_probs[rows, step] = log_prob
            done = done | torch.isin(token, ends)
            if step + 1 == steps:
                break
            if (step + 1) % decoder.check_every == 0:
                unfinished = int((~done).sum())
                if unfinished == 0:
                    break
                if unfinished <= KEEP_BELOW * len(done):
                    keep = (~done).nonzero()[:, 0]
                    if decoder.keep_rows(keep):
                        rows, token, done = rows[keep], token[keep], done[keep]
            logits = decoder.step(token, positions[rows] + step)
        if not log_probs.isfinite().all():
            raise FloatingPointError("the model's log-probabilities are not finite, so its weights are damaged")
        flat = [self._finish(row, value) for row, value in zip(tokens.tolist(), log_probs.tolist(), strict=True)]
        return [flat[index : index + n] for index in range(0, len(flat), n)]

    def _prefill(self, prompts: Sequence[EncodedPrompt], n: int, steps: int) -> tuple[Decoder, Tensor]:
        """A decoder after the prefill, and the (rows,) positions of the first completion tokens."""
        policy, keys = self.policy, [prompt.id for prompt in prompts]
        with policy.prefill_gradient(prompts):
            states = policy.prompt_states(prompts)
            decoder: Decoder = (
                SharedPrefixDecoder(policy, states, keys, n, steps, self._graphs)
                if policy.engine == "shared"
                else NaiveDecoder(policy, states, keys, n, steps)
            )
        positions = torch.tensor([states[key].next_position for key in keys], device=policy.device)
        return decoder, positions.repeat_interleave(n)

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
        truncated = tokens[-1] not in self.policy.end_tokens
        text = self.policy.tokenizer.decode(tokens, skip_special_tokens=True)
        return Sampled(tokens, text, tuple(values[: len(tokens)]), truncated)
