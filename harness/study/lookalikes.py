"""At the start of a study: training videos that look like the benchmark's are said, and noted in the report.

A warning and not a refusal: likeness is evidence and no proof, and a refusal would also stop a study that is right.
What is certain (ids, rooms, the same file) is refused by :mod:`harness.data.leakage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.config.study import StudyConfig
from harness.console import Console
from harness.data.lookalikes import lookalikes, video_hashes
from harness.data.reader import Dataset
from harness.data.sources import world_split
from harness.errors import first_few
from harness.io import read_lines
from harness.outputs import Outputs
from harness.processes import usable_cores
from harness.study.display import progress_bar

LOOKALIKES = "lookalikes.txt"
"""In the run directory: what was found, a line each."""

MOST = 2_000
"""Videos of each side that a study looks at, evenly spread; `harness data diagnose` looks at all."""


def find_lookalikes(
    study: StudyConfig, data: Dataset, benchmark: Dataset, console: Console, most: int | None = None
) -> list[str]:
    """The videos that look like one of the benchmark's, in words with both paths; hashes are kept in the study's cache.

    Args:
        study: For its cache and number of processes.
        data: The records whose videos are looked at.
        benchmark: The benchmark's records.
        console: For the progress bar.
        most: Look at no more videos of each side, and say so.
    """
    sides = [one.distinct_videos() for one in (benchmark, data)]
    if most is not None and max(map(len, sides)) > most:
        console.say(
            f"Looked at {most:,} videos of each data set for copies of the benchmark's; `harness data diagnose` looks "
            "at all",
        )
    theirs, ours = (_some(side, most or len(side)) for side in sides)
    cache, workers = study.runtime.cache / "harness-hashes.json", study.runtime.decoders or usable_cores()
    with progress_bar("looking at videos", console) as show:
        hashes = video_hashes([*theirs, *ours], cache, workers, show)
    found = lookalikes({path: hashes[path] for path in ours}, {path: hashes[path] for path in theirs})
    return [f"{one.video} looks like {one.like} ({one.differing:.0%} of the hashes' bits differ)" for one in found]


def warn_of_lookalikes(
    study: StudyConfig, source: str, data: Dataset, benchmark: Dataset, console: Console
) -> list[str]:
    """Print which videos of a source look like the benchmark's, and return the pairs in words.

    The embedded world's rooms are made and not copied; they are not looked at.
    """
    found = [] if world_split(source) else find_lookalikes(study, data, benchmark, console, MOST)
    if found:
        pairs = first_few(found, "\n  ")
        text = (
            f"Warning: {len(found)} videos of {source} look like the benchmark's, under other names:\n  {pairs}\n"
            "Copies inflate scores: look at each pair, and remove the records of copies. `harness data diagnose` lists "
            "all pairs."
        )
        console.say(text, style="yellow")
    return found


def note_lookalikes(study: StudyConfig, run_dir: Path, train: Dataset, benchmark: Dataset, console: Console) -> None:
    """Warn of training videos that look like the benchmark's, and keep the pairs for the report."""
    if found := warn_of_lookalikes(study, study.data.train, train, benchmark, console):
        Outputs(run_dir).write(LOOKALIKES, "".join(f"{one}\n" for one in found).encode())
    else:
        Outputs(run_dir).remove([LOOKALIKES])


def noted_lookalikes(run_dir: Path) -> list[str]:
    """The pairs that :func:`note_lookalikes` kept."""
    path = run_dir / LOOKALIKES
    return read_lines(path) if path.is_file() else []


def _some(videos: Sequence[Path], most: int) -> list[Path]:
    """At most so many, evenly spread."""
    return [videos[at * len(videos) // most] for at in range(most)] if len(videos) > most else list(videos)
