"""``harness data diagnose``: what is in a data set, and whether it shows rooms of a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.cli.options import StudyOptions
from harness.console import Console
from harness.errors import UserError, first_few

if TYPE_CHECKING:
    from harness.config.study import StudyConfig
    from harness.data.reader import Dataset


def diagnose(options: StudyOptions) -> int:
    """What is in a data set: records by type, rooms, and what it shares with VSI-Bench or another benchmark.

    Shared rooms are found by published scene ids, names and files; copies of its videos under other names by perceptual
    hashes of a few frames, if the benchmark is at hand. The exit code is 1 if anything is shared.

    [bold]Examples[/bold]

    harness data diagnose --data rooms.jsonl
    harness data diagnose --data DIR --benchmark-data data/vsi-bench
    """
    from harness.cli.resolve import resolve_study
    from harness.data.leakage import count_rooms, shared_rooms
    from harness.study.lookalikes import find_lookalikes

    if options.data is None and options.study is None:
        raise UserError("`--data`: name the data set to look at, for example --data DIR")
    study, console = resolve_study(options), Console()
    data = _read(study.data.train, study, "train", console)
    _print_records(data, console)
    benchmark = None
    if options.benchmark_data is not None or options.study is not None:
        from harness.study.setup import benchmark_source

        benchmark = _read(benchmark_source(study.data), study, "test", console)
    asked = f"VSI-Bench{f' and of {benchmark.source}' if benchmark else ''}"
    shared = count_rooms(shared_rooms(data, [benchmark] if benchmark else []).values())
    rooms = [f"{room} ({count})" for room, count in shared.items()]
    _print_list(f"Rooms of {asked}, with their records", f"No room of {asked} is named.", rooms, console)
    if benchmark is None:
        console.say("Videos were not compared: name the benchmark's with --benchmark-data DIR.")
        return 1 if rooms else 0
    pairs = find_lookalikes(study, data, benchmark, console)
    _print_list("Videos that look alike", f"No video looks like one of {benchmark.source}.", pairs, console)
    return 1 if rooms or pairs else 0


def _read(source: str, study: StudyConfig, default: str, console: Console) -> Dataset:
    """A source's good records, also those whose videos are missing; its bad ones are in ``skipped``."""
    from harness.data.reader import read_dataset
    from harness.data.sources import resolve_source
    from harness.study.display import progress_bar
    from harness.study.setup import headline_types

    with progress_bar(source, console) as show:
        root, split = resolve_source(source, study.runtime.cache, progress=show, default=default)
    train: dict[str, Any] = {"fields": study.data.fields, "videos": study.data.videos} if default == "train" else {}
    train |= {} if default == "train" else {"types": headline_types(study)}
    return read_dataset(root, split, skip_bad=True, check_videos=False, **train)


def _print_records(data: Dataset, console: Console) -> None:
    from harness.vsibench.questions import part_of_vsi_bench

    records = data.records
    rooms, scenes = ({getattr(record, of) for record in records} for of in ("room", "scene"))
    counts = f"{len(records):,} records on {len(scenes):,} videos of {len(rooms):,} rooms"
    console.say(f"{data.source}: {counts}")
    if part := part_of_vsi_bench(records):
        console.say(f"Its questions are VSI-Bench's{f': {part.words}' if part.words else ', all of them'}.")
    table = Table("Type", "Records", "With options", "Videos", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in sorted({record.question_type for record in records}):
        some = [record for record in records if record.question_type == kind]
        with_options, videos = sum(one.options is not None for one in some), len({one.scene for one in some})
        table.add_row(kind, *(f"{n:,}" for n in (len(some), with_options, videos)))
    console.print(table)
    named = Counter(record.dataset for record in records)
    console.say("Data sets: " + ", ".join(f"{name} ({n:,})" for name, n in named.most_common()))
    if missing := [str(video) for video in data.distinct_videos() if not video.exists()]:
        console.say(f"{len(missing):,} videos are missing: {first_few(missing)}", style="yellow")
    if data.skipped:
        console.say(f"{len(data.skipped):,} records cannot be used:", style="yellow")
        console.say("  " + first_few(data.skipped, "\n  "))
    for note in data.notes:
        console.say(f"Note: {note}")


def _print_list(title: str, nothing: str, items: Sequence[str], console: Console) -> None:
    """All items under a title, or that there is nothing."""
    if not items:
        console.say(nothing, style="green")
        return
    console.say(f"{title}: {len(items):,}", style="bold red")
    for item in items:
        console.say(f"  {item}")
