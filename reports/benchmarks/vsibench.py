"""VSI-Bench: ten question types, eight tasks, and the mean of the tasks as the headline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from harness.api.benchmark import Baseline, Benchmark, Figures, ScoringRule, Task
from harness.data.layout import BENCHMARK_SPLITS, SUFFIXES
from harness.vsibench.baselines import constant_answers, text_prior_answers
from harness.vsibench.questions import part_of_vsi_bench
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS, ItemScore
from harness.vsibench.scoring import means_of_tasks, task_scores, task_weights
from harness.vsibench.types import DIRECTION_TYPES
from harness.world.build import is_of_the_world
from reports.text import listed


class VSIBench(Benchmark):
    """The protocol of VSI-Bench (arXiv 2412.14171), on its own questions or on others in its form."""

    summary: ClassVar[str] = "VSI-Bench: ten question types, eight tasks, overall = mean of the tasks"
    scorers: ClassVar[Mapping[str, ScoringRule]] = {
        name: ScoringRule(scorer.summary, scorer.version) for name, scorer in SCORERS.items()
    }
    tasks: ClassVar[tuple[Task, ...]] = (
        Task("object_counting", "Object count", "Obj.\nCount"),
        Task("object_abs_distance", "Absolute distance", "Abs.\nDist."),
        Task("object_size_estimation", "Object size", "Obj.\nSize"),
        Task("room_size_estimation", "Room size", "Room\nSize"),
        Task("object_rel_distance", "Relative distance", "Rel.\nDist."),
        Task("object_rel_direction", "Relative direction", "Rel.\nDir.", DIRECTION_TYPES),
        Task("route_planning", "Route planning", "Route\nPlan"),
        Task("obj_appearance_order", "Appearance order", "Appr.\nOrder"),
    )
    means: ClassVar[Mapping[str, str]] = {
        "numeric_mean": "Numeric\nmean",
        "choice_mean": "Choice\nmean",
        "without_counting": "Without\ncounting",
    }
    average: ClassVar[str] = (
        "the unweighted mean of the tasks, where the three levels of relative direction are one task of equal parts"
    )
    means_caption: ClassVar[str] = (
        "Means over the tasks with numeric answers, over those with lettered answers, and over all but object "
        "counting, where a constant answer scores high"
    )
    cluster: ClassVar[str] = "room"

    def title(self, records: Sequence[Record], source: str = "") -> str:
        """VSI-Bench or how much of it, the embedded world, or else the name of the user's own questions.

        By what is asked: neither the name of a folder nor of a data set makes questions VSI-Bench's.
        """
        name, _, split = source.partition("#")
        if part := part_of_vsi_bench(records):
            of = f", split {split}" if split in BENCHMARK_SPLITS[1:] else ""
            return f"VSI-Bench{of}{f' ({part.words})' if part.words else ''}"
        if is_of_the_world(records):
            return f"the embedded world ({source if source.startswith('world:') else split})".removesuffix(" ()")
        own = Path(name).stem if name.endswith(SUFFIXES) else Path(name).name or Path(name).resolve().name
        if not source or _claims_vsi_bench(own):
            about = sorted({record.dataset for record in records if not _claims_vsi_bench(record.dataset)})
            own = f"questions about {listed(about)}" if about else "questions of one's own"
        return f"{own} ({split})" if split else own

    def score(self, answer: str, record: Record, scorer: str) -> ItemScore:
        """Score by a rule of :mod:`harness.vsibench.scorers`."""
        return SCORERS[scorer].score(answer, record)

    def read(self, answer: str, record: Record, scorer: str) -> float | str | None:
        """As the same rules read it; a subclass with a score of its own reads what that one does."""
        if type(self).score is not VSIBench.score:
            return super().read(answer, record, scorer)
        return SCORERS[scorer].read(answer, record)

    def figures(self, types: Sequence[str], scores: Sequence[float]) -> Figures:
        """The overall score, the tasks, and the means of numeric and lettered tasks and without counting."""
        return figures_of(task_scores(types, scores))

    def weights(self, counts: Mapping[str, int]) -> tuple[list[str], NDArray[Any]]:
        """A third of a direction level in its task, an eighth of a task in the overall score."""
        return task_weights(list(counts))

    def baselines(self, records: Sequence[Record], train: Sequence[Record] | None) -> Sequence[Baseline]:
        """A constant answer for each type, and the best answers from the words of the question alone."""
        if train is None:
            label = "Constant answer, best on this benchmark"
            return (Baseline("constant", label, constant_answers(records, records)),)
        return (
            Baseline("constant", "Constant answer", constant_answers(train, records)),
            Baseline("text-prior", "Text only, no video", text_prior_answers(train, records)),
        )


def figures_of(tasks: Mapping[str, float]) -> Figures:
    """The overall score and further means of task scores."""
    overall, numeric, choice, without_counting = means_of_tasks(tasks)
    means = {"numeric_mean": numeric, "choice_mean": choice, "without_counting": without_counting}
    return Figures(overall, tasks, means)


def _claims_vsi_bench(name: str) -> bool:
    """Whether a name says that its questions are VSI-Bench's; a title must not repeat it if they are not."""
    return "vsibench" in "".join(filter(str.isalnum, name)).casefold()
