"""Which checkpoints of a finished run are reported, by the rule that its study declares for all methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from harness.config.evaluation import DEVELOPMENT, EvaluationSection
from harness.config.study import BASE
from harness.errors import UserError
from harness.study.declared import Declaration
from harness.study.finished import Finished
from harness.study.matrix import AGAIN, MatrixRow


class DoneCell(NamedTuple):
    """A finished cell.

    Attributes:
        folder: Its folder.
        entry: Its row of the matrix.
        holds: What it consists of.
    """

    folder: Path
    entry: MatrixRow
    holds: Finished

    def evaluations(self, benchmark: str) -> list[Path]:
        """The folders of its answers to a benchmark, in the order of training."""
        return self.holds.evaluations(self.folder, benchmark)


def reported_steps(
    done: DoneCell, section: EvaluationSection, development: Mapping[tuple[str, int, int], float]
) -> list[str]:
    """The folders' names of a run's reported checkpoints; the base model has one.

    Args:
        done: The run.
        section: The rule.
        development: The score of every checkpoint on the development records, by (method, seed, step).

    Raises:
        UserError: The run has too few checkpoints, or they did not answer the development records.
    """
    steps, (method, seed) = list(done.holds.weights), (done.entry.method, done.entry.seed)
    if method == BASE or section.checkpoint == "last":
        return steps[-1:]
    if section.last is not None:
        if len(steps) < section.last:
            raise UserError(
                f"`{done.folder}`: the study reports {section.rule}, and this run has {len(steps)}. Choose another "
                f"rule (evaluation.checkpoint) or a longer budget, and {AGAIN}"
            )
        return steps[-section.last :]
    if not done.evaluations(DEVELOPMENT):
        raise UserError(f"`{done.folder}`: its checkpoints have not answered {section.development}; {AGAIN}")
    scores = [development[method, seed, step_number(step)] for step in steps]
    best = max((-math.inf if math.isnan(score) else score, at) for at, score in enumerate(scores))[1]
    return [steps[best]]


def rule_told(plan: Declaration) -> str:
    """When the rule was declared or amended, in words."""
    keys = ("evaluation.checkpoint", "evaluation.development", "evaluation.last")
    return plan.words(next((key for key in keys if key in plan.amended), keys[0]))


def step_number(step: str) -> int:
    """The step of a checkpoint, from its folder's name."""
    return int(step.split("-")[1])
