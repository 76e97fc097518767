"""Leaving out records whose video cannot be decoded completely, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.data.reader import Dataset
from harness.data.video.decode import DECODING, inspect_video
from harness.errors import UserError
from harness.io import digest_of, read_as, write_json


def without_broken_videos(dataset: Dataset, frames: int, verdicts: Path, *, keep: bool = True) -> Dataset:
    """Leave out the records of videos that are damaged or shorter than ``frames``, each with a line in ``skipped``.

    Args:
        dataset: Records whose videos exist.
        frames: Frames that will be sampled from each video.
        verdicts: JSON file that caches the outcomes, since decoding is slow; a video that changed since, or whose
            outcome is by older rules of decoding, is decoded again.
        keep: Write new outcomes to this file.

    Raises:
        UserError: No record is left.
    """
    known = _remembered(verdicts)
    found = {path: _verdict(path, known, frames) for path in dict.fromkeys(map(dataset.video_path, dataset.records))}
    fresh = {str(path): verdict for path, verdict in found.items()}
    if keep and not fresh.items() <= known.items():
        videos = known | fresh
        write_json(verdicts, {"videos": videos, "digest": digest_of(videos)})
    problems = {path: verdict["problem"] or _short(path, verdict["frames"], frames) for path, verdict in found.items()}
    bad = {record.key: problem for record in dataset.records if (problem := problems[dataset.video_path(record)])}
    if not bad:
        return dataset
    kept = dataset.without(bad)
    if not kept.records:
        raise UserError(f"{dataset.source}: no video can be used; the first: {kept.skipped[-len(bad)]}")
    return kept


def _verdict(path: Path, known: dict[str, Any], frames: int) -> dict[str, Any]:
    status = path.stat()
    stamp = {
        "size": status.st_size,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,
        "rules": DECODING,
    }
    before = None if path.is_dir() else known.get(str(path))  # a folder's own stamp is not that of its stills
    if isinstance(before, dict) and stamp.items() <= before.items() and {"frames", "problem"} <= before.keys():
        return before
    try:
        return {**stamp, "frames": inspect_video(path, frames).frames, "problem": ""}
    except UserError as error:
        return {**stamp, "frames": 0, "problem": str(error)}


def _short(path: Path, has: int, wanted: int) -> str:
    return f"{path}: the video has {has} frames and {wanted} are needed" if has < wanted else ""


def _remembered(verdicts: Path) -> dict[str, Any]:
    """The cached outcomes; empty if the file is not what was written, since it can be rebuilt."""
    try:
        content = read_as(_Cached, verdicts, "")
    except UserError:
        return {}
    return content.videos if content.digest == digest_of(content.videos) else {}


class _Cached(BaseModel):
    """The file of outcomes, and their digest: a changed one would leave out records without a reason."""

    videos: dict[str, Any]
    digest: str
