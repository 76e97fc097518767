"""Checks in the real engine: two training steps on the tiny model, their repetition and their resumption."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.api.testing.checks import ContractError
from harness.io import read_json, whole_lines

STEPS = 2
SETTINGS: dict[str, Any] = {
    "data.train": "world:train@4",
    "data.benchmark": "world:test@2",
    "budget.kind": "steps",
    "train.prompts_per_step": 4,
    "train.warmup_steps": 0,
    "rollout.temperature": 1.5,  # so that completions differ and there is something to learn
    "report.pairs": None,
}
"""Changes to the preset ``tiny``."""


@dataclass(frozen=True)
class Trained:
    """The results of one run.

    Attributes:
        weights: Digest of the weights by step.
        steps: The logged numbers of each step.
        memory: Peak memory in bytes.
    """

    weights: dict[int, str]
    steps: list[dict[str, Any]]
    memory: int


@dataclass
class Trial:
    """The runs of one method.

    Attributes:
        method: A method's name, or a variant such as ``grpo:beta=0``.
        folder: Folder of its runs.
        cache: Folder of generated data and decoded frames.
    """

    method: str
    folder: Path
    cache: Path

    @cached_property
    def whole(self) -> Trained:
        """Two steps without interruption."""
        return self._train("whole", STEPS)

    @cached_property
    def resumed(self) -> Trained:
        """One step, then a resumption from its checkpoint and the second step."""
        self._train("resumed", 1)
        return self._train("resumed", STEPS)

    @property
    def cost(self) -> str:
        """Time and memory of the uninterrupted run, in words."""
        seconds = self.whole.steps[-1]["seconds"]
        prompts = SETTINGS["train.prompts_per_step"]
        return f"{seconds:.1f} s per step of {prompts} prompts, at most {self.whole.memory / 2**20:.0f} MiB"

    def _train(self, name: str, steps: int) -> Trained:
        from harness.config.study import load_study
        from harness.models.loading import model_digest
        from harness.study.setup import prepare
        from harness.study.work import train_cell

        changes = SETTINGS | {"budget.amount": steps, "train.checkpoints": steps, "runtime.cache": str(self.cache)}
        study = load_study("tiny", methods=[self.method], changes=changes).for_method(self.method)
        folder = self.folder / name
        checkpoints = train_cell(prepare(study), self.method, folder, 0, model_digest(study.model.name))
        weights = {int(one.name.split("-")[1]): read_json(one / "manifest.json")["digest"] for one in checkpoints}
        lines = [json.loads(line) for line in whole_lines(folder / "metrics.jsonl")]
        return Trained(weights, lines, int(read_json(folder / "compute.json")["peak_memory"]))


def trains(trial: Trial) -> str:
    """Two training steps change the weights."""
    run = trial.whole
    if not any(step["samples"] for step in run.steps):
        return f"{trial.cost}; `experience` dropped every group of both steps, so nothing was trained"
    if run.steps[-1]["samples"] and len(set(run.weights.values())) < STEPS:
        raise ContractError(
            "the second step did not change the weights: is the policy detached, or is every weight or mask 0?"
        )
    return trial.cost


def repeats(trial: Trial) -> str:
    """Another run with the same seed has the same weights after its first step."""
    if trial.resumed.weights[1] != trial.whole.weights[1]:
        raise ContractError(
            "two runs with one seed have different weights after the first step: does the method use its own random "
            "generator, read a clock, or iterate over a set?"
        )
    return ""


def resumes(trial: Trial) -> str:
    """A run resumed after its first step ends with the weights of an uninterrupted one."""
    if trial.resumed.weights[1] == trial.whole.weights[1] and trial.resumed.weights[2] != trial.whole.weights[2]:
        raise ContractError(
            "a run resumed after its first step has different weights from an uninterrupted one: does the method keep "
            "state between steps (a running mean, a counter, an earlier policy)? No checkpoint holds it; compute "
            "it from the groups of the step"
        )
    return ""


ENGINE_CHECKS: dict[str, Callable[[Trial], str]] = {"trains": trains, "repeats": repeats, "resumes": resumes}
"""Checks by name; each returns a remark."""
