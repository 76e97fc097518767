"""A small random model on disk, a small data set and trainers on them, for the tests of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from conftest import random_tiny, write_small_dataset
from transformers import AutoTokenizer

from harness.api.guest import GuestTrainer
from harness.api.reward import Reward, WeightedRewards
from harness.config.study import BudgetSection, ModelSection, RolloutSection, TrainSection
from harness.data.encode import EncodedPrompt, PromptEncoder
from harness.data.reader import Dataset, read_dataset
from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.models.loading import load_model
from harness.models.presets import TINY
from harness.plugins import registry
from harness.train.groups import GroupBuilder
from harness.train.run import TrainingRun
from harness.train.trainer import Trainer
from harness.vsibench.records import Record

CPU = torch.device("cpu")


class TextReward(Reward):
    """A reward that a test writes as a function of the text."""

    def __init__(self, function: Callable[[str], float]) -> None:
        super().__init__()
        self._function = function

    def score(self, text: str, record: Record, mode: str) -> float:
        return self._function(text)


def varied(text: str) -> float:
    """Differs between almost any two texts and has nothing to do with the question."""
    return sum(map(ord, text)) % 97 / 97


def ignore(step: int, steps: int, numbers: dict[str, float]) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class Kit:
    """What the tests of one session share.

    Attributes:
        model: Folder of a small random Qwen2-VL with its tokenizer.
        data: Nine records about three videos.
        frames: Folder of decoded frames.
    """

    model: Path
    data: Dataset
    frames: Path

    def section(self, **changes: Any) -> ModelSection:
        return ModelSection(**({"name": str(self.model), "tuning": "full", "precision": "fp32"} | changes))

    def policy(self, *, seed: int = 0, **changes: Any) -> Policy:
        loaded = load_model(self.section(**changes), CPU, seed)
        return Policy(loaded.model, loaded.tokenizer, CPU, loaded.precision)

    def encoder(self, policy: Policy) -> PromptEncoder:
        settings = VideoSettings(frames=4, min_pixels=56 * 56, max_pixels=56 * 56)
        return PromptEncoder(
            policy.tokenizer, policy.base.config.video_token_id, FrameCache(self.frames, settings), settings.merge_size
        )

    def prompts(self, policy: Policy, mode: str = "vanilla") -> Callable[[int], EncodedPrompt]:
        encoder = self.encoder(policy)

        def prompt(index: int) -> EncodedPrompt:
            record = self.data.records[index]
            return encoder.encode(record, mode, self.data.video_path(record))

        return prompt

    def trainer(self, folder: Path, method: str | Any, policy: Policy, **settings: Any) -> Trainer:
        """A trainer as a cell builds it; for the arguments see :meth:`parts`."""
        algorithm, run = self.parts(folder, method, policy, **settings)
        return Trainer(run, algorithm)

    def guest(self, folder: Path, method: str | Any, policy: Policy, **settings: Any) -> TrainingRun:
        """Train with a foreign trainer, as a cell does; give its run. For the arguments see :meth:`parts`."""
        guest, run = self.parts(folder, method, policy, **settings)
        guest.train(run)
        return run

    def parts(
        self,
        folder: Path,
        method: str | Any,
        policy: Policy,
        *,
        options: dict[str, Any] | None = None,
        budget: tuple[str, float] = ("steps", 2),
        seed: int = 0,
        reward: Callable[[str], float] = varied,
        rollout: dict[str, Any] | None = None,
        progress: Callable[[int, int, dict[str, float]], None] = ignore,
        prompts: Callable[[int], EncodedPrompt] | None = None,
        **settings: Any,
    ) -> tuple[Any, TrainingRun]:
        """The method, and a run of it; ``settings`` are those of ``[train]``."""
        algorithm = registry.create("algorithms", method, options) if isinstance(method, str) else method
        guest = isinstance(algorithm, GuestTrainer)
        needs = replace(algorithm.needs, reference=False, behaviour=False) if guest else algorithm.needs
        train = TrainSection(
            **({"learning_rate": 1e-3, "warmup_steps": 0, "prompts_per_step": 4, "micro_batch": 8} | settings)
        )
        rollouts = RolloutSection(**({"max_new_tokens": 6, "batch": 64} | (rollout or {})))
        reference = policy.reference() if needs.reference or needs.offline else policy
        groups = GroupBuilder(
            policy=policy,
            reference=reference,
            sampler=TransformersSampler(reference if needs.offline else policy, rollouts.batch),
            rewards=WeightedRewards({"toy": TextReward(reward)}, {"toy": 1.0}),
            needs=needs,
            rollout=rollouts,
            mode="vanilla",
            seed=seed,
            micro_batch=train.micro_batch,
        )
        tuning = "lora" if hasattr(policy.model, "peft_config") else "full"
        return algorithm, TrainingRun(
            policy=policy,
            groups=groups,
            prompts=prompts or self.prompts(policy),
            size=len(self.data.records),
            settings=train,
            budget=BudgetSection(kind=budget[0], amount=budget[1]),
            seed=seed,
            folder=folder,
            about={"cell": "a-cell", "method": "a method", "model": self.section(tuning=tuning).model_dump()},
            progress=progress,
        )


class Stop(BaseException):
    """A kill, as far as the code under test can see."""


def weights(policy: Policy, *, trained: bool = True) -> dict[str, torch.Tensor]:
    """Copies of the parameters that are trained (or that are not)."""
    parameters = policy.model.named_parameters()
    return {name: value.detach().clone() for name, value in parameters if value.requires_grad is trained}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without timings."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def make_kit(root: Path) -> Kit:
    """Write the model and the data below a folder."""
    random_tiny().save_pretrained(root / "model")
    AutoTokenizer.from_pretrained(TINY.location).save_pretrained(root / "model")
    data = read_dataset(write_small_dataset(root / "data"), "test")
    return Kit(root / "model", data, root / "frames")
