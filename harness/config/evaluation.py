"""The section of a study on evaluation, and which checkpoint of a run is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from harness.api.config import StrictConfig
from harness.config.sections import MANY, MOST_TOKENS, Text

DEVELOPMENT = "development"
"""What the questions that checkpoints are chosen by are called, next to the names of benchmarks."""

LAST_CHECKPOINTS = 3
"""Checkpoints whose mean is reported, unless the study says how many."""


class EvaluationSection(StrictConfig):
    """How the base model and every checkpoint are evaluated, and which checkpoint of a run is reported."""

    benchmark: str = Field("vsibench", description="A registered benchmark.")
    more: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Additional benchmarks and their options; each has its own table in the report.",
    )
    scorer: str | None = Field(
        None, description="The scorer behind every table; unset: the first that the headline benchmark declares."
    )
    checkpoint: Literal["last", "best", "mean"] = Field(
        "last",
        description="What is reported of every run: its last checkpoint, its best on the development records, or the "
        "mean score of its last checkpoints (arXiv 2508.13144). Never chosen by the benchmark.",
    )
    development: Text | None = Field(
        None, description='Records that "best" chooses by, on other rooms than the benchmark\'s: world:dev, a folder.'
    )
    last: int | None = Field(
        None,
        ge=2,
        le=MANY,
        description=f'Number of checkpoints that "mean" averages over; unset: {LAST_CHECKPOINTS}.',
    )
    max_new_tokens: int = Field(16, ge=1, le=MOST_TOKENS, description="Token limit of an answer (16: VSI-Bench).")
    two_turns: bool = Field(
        False,
        description="Ask for the answer alone in a second turn, as VSI-Bench does after a chain of thought (cot); "
        "the first turn has max_new_tokens, the second 16. Both raw answers are stored.",
    )
    batch: int = Field(
        32, ge=1, le=MANY, description="Questions per batch; fixed because it may affect greedy answers."
    )

    @model_validator(mode="before")
    @classmethod
    def _mean_of_three(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("checkpoint") == "mean" and values.get("last") is None:
            return {**values, "last": LAST_CHECKPOINTS}
        return values

    @model_validator(mode="after")
    def _rule_with_its_own_keys(self) -> EvaluationSection:
        if self.checkpoint == "best" and self.development is None:
            raise ValueError('checkpoint = "best" needs records to choose by: development = "world:dev"')
        if self.checkpoint != "best" and self.development is not None:
            raise ValueError(f'development has no effect with checkpoint = "{self.checkpoint}"; "best" chooses by it')
        if self.checkpoint != "mean" and self.last is not None:
            raise ValueError(f'last has no effect with checkpoint = "{self.checkpoint}"; "mean" averages over so many')
        return self

    @property
    def asked(self) -> tuple[str, ...]:
        """What every checkpoint is asked: the headline benchmark, the others, the development records."""
        return (self.benchmark, *self.more, *([] if self.development is None else [DEVELOPMENT]))

    @property
    def rule(self) -> str:
        """What is reported of a run, in words."""
        return {
            "last": "the last checkpoint of each run",
            "best": f"the checkpoint of each run that is best on {self.development} (of equals, the later)",
            "mean": f"the mean of the last {self.last} checkpoints of each run",
        }[self.checkpoint]

    def of_last(self) -> EvaluationSection:
        """The same without a choice among checkpoints."""
        return self.model_copy(update={"checkpoint": "last", "development": None, "last": None})
