"""Preparing VSI-100k with the user's copy of ScanNet as one folder in the common layout."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data import vsi100k
from harness.data.corruption import corrupted_answer
from harness.data.leakage import leaking_rooms
from harness.data.prepare import (
    Progress,
    check_videos,
    link_videos,
    records_text,
    scenes_of,
    write_manifest,
)
from harness.data.reader import MANIFEST, read_dataset
from harness.errors import UserError, first_few
from harness.locks import hold
from harness.outputs import Outputs
from harness.vsibench.records import Record

_FILE = "train.jsonl"


def prepare_vsi_100k(
    source: Path,
    out: Path,
    *,
    scannet: Path | None = None,
    fields: Mapping[str, str] | None = None,
    skip_bad: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn the released JSON files into ``out/train.jsonl`` with links to the user's ScanNet videos.

    Questions are sorted by a hash of their ids, so that the first N are a fair sample of all types.

    Args:
        source: The folder of JSON files.
        out: The folder to make.
        scannet: ScanNet, as frame folders or one video file per scene; without it no videos are linked.
        fields: Maps our field names to the files', where those are not recognised.
        skip_bad: Leave out bad questions and those of scenes without a video, and count them.
        workers: Processes that decode.
        progress: Called as work proceeds.

    Raises:
        UserError: The layout is unknown, questions are bad, or scenes have no intact video.
    """
    if not vsi100k.question_files(source):
        raise UserError(
            f"{source}: no JSON file is named after a question type (object_counting.json, ...); download it: "
            f"hf download {vsi100k.HUB_ID} --repo-type dataset --local-dir DIR"
        )
    data = read_dataset(source, "train", skip_bad=skip_bad, check_videos=False, fields=fields)
    skipped = list(data.skipped)
    records = sorted(data.records, key=lambda record: hashlib.sha256(record.key.encode()).digest())
    if scannet is not None and not scannet.is_dir():
        raise UserError(f"`--scannet {scannet}`: no such folder. {vsi100k.GET_SCANNET}")
    with hold(out, "data set's folder"):
        outputs = Outputs(out)
        outputs.check([_FILE, MANIFEST])
        if scannet is not None:
            records = _link(source, outputs, records, scannet, skipped, skip_bad)
        outputs.write(_FILE, records_text(records))
        videos = check_videos(out, scenes_of(records), workers, progress) if scannet is not None else {}
        return write_manifest(
            outputs, vsi100k.HUB_ID, str(source), records, videos, notes=_notes(records, skipped), skipped=skipped
        )


def _link(
    source: Path, outputs: Outputs, records: list[Record], scannet: Path, skipped: list[str], skip_bad: bool
) -> list[Record]:
    """Link the videos; return the records that have one, and add what is left out to ``skipped``."""
    scenes = scenes_of(records)
    without = link_videos(scannet, outputs, scenes)
    if without and not skip_bad:
        raise UserError(
            f"{scannet}: no video of {len(without)} of {len(scenes)} scenes: {first_few(without)}. "
            f"{vsi100k.GET_SCANNET}. Or use --skip-bad to leave out their questions"
        )
    kept = [record for record in records if record.scene not in without]
    skipped += [f"{len(records) - len(kept)} questions on {len(without)} scenes without a video"] if without else []
    if not kept:
        raise UserError(f"{scannet}: no scene of {source} has a video there. {vsi100k.GET_SCANNET}")
    return kept


def _notes(records: Sequence[Record], skipped: Sequence[str]) -> list[str]:
    """What a reader of the results should know about this data."""
    notes = list(vsi100k.NOTES)
    lacking = sorted(set(vsi100k.PUBLISHED) - {record.task for record in records})
    if lacking:
        notes.append(f"of VSI-100k's six types, {', '.join(lacking)} are missing from this copy")
    if leaking := leaking_rooms(records):
        notes.append(
            f"{sum(leaking.values())} of {len(records)} questions show {len(leaking)} of the 88 ScanNet rooms of "
            "VSI-Bench; they are refused in training unless --drop-leaking removes them"
        )
    if pairless := sum(not _can_be_corrupted(record) for record in records):
        notes.append(f"for {pairless} questions no corrupted answer can be made, which dpo:pairs=corrupted needs")
    if skipped:
        notes.append(f"{len(skipped)} entries were left out, the first: {skipped[0]}")
    return notes


def _can_be_corrupted(record: Record) -> bool:
    try:
        corrupted_answer(record, random.Random(0))
    except UserError:
        return False
    return True
