"""Data of a study before it is read: generated or found, and records to choose by kept apart from the benchmark."""

from __future__ import annotations

from harness.config.study import StudyConfig
from harness.console import Console
from harness.data.leakage import count_rooms, shared_rooms
from harness.data.sources import is_ready, resolve_source, world_split
from harness.errors import UserError, first_few
from harness.study.display import progress_bar
from harness.study.lookalikes import warn_of_lookalikes
from harness.study.setup import benchmark_source, load_data, other_questions, read_benchmark, read_questions

DEVELOPMENT_KEY = "evaluation.development"
"""The setting that names the records by which checkpoints are chosen."""


def build_source(source: str, study: StudyConfig, console: Console, default: str = "test") -> None:
    """Generate a source that can be generated, with a progress bar; find any other, and a split of it."""
    if not is_ready(source, study.runtime.cache):
        console.say(f"Generating the data {source}")
    with progress_bar(source, console) as show:
        resolve_source(source, study.runtime.cache, progress=show, default=default)


def check_development(study: StudyConfig, key: str, chosen: str, console: Console, *, build: bool) -> None:
    """Refuse records to choose by that show rooms of a benchmark, of VSI-Bench's 288, or copies of their videos.

    Args:
        study: The study.
        key: The setting that names the records.
        chosen: Their source.
        console: For messages.
        build: Generate data that are missing; otherwise they are not checked, which is said.

    Raises:
        UserError: The records share rooms with a benchmark, or those that checkpoints are chosen by with the training
            data; the rooms are named.
    """
    benchmark, train = benchmark_source(study.data), study.data.train
    source, worlds = f"`{key}` = {chosen}", {one: world_split(one) for one in (chosen, benchmark, train)}
    if worlds[chosen] and worlds[chosen] == worlds[benchmark]:
        raise UserError(f"{source} is the benchmark, {benchmark}; choose by other rooms, such as world:dev")
    if key == DEVELOPMENT_KEY and worlds[chosen] and worlds[chosen] == worlds[train]:
        raise UserError(f"{source} is trained on, {train}; choose by other rooms, such as world:dev")
    needed = (chosen, benchmark, train) if key == DEVELOPMENT_KEY else (chosen, benchmark)
    if all(worlds[one] for one in needed) and not study.evaluation.more:
        return  # No room is in two splits of the world.
    for one in (chosen, benchmark, train):
        if build:
            build_source(one, study, console)
        elif not is_ready(one, study.runtime.cache):
            console.say(f"Not checked for rooms of the benchmark yet: {one} is not generated")
            return
    trained, _ = load_data(study, keep=build)  # It refuses training data with rooms of the benchmark.
    whole, development = read_benchmark(study, keep=build), read_questions(chosen, study, keep=build)
    if shared := count_rooms(shared_rooms(development, [whole], other_questions(study)).values()):
        raise UserError(
            f"{source} shows rooms of the benchmark ({whole.source}, another one or VSI-Bench): {_listed(shared)}. "
            "Choose by records on other rooms"
        )
    if key == DEVELOPMENT_KEY and trained and (seen := count_rooms(shared_rooms(development, [trained]).values())):
        raise UserError(f"{source} shows rooms that are trained on ({train}): {_listed(seen)}. Choose by other rooms")
    if build:
        warn_of_lookalikes(study, chosen, development, whole, console)


def _listed(rooms: dict[str, int]) -> str:
    return first_few([f"{room} ({count})" for room, count in rooms.items()])
