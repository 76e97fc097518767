"""The leak check: training rooms that are also in the benchmark are refused or removed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from harness.data.reader import Dataset
from harness.errors import UserError, first_few
from harness.vsibench.published import published_rooms
from harness.vsibench.records import Record

_ABOUT_VSI_100K = (
    " (VSI-100k's \"1.5k scenes\" are nearly all of ScanNet's training and validation scans, so they very likely "
    "include the 88 test rooms; its paper does not say that they were excluded.)"
)


def leaking_rooms(records: Iterable[Record], rooms: frozenset[str] | None = None) -> dict[str, int]:
    """Number of records for each of some rooms, by default those of VSI-Bench's 288 videos, sorted by room."""
    counts = Counter(record.room for record in records)
    return {room: counts[room] for room in sorted(counts.keys() & (published_rooms() if rooms is None else rooms))}


def check_leakage(train: Dataset, benchmark: Dataset, drop: bool) -> Dataset:
    """The training data, without any room of this benchmark or of VSI-Bench.

    Args:
        train: The training records.
        benchmark: The records the checkpoints are evaluated on.
        drop: Remove leaking records, log their number and rooms, and list them in ``skipped``.

    Raises:
        UserError: There are leaking records and ``drop`` is off, or no record would be left.
    """
    forbidden = published_rooms() | {record.room for record in benchmark.records}
    leaking = leaking_rooms(train.records, forbidden)
    if not leaking:
        return train
    rooms = [f"{room} ({count})" for room, count in leaking.items()]
    found = (
        f"{train.source}: {sum(leaking.values())} of {len(train.records)} training records show "
        f"{len(rooms)} rooms of the benchmark: {first_few(rooms)}"
    )
    if not drop:
        raise UserError(
            f"{found}. They would inflate scores: remove them, or drop them with --drop-leaking "
            f"(data.drop_leaking).{_ABOUT_VSI_100K if any(room.startswith('scannet/') for room in leaking) else ''}"
        )
    problems = {r.key: f"room {r.room} is in the benchmark" for r in train.records if r.room in forbidden}
    kept = train.without(problems)
    if not kept.records:
        raise UserError(f"{found}. Nothing else is left to train on.")
    logging.getLogger(__name__).warning("%s. They were dropped.", found)
    return kept
