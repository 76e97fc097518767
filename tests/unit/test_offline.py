"""Offline methods train on completions of the starting model, sampled once for each prompt."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_kit import Kit, Stop, make_kit, metrics, weights

from algorithms.dpo import DPO
from harness.api import Completion, Group
from harness.engine.sampler import TransformersSampler
from harness.seeds import seed_for

STEPS, PROMPTS = 4, 4
"""Sixteen prompts of nine records: every record is drawn once or twice."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


class Watched(DPO):
    """DPO that remembers its groups."""

    def __init__(self) -> None:
        super().__init__(DPO.Config(rollouts=3))
        self.seen: dict[str, list[tuple[Completion, ...]]] = defaultdict(list)

    def experience(self, groups: Any) -> Any:
        for group in groups:
            self.seen[group.prompt_id].append(group.completions)
        return super().experience(groups)


def train(kit: Kit, folder: Path, tuning: str, until: int = 0) -> tuple[Watched, Any]:
    """Four steps with checkpoints at 2 and 4, interrupted after the step ``until``."""

    def progress(step: int, steps: int, numbers: dict[str, float]) -> None:
        if step == until:
            raise Stop

    method = Watched()
    trainer = kit.trainer(
        folder,
        method,
        kit.policy(tuning=tuning),
        budget=("steps", STEPS),
        prompts_per_step=PROMPTS,
        checkpoints=2,
        learning_rate=1e-2,
        progress=progress,
    )
    if until:
        with pytest.raises(Stop):
            trainer.train()
    else:
        trainer.train()
    return method, trainer.run


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_pairs_are_the_starting_model_s_at_every_visit(kit: Kit, tmp_path: Path, tuning: str) -> None:
    method, run = train(kit, tmp_path, tuning)
    start = kit.policy(tuning=tuning)
    by_id = {prompt.id: prompt for prompt in map(kit.prompts(start), range(len(kit.data.records)))}
    sampler, sampled = TransformersSampler(start, 64), 0
    for key, visits in method.seen.items():
        (drawn,) = sampler.sample(
            [by_id[key]],
            3,
            temperature=1.0,
            max_new_tokens=6,
            seed=run.seed,
            places=[seed_for(run.seed, "offline", key)],
        )
        sampled += sum(len(one.tokens) for one in drawn)
        for visit in visits:
            assert [one.tokens for one in visit] == [one.tokens for one in drawn]
            assert {one.source for one in visit} == {"base"}
    assert max(map(len, method.seen.values())) == 2
    changed, before = weights(run.policy), weights(kit.policy(tuning=tuning))
    assert any(not torch.equal(changed[name], before[name]) for name in before)
    assert run.meter.consumed.tokens_sampled == sampled  # each prompt's once
    assert run.groups.temperature == 1.0
    assert all("reward" not in step for step in metrics(tmp_path))  # no rewards of the policy to show


def test_a_resumed_run_keeps_its_pairs(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, first = train(kit, tmp_path / "whole", "full")
    train(kit, tmp_path / "parts", "full", until=3)
    state = json.loads((tmp_path / "parts/checkpoints/step-000002/trainer/state.json").read_text())["state"]["offline"]
    monkeypatch.setattr("harness.train.run.check_engine", lambda *_: 0.0)  # it samples, too
    asked: list[str] = []
    sample = TransformersSampler.sample

    def watched(self: Any, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend(prompt.id for prompt in prompts)
        return sample(self, prompts, *args, **kwargs)

    monkeypatch.setattr(TransformersSampler, "sample", watched)
    resumed, run = train(kit, tmp_path / "parts", "full")
    assert len(state) == 8 and not set(asked) & set(state) and len(asked) == 1
    for key, visits in resumed.seen.items():
        assert [one.tokens for one in visits[-1]] == [one.tokens for one in whole.seen[key][-1]]
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    ours, theirs = weights(run.policy), weights(first.policy)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert run.meter.consumed.tokens_sampled == first.meter.consumed.tokens_sampled


def test_what_another_rank_sampled_is_kept(kit: Kit, tmp_path: Path) -> None:
    policy = kit.policy()
    _, run = kit.parts(tmp_path, "dpo", policy, options={"rollouts": 2})
    prompt = kit.prompts(policy)(0)
    theirs = tuple(Completion(prompt.id, (5, number), str(number), source="base") for number in range(2))
    run.groups.keep([Group(prompt.id, theirs)])
    (group,) = run.groups.build([prompt, kit.prompts(policy)(1)], 0)[:1]
    assert [one.tokens for one in group.completions] == [(5, 0), (5, 1)]
    assert len(run.groups.offline) == 2
