"""From prompts to scored groups: rollouts, gold and corrupted answers, rewards, reference log-probabilities."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.api.reward import WeightedRewards
from harness.api.sampler import Sampler
from harness.api.types import Completion, Group, Needs, Source
from harness.config.study import RolloutSection
from harness.data.corruption import corrupted_answer
from harness.data.encode import EncodedPrompt
from harness.data.shuffled import shuffled_prompt
from harness.engine.out_of_memory import AdaptiveBatchSize
from harness.engine.policy import Policy
from harness.seeds import seed_for
from harness.vsibench.prompts import answer_text


@dataclass(kw_only=True)
class GroupBuilder:
    """Builds one group a prompt, with what a method needs and nothing else.

    Attributes:
        policy: The model being trained.
        reference: The frozen reference model (the policy itself where adapters can be switched off).
        sampler: Samples the completions: the policy's, or of an offline method the reference model's.
        rewards: The study's weighted rewards.
        needs: What the method asks for.
        rollout: Temperature, token limit.
        mode: The training prompt mode.
        seed: The repetition's seed.
        micro_batch: Completions in one reference pass; halved for good when memory runs out.
        tokens_sampled: Tokens of all completions sampled so far.
        offline: The completions that an offline method keeps, by prompt.
    """

    policy: Policy
    reference: Policy
    sampler: Sampler[Policy, EncodedPrompt]
    rewards: WeightedRewards
    needs: Needs
    rollout: RolloutSection
    mode: str
    seed: int
    micro_batch: int
    tokens_sampled: int = field(default=0, init=False)
    offline: dict[str, tuple[Completion, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._batch = AdaptiveBatchSize("the reference pass", self.micro_batch)

    @property
    def temperature(self) -> float:
        """Divides the logits of every log-probability: that of sampling, or 1 where nothing is sampled.

        A policy gradient needs the distribution that was sampled from; SFT, and DPO on answers that are given, have
        none.
        """
        return self.rollout.temperature if self.needs.rollouts and not self.needs.offline else 1.0

    def build(self, prompts: Sequence[EncodedPrompt], step: int, places: Sequence[int] | None = None) -> list[Group]:
        """One group a prompt, each completion scored.

        Args:
            prompts: The prompts.
            step: With the seed and a prompt's place it decides every random draw.
            places: The prompts' places in the step; 0, 1, ... if None.
        """
        places = range(len(prompts)) if places is None else places
        if self.needs.offline:
            sampled = self._kept(prompts)
        else:
            sampled = self._sample(prompts, self.needs.rollouts, step, places)
        completions = [
            [*sampled[index], *self._given(prompt, step, place)]
            for index, (prompt, place) in enumerate(zip(prompts, places, strict=True))
        ]
        if self.needs.reference:
            completions = self._with_reference(prompts, completions)
        shuffled = self._sample(prompts, self.needs.shuffled, step, places, shuffled=True)
        return [
            Group(prompt.id, tuple(self._score(one, prompt) for one in (*own, *more)), prompt.record.question_type)
            for prompt, own, more in zip(prompts, completions, shuffled, strict=True)
        ]

    def keep(self, groups: Sequence[Group]) -> None:
        """Keep the offline completions of groups, which another rank may have sampled."""
        for group in groups:
            if found := group.by_source("base"):
                self.offline.setdefault(group.prompt_id, found)

    def offline_state(self) -> dict[str, list[tuple[tuple[int, ...], str, bool]]]:
        """The kept completions, to be stored with a checkpoint."""
        return {key: [(one.tokens, one.text, one.truncated) for one in kept] for key, kept in self.offline.items()}

    def restore_offline(self, state: Mapping[str, Sequence[tuple[Sequence[int], str, bool]]]) -> None:
        """Keep what :meth:`offline_state` gave."""
        for key, kept in state.items():
            self.offline[key] = tuple(
                Completion(key, tuple(tokens), text, source="base", truncated=truncated)
                for tokens, text, truncated in kept
            )

    def _kept(self, prompts: Sequence[EncodedPrompt]) -> list[list[Completion]]:
        """Completions from the starting weights, sampled when a prompt is first drawn.

        The random numbers depend on the seed and the prompt alone, so they are those that sampling before training
        would have given.
        """
        new = list({prompt.id: prompt for prompt in prompts if prompt.id not in self.offline}.values())
        if new:
            with self.reference.as_reference():
                groups = self.sampler.sample(
                    new,
                    self.needs.rollouts,
                    temperature=self.rollout.temperature,
                    max_new_tokens=self.rollout.max_new_tokens,
                    seed=self.seed,
                    places=[seed_for(self.seed, "offline", prompt.id) for prompt in new],
                )
            self.tokens_sampled += sum(len(one.tokens) for group in groups for one in group)
            self.restore_offline(
                {
                    prompt.id: [(one.tokens, one.text, one.truncated) for one in group]
                    for prompt, group in zip(new, groups, strict=True)
                }
            )
        return [list(self.offline[prompt.id]) for prompt in prompts]

    def _sample(
        self, prompts: Sequence[EncodedPrompt], n: int, step: int, places: Sequence[int], *, shuffled: bool = False
    ) -> list[list[Completion]]:
        """``n`` completions of each prompt, sampled from the policy; if ``shuffled``, with frames in random order."""
        if not n:
            return [[] for _ in prompts]
        seen, stream = prompts, "rollout"
        source: Source = "policy"
        if shuffled:
            depth = self.policy.base.config.vision_config.temporal_patch_size
            seeds = [seed_for(self.seed, "shuffle", step, place) for place in places]
            seen = [shuffled_prompt(one, depth, seed) for one, seed in zip(prompts, seeds, strict=True)]
            source, stream = "shuffled", "rollout-shuffled"
        groups = self.sampler.sample(
            seen,
            n,
            temperature=self.rollout.temperature,
            max_new_tokens=self.rollout.max_new_tokens,
            seed=seed_for(self.seed, stream, step),
            places=places,
        )
        self.tokens_sampled += sum(len(one.tokens) for group in groups for one in group)
        return [
            [
                Completion(
                    prompt.id,
                    one.tokens,
                    one.text,
                    source=source,
                    behaviour=() if shuffled else one.log_probs,  # those of another prompt are not to be trained on
                    truncated=one.truncated,
                )
                for one in group
            ]
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def _given(self, prompt: EncodedPrompt, step: int, place: int) -> list[Completion]:
        """The gold answer and corrupted copies of it, as far as the method needs them."""
        given: list[Completion] = []
        if self.needs.gold:
            given.append(self._written(prompt, prompt.record.ground_truth, "gold"))
        for number in range(self.needs.corrupted):
            # "altered" is this random stream's name; with another one, finished studies could not be reproduced.
            rng = random.Random(seed_for(self.seed, "altered", step, place, number))
            given.append(self._written(prompt, corrupted_answer(prompt.record, rng), "corrupted"))
        return given

    def _written(self, prompt: EncodedPrompt, words: str, source: Source) -> Completion:
        """The completion that gives an answer in the words of the prompt mode."""
        text = answer_text(words, self.mode)
        tokens = self.policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Completion(prompt.id, (*tokens, self.policy.end_tokens[0]), text, source=source)

    def _score(self, completion: Completion, prompt: EncodedPrompt) -> Completion:
        total, parts, missed = self.rewards.score(completion.text, prompt.record, self.mode)
        if not math.isfinite(total):
            raise FloatingPointError(
                f"record {prompt.record.key}: the reward is {total} (parts {parts}); a reward must be finite"
            )
        return replace(completion, reward=total, parts=parts, missed=missed)

    def _with_reference(
        self, prompts: Sequence[EncodedPrompt], groups: list[list[Completion]]
    ) -> list[list[Completion]]:
        flat = [(prompt, one) for prompt, group in zip(prompts, groups, strict=True) for one in group]
        values = iter(self._batch.run(lambda size: self._reference_values(flat, size)))
        return [[replace(one, reference=next(values)) for one in group] for group in groups]

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
