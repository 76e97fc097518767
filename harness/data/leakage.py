"""Training rooms that are in the benchmark: found, and refused or removed."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.resources import files

from harness.data.reader import Dataset, records_digest
from harness.errors import UserError
from harness.vsibench.records import Record

_SHOWN = 5
_ABOUT_VSI_100K = (
    " (VSI-100k's \"1.5k scenes\" are about all of ScanNet's training and validation scans, so they very likely "
    "include the 88 test rooms; its paper does not say that they were left out.)"
)

_SAME_VISIT = {"41159521": "41159525", "41159526": "41159525"}
"""ARKitScenes videos of the visit (381879) of a VSI-Bench video, by that video: one physical room.

They are in ARKitScenes' Training fold (its metadata, ``visit_id``)."""


def leaking_rooms(records: Iterable[Record]) -> dict[str, int]:
    """Records per room that is one of the rooms of VSI-Bench's 288 videos, sorted by room."""
    return _count(records, vsi_bench_rooms())


def check_leakage(train: Dataset, benchmark: Dataset, drop: bool) -> Dataset:
    """The training data without a room of the benchmark at hand or of VSI-Bench.

    Args:
        train: The training records.
        benchmark: The records the checkpoints are evaluated on.
        drop: Remove such records, log how many of which rooms, and list them in ``skipped``.

    Raises:
        UserError: There are such records and ``drop`` is off, or nothing would be left.
    """
    forbidden = vsi_bench_rooms() | {_room(record) for record in benchmark.records}
    leaking = _count(train.records, forbidden)
    if not leaking:
        return train
    rooms = [f"{room} ({count})" for room, count in leaking.items()]
    more = f" and {len(rooms) - _SHOWN} more" if len(rooms) > _SHOWN else ""
    found = (
        f"{train.root} ({train.split}): {sum(leaking.values())} of {len(train.records)} training records show "
        f"{len(rooms)} rooms of the benchmark: {', '.join(rooms[:_SHOWN])}{more}"
    )
    if not drop:
        raise UserError(
            f"{found}. Scores would be inflated: remove them, or let --drop-leaking (data.drop_leaking) leave them "
            f"out.{_ABOUT_VSI_100K if any(room.startswith('scannet/') for room in leaking) else ''}"
        )
    kept = tuple(record for record in train.records if _room(record) not in forbidden)
    if not kept:
        raise UserError(f"{found}. Nothing else is left to train on.")
    logging.getLogger(__name__).warning("%s. They are dropped.", found)
    dropped = tuple(
        f"record {record.key}: room {_room(record)} is in the benchmark"
        for record in train.records
        if _room(record) in forbidden
    )
    return replace(train, records=kept, digest=records_digest(kept), skipped=train.skipped + dropped)


@cache
def vsi_bench_rooms() -> frozenset[str]:
    """The physical rooms of VSI-Bench's 288 videos, as ``dataset/room``."""
    known = json.loads(files("harness.vsibench").joinpath("vsi_bench_scenes.json").read_text("utf-8"))
    return frozenset(_room_name(dataset, name) for dataset, names in known["scenes"].items() for name in names)


def _count(records: Iterable[Record], rooms: frozenset[str]) -> dict[str, int]:
    counts = Counter(_room(record) for record in records)
    return {room: counts[room] for room in sorted(counts.keys() & rooms)}


def _room(record: Record) -> str:
    return _room_name(record.dataset, record.scene_name)


def _room_name(dataset: str, scene: str) -> str:
    """The room under one spelling: "ScanNet++", "scannetpp" and "ScanNetPP_v2" are one data set."""
    plain = re.sub(r"[^a-z0-9]", "", dataset.lower().replace("+", "p"))
    for known in ("scannetpp", "scannet", "arkitscenes"):
        if plain.startswith(known):
            plain = known
            break
    if plain == "scannet":
        scene = scene[:9]
    elif plain == "arkitscenes":
        scene = _SAME_VISIT.get(scene, scene)
    return f"{plain}/{scene}"
