"""From prompts to scored groups: rollouts, gold and corrupted answers, rewards, reference log-probabilities."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.api.reward import WeightedRewards
from harness.api.types import Completion, Group, Needs, Source
from harness.config.study import RolloutSection
from harness.data.corruption import corrupted_answer
from harness.data.encode import EncodedPrompt
from harness.data.video.shuffled import shuffled_prompt
from harness.engine.out_of_memory import AdaptiveBatchSize
from harness.engine.policy import Policy
from harness.engine.sampler import Sampler
from harness.seeds import seed_for
from harness.vsibench.prompts import answer_text


@dataclass
class GroupBuilder:
    """Builds one group a prompt, with what a method needs and nothing else.

    Attributes:
        policy: The model being trained.
        reference: The frozen one (the policy itself when adapters can be switched off).
        sampler: Answers prompts.
        rewards: The study's weighted rewards.
        needs: What the method asks for.
        rollout: Temperature, token limit.
        mode: The training prompt mode.
        seed: The repetition's seed.
        micro_batch: Completions in one reference pass; half as many from when memory runs out.
    """

    policy: Policy
    reference: Policy
    sampler: Sampler
    rewards: WeightedRewards
    needs: Needs
    rollout: RolloutSection
    mode: str
    seed: int
    micro_batch: int

    def __post_init__(self) -> None:
        self._batch = AdaptiveBatchSize("the reference pass", self.micro_batch)

    @property
    def temperature(self) -> float:
        """What divides the logits of every log-probability: that of sampling, or 1 where nothing is sampled."""
        return self.rollout.temperature if self.needs.rollouts else 1.0

    def build(self, prompts: Sequence[EncodedPrompt], step: int, places: Sequence[int] | None = None) -> list[Group]:
        """Score every completion; draws depend on the seed, the step and the prompts' places in it, in order unless
        told.
        """
        places = range(len(prompts)) if places is None else places
        sampled = self._sample(prompts, step, places)
        rows = [
            [*sampled[index], *self._given(prompt, step, place)]
            for index, (prompt, place) in enumerate(zip(prompts, places, strict=True))
        ]
        scored = [[self._score(one, prompt) for one in row] for row, prompt in zip(rows, prompts, strict=True)]
        if self.needs.reference:
            scored = self._with_reference(prompts, scored)
        if self.needs.shuffled:
            scored = [[*row, *more] for row, more in zip(scored, self._shuffled(prompts, step, places), strict=True)]
        return [
            Group(prompt.id, tuple(row), prompt.record.question_type)
            for prompt, row in zip(prompts, scored, strict=True)
        ]

    def _sample(self, prompts: Sequence[EncodedPrompt], step: int, places: Sequence[int]) -> list[list[Completion]]:
        if not self.needs.rollouts:
            return [[] for _ in prompts]
        answers = self.sampler.sample(
            prompts,
            self.needs.rollouts,
            temperature=self.rollout.temperature,
            max_new_tokens=self.rollout.max_new_tokens,
            seed=seed_for(self.seed, "rollout", step),
            places=places,
        )
        return [
            [
                Completion(prompt.id, one.tokens, one.text, behaviour=one.log_probs, truncated=one.truncated)
                for one in group
            ]
            for prompt, group in zip(prompts, answers, strict=True)
        ]

    def _shuffled(self, prompts: Sequence[EncodedPrompt], step: int, places: Sequence[int]) -> list[list[Completion]]:
        """Scored answers to the same prompts with their frames in random order."""
        depth = self.policy.base.config.vision_config.temporal_patch_size
        others = [
            shuffled_prompt(prompt, depth, seed_for(self.seed, "shuffle", step, place))
            for prompt, place in zip(prompts, places, strict=True)
        ]
        answers = self.sampler.sample(
            others,
            self.needs.shuffled,
            temperature=self.rollout.temperature,
            max_new_tokens=self.rollout.max_new_tokens,
            seed=seed_for(self.seed, "rollout-shuffled", step),
            places=places,
        )
        return [
            [
                self._score(
                    Completion(prompt.id, one.tokens, one.text, source="shuffled", truncated=one.truncated), prompt
                )
                for one in group
            ]
            for prompt, group in zip(prompts, answers, strict=True)
        ]

    def _given(self, prompt: EncodedPrompt, step: int, index: int) -> list[Completion]:
        """The gold answer and corrupted copies of it, as far as the method needs them."""
        given: list[Completion] = []
        if self.needs.gold:
            given.append(self._written(prompt, prompt.record.ground_truth, "gold"))
        for number in range(self.needs.corrupted):
            rng = random.Random(seed_for(self.seed, "corrupted", step, index, number))
            given.append(self._written(prompt, corrupted_answer(prompt.record, rng), "corrupted"))
        return given

    def _written(self, prompt: EncodedPrompt, words: str, source: Source) -> Completion:
        text = answer_text(words, self.mode)
        tokens = self.policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Completion(prompt.id, (*tokens, self.policy.end_tokens[0]), text, source=source)

    def _score(self, completion: Completion, prompt: EncodedPrompt) -> Completion:
        total, parts = self.rewards.score(completion.text, prompt.record, self.mode)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"record {prompt.record.key}: the reward is {total} (parts {parts}); a reward must be finite"
            )
        return replace(completion, reward=total, parts=parts)

    def _with_reference(self, prompts: Sequence[EncodedPrompt], rows: list[list[Completion]]) -> list[list[Completion]]:
        flat = [(prompt, one) for prompt, row in zip(prompts, rows, strict=True) for one in row]
        values = iter(self._batch.run(lambda size: self._reference_values(flat, size)))
        return [[replace(one, reference=next(values)) for one in row] for row in rows]

    def _reference_values(self, flat: Sequence[tuple[EncodedPrompt, Completion]], size: int) -> list[tuple[float, ...]]:
        """Per-token log-probabilities under the reference, ``size`` completions at once."""
        done: list[tuple[float, ...]] = []
        with self.reference.as_reference():
            for start in range(0, len(flat), size):
                part = flat[start : start + size]
                values, _ = self.reference.log_probs(
                    [prompt for prompt, _ in part], [one.tokens for _, one in part], self.temperature
                )
                done += [tuple(row[: len(one.tokens)].tolist()) for (_, one), row in zip(part, values, strict=True)]
        return done
