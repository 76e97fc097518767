"""Reading a data set in VSI-Bench's own layout, strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from pydantic import BaseModel, ValidationError

from harness.data import vsi100k
from harness.data.layout import PRUNED_IDS, SUFFIXES, SplitFiles, find_split, find_video, split_of
from harness.data.rowfiles import fields_of, rows_in
from harness.data.rows import RowReader, tell
from harness.data.truths import Types
from harness.errors import UserError, first_few
from harness.io import read_json
from harness.vsibench.records import BadRecordError, Record

MANIFEST = "manifest.json"
"""The file in which ``harness data prepare`` describes a folder."""


@dataclass(frozen=True)
class Dataset:
    """The questions of one split and the folder that holds their videos.

    Attributes:
        root: The folder with ``{dataset}/{scene_name}.mp4``.
        split: For example ``test``.
        records: In the order of the file.
        skipped: One line for each record that was left out: its place and the reason.
        videos: Another folder to find the videos in.
        notes: What a reader of the results should know about the data, from the folder's manifest.
    """

    root: Path
    split: str
    records: tuple[Record, ...]
    skipped: tuple[str, ...] = ()
    videos: Path | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the records, in their order."""
        content = hashlib.sha256()
        for record in self.records:
            line = json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            content.update(line.encode() + b"\n")
        return content.hexdigest()

    @property
    def source(self) -> str:
        """Where the records come from, for messages."""
        return f"{self.root} ({self.split})"

    def distinct_videos(self) -> list[Path]:
        """The videos of all records, each once, in the order of first use."""
        return [self.video_path(record) for record in {record.scene: record for record in self.records}.values()]

    def video_path(self, record: Record) -> Path:
        """A record's video, a file or a folder of frames; where it is expected if it does not exist."""
        folder = self.videos or self.root
        usual = folder / f"{record.scene}.mp4"
        return usual if usual.is_file() else find_video(folder, record.scene) or usual

    def without(self, problems: Mapping[str, str]) -> Dataset:
        """Without the records whose keys have a problem, each with a line in ``skipped``."""
        kept = tuple(record for record in self.records if record.key not in problems)
        lines = tuple(f"record {key}: {problem}" for key, problem in problems.items())
        return replace(self, records=kept, skipped=self.skipped + lines)


def read_dataset(
    root: Path,
    split: str = "test",
    *,
    skip_bad: bool = False,
    check_videos: bool = True,
    fields: Mapping[str, str] | None = None,
    videos: Path | None = None,
    types: Types | None = None,
) -> Dataset:
    """Read a split; :func:`harness.data.layout.find_split` determines its files.

    Args:
        root: The data set's folder, or one of its ``.jsonl`` or ``.parquet`` files (which then names the split).
        split: Which split of a folder.
        skip_bad: Leave out bad records, each with a line in ``skipped``, instead of refusing the data set.
        check_videos: Whether a record whose video file is missing is bad.
        fields: Maps the record's field names to the file's, where they differ.
        videos: Another folder to find the videos in.
        types: The question types that records may have; VSI-Bench's unless given.

    Raises:
        UserError: The file is missing or unreadable; no record is left; or, unless ``skip_bad``, a
            record is bad. Each bad record is named with file, line and fix.
    """
    root = Path(root)
    if root.suffix in SUFFIXES and not root.is_dir():
        split, files, root = split_of(root), SplitFiles([root]), root.parent
    else:
        files = find_split(root, split)
    reader, released = RowReader(fields, types), files.files[0].suffix == ".json"
    if released:  # its rows come with our names
        reader = RowReader(None, types)
    data = Dataset(root, split, (), videos=videos)
    records: list[Record] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    others: set[str] = set()
    present: dict[str, Path | None] = {}
    rows = partial(vsi100k.rows, fields=fields or {}) if released else rows_in
    for place, content in (row for file in files.files for row in rows(file)):
        try:
            record = reader.record(fields_of(content))
            if not files.has(record.key):
                others.add(record.key)
                continue
            if record.key in seen:
                raise BadRecordError(f"id {record.key} was used before, at {seen[record.key]}; make ids unique")
            if check_videos:
                _require_video(data, record, present)
        except BadRecordError as error:
            problems.append(f"{place}: {error}")
            continue
        seen[record.key] = place
        records.append(record)
    if problems and not skip_bad:
        raise UserError(
            f"{first_few(problems, chr(10))}\nFix the file, or use --skip-bad to leave bad records out and count them."
        )
    if not records:
        reason = f"; all {len(problems)} were bad, the first: {problems[0]}" if problems else ""
        raise UserError(f"{files.files[0]}: no records{reason}")
    if not problems and (unknown := sorted((files.ids or frozenset()) - seen.keys() - others)):
        raise UserError(f"{root / PRUNED_IDS}: {len(unknown)} ids belong to no question: {first_few(unknown)}")
    remarks = [f"{files.files[0]}: {remark}" for remark in reader.remarks()]
    for remark in remarks:
        tell(remark)
    manifest = read_manifest(root)
    notes = manifest.notes if manifest and manifest.notes is not None else vsi100k.NOTES if released else ()
    return replace(data, records=tuple(records), skipped=tuple(problems), notes=(*notes, *remarks))


class Manifest(BaseModel):
    """What is read of a prepared folder's manifest."""

    name: str = ""
    source: str = ""
    notes: tuple[str, ...] | None = None


def read_manifest(root: Path) -> Manifest | None:
    """The manifest of a prepared folder; None if it was not prepared.

    Raises:
        UserError: The file is not such a manifest.
    """
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"`{path}`: {where}: {first['msg']}; prepare the folder again with `harness data`") from error


def _require_video(data: Dataset, record: Record, present: dict[str, Path | None]) -> None:
    """Refuse a record without a video; each scene is looked up once."""
    if record.scene not in present:
        path = data.video_path(record)
        present[record.scene] = None if path.exists() else path
    if missing := present[record.scene]:
        zipped, fix = data.root / f"{record.dataset}.zip", "put it there"
        if zipped.is_file():
            fix = f"extract it from {zipped} with `harness data prepare vsibench --from {data.root} --out {data.root}`"
        elif vsi100k.question_files(data.root) or (
            (manifest := read_manifest(data.root)) and manifest.name == vsi100k.HUB_ID
        ):
            fix = vsi100k.GET_SCANNET
        raise BadRecordError(f"video {missing} is missing; {fix}")
