"""The leak check: training rooms that are also in the benchmark are refused or removed.

By what is certain: published scene ids in names and paths, the benchmark's own rooms, and its videos byte for byte.
Videos that only look alike are :mod:`harness.data.lookalikes`'s.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from harness.data.reader import Dataset
from harness.errors import UserError, first_few
from harness.io import sha256_file
from harness.vsibench.records import Record
from harness.vsibench.rooms import published_rooms, rooms_named

_ABOUT_VSI_100K = (
    " (VSI-100k's \"1.5k scenes\" are nearly all of ScanNet's training and validation scans, so they very likely "
    "include the 88 test rooms; its paper does not say that they were excluded.)"
)


def leaking_rooms(records: Iterable[Record]) -> dict[str, int]:
    """Number of records that show each room of VSI-Bench's 288 videos, by their names alone; sorted by room."""
    return count_rooms(record.room for record in records if record.room in published_rooms())


def shared_rooms(data: Dataset, benchmarks: Sequence[Dataset], more: Iterable[Record] = ()) -> dict[str, str]:
    """The room of a benchmark that a record shows, by ``record.key``; without the records that show none.

    Args:
        data: The records to check.
        benchmarks: Their rooms and video files count, and VSI-Bench's 288 rooms in any case.
        more: Records of other benchmarks, whose rooms count too.
    """
    rooms = published_rooms() | {record.room for record in more}
    files: dict[int, dict[Path, str]] = defaultdict(dict)
    for benchmark in benchmarks:
        for record, video in _videos(benchmark):
            rooms |= _rooms(record, video, benchmark.root)
            if video.exists():
                files[video.stat().st_size][video] = record.room
    shown: dict[str, str] = {}
    for record, video in _videos(data):
        known = _rooms(record, video, data.root) & rooms
        room = min(known) if known else _copied(video, files)
        if room is not None:
            shown[record.scene] = room
    return {record.key: shown[record.scene] for record in data.records if record.scene in shown}


def check_leakage(train: Dataset, benchmark: Dataset | None, drop: bool, more: Iterable[Record] = ()) -> Dataset:
    """The training data, without any room of this benchmark or of VSI-Bench.

    Args:
        train: The training records.
        benchmark: The records the checkpoints are evaluated on; None while they are to be generated.
        drop: Remove leaking records, log their number and rooms, and list them in ``skipped``.
        more: The records of additional benchmarks.

    Raises:
        UserError: There are leaking records and ``drop`` is off, or no record would be left.
    """
    leaking = shared_rooms(train, [benchmark] if benchmark else [], more)
    if not leaking:
        return train
    rooms = count_rooms(leaking.values())
    found = (
        f"{train.source}: {len(leaking)} of {len(train.records)} training records show "
        f"{len(rooms)} rooms of the benchmark: {first_few([f'{room} ({count})' for room, count in rooms.items()])}"
    )
    if not drop:
        raise UserError(
            f"{found}. They would inflate scores: remove them, or drop them with --drop-leaking "
            f"(data.drop_leaking).{_ABOUT_VSI_100K if any(room.startswith('scannet/') for room in rooms) else ''}"
        )
    kept = train.without({key: f"room {room} is in the benchmark" for key, room in leaking.items()})
    if not kept.records:
        raise UserError(f"{found}. Nothing else is left to train on.")
    logging.getLogger(__name__).warning("%s. They were dropped.", found)
    return kept


def count_rooms(rooms: Iterable[str]) -> dict[str, int]:
    """How often each room occurs, sorted by room."""
    return dict(sorted(Counter(rooms).items()))


def _videos(data: Dataset) -> list[tuple[Record, Path]]:
    """The first record of every scene and its video, with links resolved."""
    first = {record.scene: record for record in reversed(data.records)}
    return [(record, data.video_path(record).resolve()) for record in first.values()]


def _rooms(record: Record, video: Path, root: Path) -> set[str]:
    """The record's room and those that its names and its video's path name; the folder of the data set is no evidence.

    A link may lead to a file with a published id out of a folder that has none.
    """
    home = root.resolve()
    path = video.relative_to(home) if video.is_relative_to(home) else video
    names = (record.scene, str(path), record.id if isinstance(record.id, str) else "")
    return {record.room, *(room for name in names for room in rooms_named(name))}


def _copied(video: Path, files: dict[int, dict[Path, str]]) -> str | None:
    """The room of a benchmark's file that a video is, or equals byte for byte."""
    alike = files.get(video.stat().st_size, {}) if video.exists() else {}
    if video in alike or video.is_dir():
        return alike.get(video)
    return next((room for file, room in alike.items() if file.is_file() and _digest(file) == _digest(video)), None)


def _digest(file: Path) -> str:
    return _digest_then(file, file.stat().st_mtime_ns)


@cache
def _digest_then(file: Path, modified: int) -> str:
    return sha256_file(file)
