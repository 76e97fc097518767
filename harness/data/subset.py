"""A benchmark subset that is the same on every machine: whole rooms, question types in proportion."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from harness.data.reader import Dataset
from harness.errors import UserError
from harness.vsibench.records import Record


def stratified_subset(dataset: Dataset, limit: int) -> Dataset:
    """At most ``limit`` questions: whole rooms, chosen so that question types and data sets keep their shares.

    Statistics cluster by room, so a room is included completely or not at all. Rooms are chosen greedily: each time the
    room that brings the counts of question types and data sets closest to those of as many average rooms (smallest sum
    of squared differences, each divided by its expectation; ties broken by the hash of the room's name), as long as
    one fits. Nothing is drawn at random: the choice depends on the records alone.

    Args:
        dataset: The benchmark.
        limit: Maximum number of questions; a data set that has no more is returned unchanged.

    Raises:
        UserError: The smallest room has more questions than ``limit``.
    """
    if limit >= len(dataset.records):
        return dataset
    rooms = _strata(dataset.records)
    smallest = min(sum(counts.values()) for counts in rooms.values()) // 2
    if limit < smallest:
        raise UserError(
            f"`--limit {limit}` (data.benchmark_limit): rooms are included whole, and the smallest of "
            f"{dataset.source} has {smallest} questions"
        )
    whole: Counter[str] = Counter()
    for counts in rooms.values():
        whole.update(counts)
    chosen = _choose(rooms, {name: count / len(rooms) for name, count in whole.items()}, limit)
    records = tuple(record for record in dataset.records if record.room in chosen)
    return replace(dataset, records=records)


def _strata(records: tuple[Record, ...]) -> dict[str, Counter[str]]:
    """Per room, the number of questions of each type and of each data set (every question counts in both)."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        rooms[record.room].update((record.question_type, f"data set {record.dataset}"))
    return dict(rooms)


def _choose(rooms: Mapping[str, Counter[str]], average: Mapping[str, float], limit: int) -> set[str]:
    left = dict(sorted(rooms.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest()))
    got: Counter[str] = Counter()
    chosen: set[str] = set()
    taken = 0

    def deviation(room: str) -> float:
        rooms_then = len(chosen) + 1
        return sum(
            (got[name] + left[room][name] - mean * rooms_then) ** 2 / (mean * rooms_then)
            for name, mean in average.items()
        )

    while fitting := [room for room, counts in left.items() if taken + sum(counts.values()) // 2 <= limit]:
        best = min(fitting, key=deviation)
        counts = left.pop(best)
        taken += sum(counts.values()) // 2
        got.update(counts)
        chosen.add(best)
    return chosen
