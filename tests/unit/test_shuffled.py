"""Shuffled frames: the model reads exactly what it would read of a video whose frames are in that order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.api.reward import WeightedRewards
from harness.api.types import Needs
from harness.config.sections import RolloutSection
from harness.data.encode import EncodedPrompt
from harness.data.shuffled import reorder_frames, shuffled_prompt
from harness.data.video.frames import VideoSettings, patchify
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.train.groups import GroupBuilder
from rewards.choice import Choice
from rewards.mra import MRA


@pytest.mark.parametrize("order", [(5, 4, 3, 2, 1, 0), (1, 0, 3, 2, 5, 4), (2, 0, 5, 1, 4, 3)])
def test_reordered_patches_are_the_patches_of_reordered_frames(order: tuple[int, ...]) -> None:
    settings = VideoSettings(frames=6, min_pixels=56 * 84, max_pixels=56 * 84)
    frames = torch.randint(0, 256, (6, 3, 56, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = reorder_frames(patchify(frames, settings), torch.tensor(order), settings.temporal_patch_size)
    assert torch.equal(moved, patchify(frames[list(order)], settings).pixel_values)


def test_a_shuffled_prompt_differs_in_its_frames_alone(prompts: list[EncodedPrompt]) -> None:
    prompt = prompts[0]
    other, again = (shuffled_prompt(prompt, 2, seed=3) for _ in range(2))
    assert other.id == again.id != prompt.id and torch.equal(other.video.pixel_values, again.video.pixel_values)
    assert other.video.digest == again.video.digest != prompt.video.digest
    assert not torch.equal(other.video.pixel_values, prompt.video.pixel_values)
    assert torch.equal(other.input_ids, prompt.input_ids) and other.record is prompt.record
    key = lambda values: sorted(map(tuple, values.view(-1, 3, 2, 196).permute(0, 2, 1, 3).reshape(-1, 588).tolist()))  # noqa: E731
    assert key(other.video.pixel_values) == key(prompt.video.pixel_values)  # the same half patches, elsewhere
    assert shuffled_prompt(prompt, 2, seed=4).video.digest != other.video.digest


def test_groups_carry_answers_to_shuffled_frames(policy: Policy, prompts: list[EncodedPrompt]) -> None:
    needs = Needs(rollouts=3, shuffled=2, behaviour=True, reference=True)
    rewards = WeightedRewards({"choice": Choice(), "mra": MRA()}, {"choice": 1.0, "mra": 1.0})
    rollout = RolloutSection(max_new_tokens=3)
    builder = GroupBuilder(
        policy=policy,
        reference=policy,
        sampler=TransformersSampler(policy, 16),
        rewards=rewards,
        needs=needs,
        rollout=rollout,
        mode="vanilla",
        seed=0,
        micro_batch=8,
    )
    groups = builder.build(prompts[:2], step=1)
    for group in groups:
        assert [one.source for one in group.completions] == ["policy"] * 3 + ["shuffled"] * 2
        assert all(one.prompt_id == group.prompt_id and one.reward == one.reward for one in group.completions)
        assert all(not one.reference and not one.behaviour for one in group.by_source("shuffled"))
    unshuffled = replace(builder, needs=replace(needs, shuffled=0))
    plain = unshuffled.build(prompts[:2], step=1)
    assert [group.by_source("policy") for group in groups] == [group.completions for group in plain]
    for made, counted in ((groups, builder), (plain, unshuffled)):
        assert counted.tokens_sampled == sum(len(one.tokens) for group in made for one in group.completions)
