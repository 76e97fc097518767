"""What a benchmark is: an evaluation of one checkpoint, and a scoring of its raw answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from harness.config import EvaluationSection
    from harness.data.encode import PromptEncoder
    from harness.data.reader import Dataset
    from harness.models.policy import Policy


@dataclass(frozen=True)
class EvaluationJob:
    """All that an evaluation of one checkpoint needs.

    Attributes:
        policy: The model, with the checkpoint's weights in it.
        dataset: The benchmark's records.
        encoder: Turns a record into a prompt.
        mode: The prompt mode, for example ``official``.
        settings: Token limit, batch shape, scorer.
        identity: What the answers depend on (weights digest, versions); answers of another identity are not reused.
        folder: Where ``samples.jsonl`` and ``manifest.json`` go.
        progress: Called with (questions done, questions in all).
    """

    policy: Policy
    dataset: Dataset
    encoder: PromptEncoder
    mode: str
    settings: EvaluationSection
    identity: dict[str, str]
    folder: Path
    progress: Callable[[int, int], None]


class Benchmark(ABC):
    """A benchmark plugin: answers are stored raw once, and scored by named scorers any number of times.

    Attributes:
        summary: One line for ``harness list``.
    """

    summary: ClassVar[str] = ""

    @abstractmethod
    def evaluate(self, job: EvaluationJob) -> dict[str, float]:
        """Answer every question (resuming where it stopped) and return headline numbers for display."""
