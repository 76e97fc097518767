"""What a benchmark is: an evaluation of one checkpoint, and a scoring of its raw answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.api.config import StrictConfig
from harness.api.sampler import Sampler

if TYPE_CHECKING:
    from harness.config.study import EvaluationSection
    from harness.data.encode import EncodedPrompt, PromptEncoder
    from harness.data.reader import Dataset
    from harness.engine.policy import Policy


@dataclass(frozen=True)
class EvaluationJob:
    """All that an evaluation of one checkpoint needs.

    Attributes:
        policy: The model, with the checkpoint's weights in it.
        dataset: The benchmark's records.
        sampler: Samples the policy's completions.
        encoder: Turns a record into a prompt.
        mode: The prompt mode, for example ``official``.
        settings: Token limit, batch shape, scorer.
        identity: What the answers depend on (weights digest, versions); answers of another identity are not reused.
        folder: Where ``samples.jsonl`` and ``manifest.json`` go.
        progress: Called with (questions done, questions in all).
    """

    policy: Policy
    dataset: Dataset
    sampler: Sampler[Policy, EncodedPrompt]
    encoder: PromptEncoder
    mode: str
    settings: EvaluationSection
    identity: dict[str, str]
    folder: Path
    progress: Callable[[int, int], None]


class QuestionScore(NamedTuple):
    """What one question came to.

    Attributes:
        id: The question's, unique in the benchmark.
        category: What it is about; each gets a column.
        cluster: What it shares with others, such as an image: questions of one cluster are not independent.
        score: In [0, 1].
        truncated: Whether the token limit ended the answer.
    """

    id: str
    category: str
    cluster: str
    score: float
    truncated: bool = False


class Benchmark(ABC):
    """A benchmark plugin: answers are stored raw once, and scored by named scorers any number of times.

    Attributes:
        plugin_group: Where plugins of this kind are registered.
        Config: Its options.
        summary: One line for ``harness list``.
    """

    plugin_group: ClassVar[str] = "benchmarks"
    Config: ClassVar[type[StrictConfig]] = StrictConfig
    summary: ClassVar[str] = ""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    def dataset(self) -> Dataset | None:
        """Questions of its own; None for those of the study's ``data.benchmark``.

        Raises:
            UserError: They cannot be read.
        """
        return None

    @abstractmethod
    def evaluate(self, job: EvaluationJob) -> dict[str, float]:
        """Answer every question (resuming where it stopped) and return headline numbers for display."""

    def question_scores(self, folder: Path, dataset: Dataset) -> Sequence[QuestionScore]:
        """The score of every question of a complete evaluation, for its own table beside VSI-Bench.

        Needed of a benchmark that stands beside another: ``--benchmarks vsibench,NAME``.

        Args:
            folder: What :meth:`evaluate` was given as ``job.folder``.
            dataset: The questions, as in ``job.dataset``.

        Raises:
            NotImplementedError: The benchmark leaves it out. A study that would ask for it is refused before.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no score of each question")
