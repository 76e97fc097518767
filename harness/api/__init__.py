"""All that a plugin imports: ``from harness.api import Algorithm, Needs, Sample``.

The conformance suite is in :mod:`harness.api.testing`. A guest trainer also needs ``harness.train.run.TrainingRun``.

Names are imported when they are first used, so that a module that needs only ``StrictConfig`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.algorithm import Algorithm as Algorithm
    from harness.api.benchmark import Baseline as Baseline
    from harness.api.benchmark import Benchmark as Benchmark
    from harness.api.benchmark import Figures as Figures
    from harness.api.benchmark import Questions as Questions
    from harness.api.benchmark import QuestionScore as QuestionScore
    from harness.api.benchmark import ScoringRule as ScoringRule
    from harness.api.benchmark import Task as Task
    from harness.api.config import StrictConfig as StrictConfig
    from harness.api.experience import advantage_samples as advantage_samples
    from harness.api.experience import finite_rewards as finite_rewards
    from harness.api.guest import GuestTrainer as GuestTrainer
    from harness.api.losses import clipped_surrogate as clipped_surrogate
    from harness.api.losses import k3 as k3
    from harness.api.losses import pair_gaps as pair_gaps
    from harness.api.losses import token_mean as token_mean
    from harness.api.model import ModelPreset as ModelPreset
    from harness.api.reward import Reward as Reward
    from harness.api.sampler import Sampled as Sampled
    from harness.api.sampler import Sampler as Sampler
    from harness.api.types import Batch as Batch
    from harness.api.types import Completion as Completion
    from harness.api.types import Group as Group
    from harness.api.types import Needs as Needs
    from harness.api.types import Sample as Sample
    from harness.errors import UserError as UserError
    from harness.vsibench.answers import matches as matches
    from harness.vsibench.answers import parse_answer as parse_answer
    from harness.vsibench.records import Record as Record
    from harness.vsibench.scorers import ItemScore as ItemScore

_EXPORTS = {
    "harness.api.algorithm": ("Algorithm",),
    "harness.api.benchmark": ("Baseline", "Benchmark", "Figures", "QuestionScore", "Questions", "ScoringRule", "Task"),
    "harness.api.config": ("StrictConfig",),
    "harness.api.experience": ("advantage_samples", "finite_rewards"),
    "harness.api.guest": ("GuestTrainer",),
    "harness.api.losses": ("clipped_surrogate", "k3", "pair_gaps", "token_mean"),
    "harness.api.model": ("ModelPreset",),
    "harness.api.reward": ("Reward",),
    "harness.api.sampler": ("Sampled", "Sampler"),
    "harness.api.types": ("Batch", "Completion", "Group", "Needs", "Sample"),
    "harness.errors": ("UserError",),
    "harness.vsibench.answers": ("matches", "parse_answer"),
    "harness.vsibench.records": ("Record",),
    "harness.vsibench.scorers": ("ItemScore",),
}
"""Modules and the names exported from each; type checkers read the imports above."""

_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
