"""The leak check: training rooms that are also in the benchmark are refused or removed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from harness.data.reader import Dataset, records_digest
from harness.errors import UserError, first_few
from harness.vsibench.published import published_rooms
from harness.vsibench.records import Record

_ABOUT_VSI_100K = (
    " (VSI-100k's \"1.5k scenes\" are nearly all of ScanNet's training and validation scans, so they very likely "
    "include the 88 test rooms; its paper does not say that they were excluded.)"
)


def leaking_rooms(records: Iterable[Record]) -> dict[str, int]:
    """Number of records for each room that VSI-Bench's 288 videos show, sorted by room."""
    return _count(records, published_rooms())


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
    leaking = _count(train.records, forbidden)
    if not leaking:
        return train
    rooms = [f"{room} ({count})" for room, count in leaking.items()]
    found = (
        f"{train.root} ({train.split}): {sum(leaking.values())} of {len(train.records)} training records show "
        f"{len(rooms)} rooms of the benchmark: {first_few(rooms)}"
    )
    if not drop:
        raise UserError(
            f"{found}. They would inflate scores: remove them, or drop them with --drop-leaking "
            f"(data.drop_leaking).{_ABOUT_VSI_100K if any(room.startswith('scannet/') for room in leaking) else ''}"
        )
    kept = tuple(record for record in train.records if record.room not in forbidden)
    if not kept:
        raise UserError(f"{found}. Nothing else is left to train on.")
    logging.getLogger(__name__).warning("%s. They were dropped.", found)
    dropped = tuple(
        f"record {record.key}: room {record.room} is in the benchmark"
        for record in train.records
        if record.room in forbidden
    )
    return replace(train, records=kept, digest=records_digest(kept), skipped=train.skipped + dropped)


def _count(records: Iterable[Record], rooms: frozenset[str]) -> dict[str, int]:
    counts = Counter(record.room for record in records)
    return {room: counts[room] for room in sorted(counts.keys() & rooms)}
