"""Reading a data set in VSI-Bench's own layout, strictly."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pydantic import ValidationError

from harness.data.records import LETTERS, QUESTION_TYPES, Record
from harness.errors import UserError, unknown_name

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-(?P<count>\d{5})")
_SUFFIXES = (".jsonl", ".parquet")
_SHOWN = 5

Row = tuple[str, bytes | dict[str, Any]]
"""Where a record stands ("FILE, line 3") and its JSON text or its fields."""


class _BadRecordError(Exception):
    """Why one record cannot be used, and the fix."""


@dataclass(frozen=True)
class Dataset:
    """The questions of one split and the folder that holds their videos.

    Attributes:
        root: The folder with ``{dataset}/{scene_name}.mp4``.
        split: For example ``test``.
        records: In the order of the file.
        digest: SHA-256 over the canonical JSON of the records.
        skipped: One line for each record that was left out: where it stands and why.
    """

    root: Path
    split: str
    records: tuple[Record, ...]
    digest: str
    skipped: tuple[str, ...] = ()

    def video_path(self, record: Record) -> Path:
        """The file of a record's video."""
        return self.root / record.dataset / f"{record.scene_name}.mp4"


def records_digest(records: Iterable[Record]) -> str:
    """SHA-256 over the canonical JSON of records, in their order."""
    content = hashlib.sha256()
    for record in records:
        line = json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        content.update(line.encode() + b"\n")
    return content.hexdigest()


def read_dataset(root: Path, split: str = "test", *, skip_bad: bool = False, check_videos: bool = True) -> Dataset:
    """Read ``{split}.jsonl``, ``{split}.parquet`` or ``{split}-00000-of-00001.parquet`` below ``root``.

    Args:
        root: The data set's folder, or one of its ``.jsonl`` or ``.parquet`` files (which then names the split).
        split: Which split of a folder.
        skip_bad: Leave bad records out, each with a line in ``skipped``, instead of refusing the data set.
        check_videos: Whether a record whose video file is missing is bad.

    Raises:
        UserError: The file is missing or unreadable; no record is left; or, unless ``skip_bad``, a
            record is bad. Each bad record is named with file, line and fix.
    """
    root = Path(root)
    if root.suffix in _SUFFIXES and not root.is_dir():
        split, files, root = split_of(root), [root], root.parent
    else:
        files = _find(root, split)
    records: list[Record] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    present: dict[Path, bool] = {}
    for place, content in (row for file in files for row in _rows(file)):
        try:
            record = _checked(_parsed(content))
            if record.key in seen:
                raise _BadRecordError(f"id {record.key} was used before, at {seen[record.key]}; make ids unique")
            if check_videos:
                _require_video(Dataset(root, split, (), "").video_path(record), present)
        except _BadRecordError as error:
            problems.append(f"{place}: {error}")
            continue
        seen[record.key] = place
        records.append(record)
    if problems and not skip_bad:
        raise UserError(_refusal(problems))
    if not records:
        reason = f"; all {len(problems)} were bad, the first: {problems[0]}" if problems else ""
        raise UserError(f"{files[0]}: no records{reason}")
    return Dataset(root, split, tuple(records), records_digest(records), tuple(problems))


def split_of(file: Path) -> str:
    """The split a file belongs to: its stem, without a shard number."""
    shard = _SHARD.fullmatch(file.stem)
    return shard["split"] if shard else file.stem


def splits_in(root: Path) -> list[str]:
    """The splits a data set's folder offers, sorted."""
    return sorted({split_of(file) for file in root.iterdir() if file.suffix in _SUFFIXES})


def _find(root: Path, split: str) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"{root}: no such data set folder")
    for name in (f"{split}.jsonl", f"{split}.parquet"):
        if (root / name).is_file():
            return [root / name]
    shards = [file for file in sorted(root.glob("*.parquet")) if _is_shard(file, split)]
    if not shards:
        raise UserError(
            f"{root}: no {split}.jsonl, {split}.parquet or {split}-00000-of-00001.parquet; "
            f"splits found: {', '.join(splits_in(root)) or 'none'}"
        )
    count = int(shards[0].stem[-5:])
    if len(shards) != count:
        raise UserError(f"{shards[0]}: {len(shards)} of {count} shards of split {split} are there; add the others")
    return shards


def _is_shard(file: Path, split: str) -> bool:
    shard = _SHARD.fullmatch(file.stem)
    return shard is not None and shard["split"] == split


def _rows(file: Path) -> Iterator[Row]:
    try:
        if file.suffix == ".parquet":
            table = pyarrow.parquet.read_table(file)
            for number, row in enumerate(table.to_pylist(), start=1):
                yield f"{file}, row {number}", row
        else:
            for number, line in enumerate(file.read_bytes().splitlines(), start=1):
                if line.strip():
                    yield f"{file}, line {number}", line
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def _parsed(content: bytes | dict[str, Any]) -> Record:
    try:
        row = json.loads(content) if isinstance(content, bytes) else content
    except (ValueError, RecursionError) as error:
        raise _BadRecordError(f"not a JSON record ({error}); mend the line") from error
    if not isinstance(row, dict):
        raise _BadRecordError(f"a JSON object is expected, not {type(row).__name__}; mend the line")
    if row.get("options") == []:
        row = {**row, "options": None}
    try:
        return Record.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = first["loc"][0]
        if first["type"] == "missing":
            raise _BadRecordError(f"field `{field}` is missing; add it") from error
        raise _BadRecordError(f"field `{field}` = {first['input']!r}: {first['msg']}") from error


def _checked(record: Record) -> Record:
    for field, name in (("dataset", record.dataset), ("scene_name", record.scene_name)):
        if ".." in name or "/" in name or "\\" in name or not name.isprintable() or Path(name).name != name:
            raise _BadRecordError(
                f"{field} {name!r} leaves the data set's folder; use a plain name without .., / or \\"
            )
    kind, truth, options = record.question_type, record.ground_truth, record.options
    if kind not in QUESTION_TYPES:
        raise _BadRecordError(str(unknown_name(f"question_type: {kind}", kind, QUESTION_TYPES)))
    if record.is_numeric:
        if options is not None:
            raise _BadRecordError(f"{kind} is answered by a number, but the record has options; make them null")
        if not _is_positive(truth):
            raise _BadRecordError(
                f"ground_truth {truth!r} of {kind} is not a positive number; mend it (relative accuracy needs one)"
            )
    elif options is not None:
        _check_options(options, truth)
    return record


def _check_options(options: tuple[str, ...], truth: str) -> None:
    if len(options) > len(LETTERS):
        raise _BadRecordError(f"{len(options)} options, at most {len(LETTERS)} can be lettered")
    for letter, option in zip(LETTERS, options, strict=False):
        if not option.startswith(f"{letter}. "):
            raise _BadRecordError(f"option {option!r} should begin with {letter + '. '!r}; letter the options in order")
    letters = LETTERS[: len(options)]
    if len(truth) != 1 or truth not in letters:
        raise _BadRecordError(
            f"ground_truth {truth!r} is not among the options {', '.join(letters)}; give the right option's letter"
        )


def _is_positive(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and number > 0


def _require_video(path: Path, present: dict[Path, bool]) -> None:
    if path not in present:
        present[path] = path.is_file()
    if not present[path]:
        raise _BadRecordError(f"video {path} is missing; put it there")


def _refusal(problems: list[str]) -> str:
    shown = "\n".join(problems[:_SHOWN])
    more = f"\n... and {len(problems) - _SHOWN} more bad records" if len(problems) > _SHOWN else ""
    return f"{shown}{more}\nMend the file, or use --skip-bad to leave bad records out and count them."
