"""A study's cells and data, found and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.config.evaluation import DEVELOPMENT
from harness.config.study import StudyConfig
from harness.console import Console
from harness.data.contents import content_digest
from harness.data.reader import Dataset
from harness.errors import first_few
from harness.models.conversation import conversation_notes
from harness.models.loading import check_model, model_config, model_digest
from harness.study import matrix
from harness.study.display import progress_bar
from harness.study.identity import question_digests
from harness.study.matrix import Cell
from harness.study.scored import Rules
from harness.study.setup import benchmark_source, frame_cache, load_data, read_development
from harness.study.sources import DEVELOPMENT_KEY, build_source, check_development


@dataclass(frozen=True)
class Plan:
    """A study's cells and data, with the model and data found.

    Attributes:
        cells: In the order of the table.
        train: The training records.
        benchmark: The benchmark's records.
        questions: What identifies each benchmark's questions, the headline's first.
        development: The records that checkpoints are chosen by, where the study has some.
    """

    cells: list[Cell]
    train: Dataset
    benchmark: Dataset
    questions: Mapping[str, str]
    development: Dataset | None = None

    def rules(self, study: StudyConfig) -> list[Rules]:
        """The study's benchmarks at work, the headline first."""
        records = {DEVELOPMENT: self.development or self.benchmark}
        return [
            Rules.of(study, name, records.get(name, self.benchmark), digest) for name, digest in self.questions.items()
        ]


def make_plan(study: StudyConfig, console: Console, *, keep: bool = True) -> Plan:
    """Find the model, say what of its own defaults is not used, read or generate the data, list the cells.

    Args:
        study: The resolved study.
        console: For messages.
        keep: Keep in the cache the videos' digests and which are broken.

    Raises:
        UserError: The model or the data cannot be used.
    """
    weights = checked_digest(study, console)
    build_source(benchmark_source(study.data), study, console)
    build_source(study.data.train, study, console, default="train")
    if chosen := study.evaluation.development:
        check_development(study, DEVELOPMENT_KEY, chosen, console, build=keep)
        build_source(chosen, study, console)
    train, benchmark = load_data(study, keep=keep)
    development = read_development(study, keep=keep)
    assert train is not None
    for skipped in filter(None, (one.skipped for one in (train, benchmark, development) if one is not None)):
        console.say(f"{len(skipped)} records are skipped:", style="yellow")
        console.say("  " + first_few(skipped, "\n  "))
    frames = frame_cache(study, model_config(study.model.name))
    with progress_bar("reading training videos", console) as show:
        trained = content_digest(train, frames, show, keep=keep)
    with progress_bar("reading benchmark videos", console) as show:
        content = content_digest(benchmark, frames, show, keep=keep)
    chosen_by = None
    if development is not None:
        with progress_bar("reading development videos", console) as show:
            chosen_by = development, content_digest(development, frames, show, keep=keep)
    questions = question_digests(study, benchmark, content, chosen_by)
    cells = matrix.cells_of(study, model_digest=weights, train_digest=trained, questions=questions)
    return Plan(cells, train, benchmark, questions, development)


def checked_digest(study: StudyConfig, console: Console) -> str:
    """What identifies the model, which is checked first."""
    remarks = [f"{study.model.name}: {remark}" for remark in check_model(study.model)]
    for note in (*remarks, *conversation_notes(study.model.name)):
        console.say(note, style="yellow")
    return model_digest(study.model.name)
