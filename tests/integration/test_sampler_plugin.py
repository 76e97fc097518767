"""A sampler of one's own in a single file: a study names it, and training and evaluation use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from harness.api import UserError
from harness.config.study import load_study
from harness.io import read_json
from harness.plugins import registry

SAMPLER = """
from pydantic import Field

from harness.api import Sampled, Sampler, StrictConfig


class Options(StrictConfig):
    text: str = Field("7", description="What it always says.")


class Constant(Sampler):
    Config = Options
    summary = "says the same to every prompt"

    def sample(self, prompts, n, *, temperature, max_new_tokens, seed, places=None):
        tokens = self.policy.tokenizer(self.config.text, add_special_tokens=False)["input_ids"]
        one = Sampled((*tokens, self.policy.end_tokens[0]), self.config.text, (-0.5,) * (len(tokens) + 1), False)
        return [[one] * n for _ in prompts]
"""


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "constant.py").write_text(SAMPLER)
    return tmp_path / "constant.py"


@pytest.mark.slow
def test_a_sampler_in_a_file_serves_training_and_evaluation(
    harness: Cli, file: Path, tmp_path: Path, train_and_test: list[str]
) -> None:
    settings = {
        "rollout.sampler": "constant",
        "rollout.sampler_options.text": '"4"',
        "budget.amount": 4,
        "train.prompts_per_step": 4,
        "reinforce-pp.group_size": 2,
        "runtime.threads": 1,
    }
    words = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    run = tmp_path / "run"
    ended = harness(
        "compare", "--methods", "reinforce-pp", "--plugin", str(file), *train_and_test, *words, "--out", str(run)
    )
    assert ended.code == 0, ended.err
    for cell in ("base", "reinforce-pp"):
        (folder,) = (run / "cells").glob(f"{cell}-*")
        (answers,) = folder.rglob("samples.jsonl")
        lines = [json.loads(line) for line in answers.read_text().splitlines()]
        assert lines and {line["answer"] for line in lines} == {"4"}
        assert "constant" in json.dumps(read_json(answers.with_name("manifest.json"))["identity"])
    (step,) = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert step["length"] == 2 and step["zero_variance"] == 1
    assert read_json(folder / "compute.json")["tokens_sampled"] == 4 * 2 * 2


def test_a_sampler_is_listed_and_its_options_are_checked(harness: Cli, file: Path) -> None:
    ended = harness("list", "--plugin", str(file))
    assert ended.code == 0 and "says the same to every prompt" in ended.out and "transformers" in ended.out
    with pytest.raises(UserError, match=r"rollout\.sampler_options\.words`: no such key.*text"):
        load_study("tiny", overrides=["rollout.sampler=constant", "rollout.sampler_options.words=7"])
    with pytest.raises(UserError, match=r"rollout\.sampler = constnat.*did you mean constant"):
        load_study("tiny", overrides=["rollout.sampler=constnat"])


def test_another_sampler_is_another_cell(file: Path) -> None:
    from harness.study.identity import training_identity

    registry.add_file(file)
    identities: list[dict[str, Any]] = []
    for name in ("transformers", "constant"):
        study = load_study("tiny", overrides=[f"rollout.sampler={name}"])
        identities.append(training_identity(study.for_method("grpo"), "grpo", study.algorithm("grpo")))
    assert identities[0]["sources"]["sampler"] != identities[1]["sources"]["sampler"]
