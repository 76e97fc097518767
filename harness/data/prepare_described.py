"""Preparing a benchmark as its description says that it is published: questions in files, videos in folders or zips."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.benchmarks.description import Description, Publication
from harness.data.archives import extract_members
from harness.data.layout import find_video
from harness.data.prepare import Progress, check_videos, records_text, scenes_of, write_manifest
from harness.data.reader import MANIFEST
from harness.data.rowfiles import fields_of, rows_in
from harness.data.rows import RowReader, tell
from harness.errors import UserError, closest, first_few
from harness.locks import hold
from harness.outputs import Outputs, inside
from harness.vsibench.records import BadRecordError, Record

_HELD = re.compile(r"\{([^{}:]+)(?::0>(\d+))?\}")
"""A key in a template, with the width that it is filled up to by zeros."""


@dataclass
class Copy:
    """What a copy of a benchmark holds.

    Attributes:
        records: By split.
        sources: The path of each scene's video below the published folder or archive.
        left_out: How many questions cannot be asked here, by reason.
        skipped: A line for each bad record that was left out.
    """

    records: dict[str, list[Record]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)


def prepare_described(
    told: Description,
    source: Path,
    out: Path,
    *,
    part: bool = False,
    skip_bad: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn a copy of a published benchmark into a folder that is ready for use.

    Each split becomes ``out/SPLIT.jsonl`` in the package's own schema; videos are linked, or extracted from archives,
    to ``out/DATASET/SCENE.mp4``, and decoded completely. Questions that no prompt with one video can ask (several
    videos, further images) are left out and counted.

    Args:
        told: The description.
        source: The copy.
        out: The folder to create.
        part: Accept another number of questions than was published.
        skip_bad: Leave out bad records, and count them.
        workers: Processes that decode.
        progress: Called as work proceeds.

    Raises:
        UserError: The copy lacks files, questions are bad or their number is wrong, or videos are missing or damaged.
    """
    if told.publication is None:
        raise UserError(f"{told.name}: its description has no [publication], so there is nothing to prepare")
    copy = _read(told, told.publication, source, skip_bad)
    _check_number(told.publication, copy, source, part)
    everything = [record for records in copy.records.values() for record in records]
    files = {f"{split}.jsonl": records_text(records) for split, records in copy.records.items()}
    with hold(out, "data set's folder"):
        outputs = Outputs(out)
        outputs.check([*files, MANIFEST])
        _bring_videos(told.publication, source, outputs, copy.sources, progress)
        for name, text in files.items():
            outputs.write(name, text)
        videos = check_videos(out, scenes_of(everything), workers, progress)
        notes = [f"{count:,} questions were left out: {reason}" for reason, count in copy.left_out.items()]
        notes += [f"{len(copy.skipped):,} entries were left out, the first: {copy.skipped[0]}"] if copy.skipped else []
        splits = {split: len(records) for split, records in copy.records.items()}
        more = {"splits": splits, "part": part, "notes": notes, "skipped": copy.skipped}
        return write_manifest(outputs, told.publication.hub, str(source), everything, videos, **more)


def _read(told: Description, published: Publication, source: Path, skip_bad: bool) -> Copy:
    copy, problems = Copy(), list[str]()
    for split, patterns in published.splits.items():
        found = next((paths for one in patterns if (paths := sorted(source.glob(one)))), [])
        reader, seen = RowReader(None, told.types), dict[str, str]()
        for place, content in (row for file in found for row in rows_in(file)):
            try:
                row = fields_of(content)
                if reason := _not_asked(published, row):
                    copy.left_out[reason] += 1
                    continue
                record = reader.record(_row(published, row, split if told.budget else ""))
                if record.key in seen:
                    raise BadRecordError(f"id {record.key} was used before, at {seen[record.key]}; make ids unique")
                if told.budget and record.dataset != split:
                    raise BadRecordError(f"it is about {record.dataset}, not {split}; put it into that file")
                path = _path(_text("source", published.source, row))
                if copy.sources.setdefault(record.scene, path) != path:
                    raise BadRecordError(f"its video {path} would take the place of {copy.sources[record.scene]}")
            except BadRecordError as error:
                problems.append(f"{place}: {error}")
                continue
            seen[record.key] = place
            copy.records.setdefault(split, []).append(record)
        for remark in reader.remarks() if found else ():
            tell(f"{found[0]}: {remark}")
    if problems and not skip_bad:
        raise UserError(
            f"{first_few(problems, chr(10))}\nFix the file, or use --skip-bad to leave bad records out and count them."
        )
    copy.skipped = problems
    if not copy.records:
        names = ", ".join(patterns[0] for patterns in published.splits.values())
        why = f"; all {len(problems)} records were bad, the first: {problems[0]}" if problems else f" ({names})"
        fetch = f"hf download {published.hub} --repo-type dataset --local-dir DIR"
        raise UserError(f"{source}: no questions of {told.title}{why}. Download it: {fetch}")
    return copy


def _check_number(published: Publication, copy: Copy, source: Path, part: bool) -> None:
    found = sum(map(len, copy.records.values())) + sum(copy.left_out.values()) + len(copy.skipped)
    if published.questions not in (None, found) and not part:
        raise UserError(
            f"{source}: {found:,} questions instead of {published.questions:,}. Download it again (hf download "
            f"{published.hub} --repo-type dataset --local-dir DIR), or use --part if the copy is meant to be a part of "
            "it; scores on a part cannot be compared with published ones"
        )


def _not_asked(published: Publication, row: Mapping[str, Any]) -> str:
    """Why no prompt with one video can ask a question; empty where one can."""
    for key in published.one:
        if isinstance(value := row.get(key), list) and len(value) != 1:
            return f"they show {'several videos' if value else 'no video'} (`{key}`)"
    shown = (key for key in published.none if row.get(key) not in (None, [], ""))
    return next((f"they show further images (`{key}`)" for key in shown), "")


def _row(published: Publication, row: Mapping[str, Any], budget: str) -> dict[str, Any]:
    """A row under our names."""
    given = {ours: _value(ours, theirs, row) for ours, theirs in published.fields.items()}
    if budget and given.get("ground_truth") is None:
        raise BadRecordError(
            f"it has no truth for {budget.replace('_', ' ')}s, so it cannot be asked with so many; remove it, or leave "
            "it out with --skip-bad"
        )
    dataset, _, scene = _text("video", published.video, row).partition("/")
    return {**given, "video": f"{dataset}/{scene.replace('/', '_')}"}  # a scene is one name


def _value(ours: str, theirs: str | Sequence[str], row: Mapping[str, Any]) -> Any:
    """The value of one of our fields: of a key, or a text that holds keys; None for options that are not there."""
    forms = [theirs] if isinstance(theirs, str) else list(theirs)
    for form in forms:
        if "{" in form:
            if (text := _filled(form, row)) is not None:
                return text
        elif (found := _at(form, row)) is not None:
            return found
    if ours in ("options", "ground_truth"):
        return None
    key = forms[0].partition(".")[0]
    raise BadRecordError(f"field `{forms[0]}` is missing{closest(key, map(str, row))}; add it")


def _text(ours: str, theirs: str | Sequence[str], row: Mapping[str, Any]) -> str:
    return str(_value(ours, theirs, row))


def _filled(form: str, row: Mapping[str, Any]) -> str | None:
    """A template with its keys' values; None where one is missing."""
    values = {held: _at(held[1], row) for held in _HELD.finditer(form)}
    if any(value is None or isinstance(value, list | dict) for value in values.values()):
        return None
    texts = iter(str(value).rjust(int(held[2] or 0), "0") for held, value in values.items())
    return _HELD.sub(lambda held: next(texts), form)


def _at(path: str, row: Any) -> Any:
    """The value at a path of keys and list positions; None where there is none."""
    for key in path.split("."):
        if isinstance(row, list):
            row = row[int(key)] if key.isdecimal() and int(key) < len(row) else None
        else:
            row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _path(path: str) -> str:
    """A path below the copy's folders; one that leads out of them is refused."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or not all(part.strip() and part not in (".", "..") for part in parts):
        raise BadRecordError(f"video {path[:200]!r} leads out of the folder of videos; fix it")
    return path


def _bring_videos(
    published: Publication, source: Path, outputs: Outputs, wanted: Mapping[str, str], progress: Progress | None
) -> None:
    """Link or extract the videos that are not there yet.

    Raises:
        UserError: Scenes have no video anywhere, or another file is in a video's place.
    """
    out = outputs.folder
    lacking = {}
    for scene, path in wanted.items():
        inside(out, f"{scene.partition('/')[0]}/video")
        if find_video(out, scene) is not None:
            continue
        found = next((file for one in published.folders if (file := source / one / path).is_file()), None)
        if found is None:
            lacking[scene] = path
        elif not (out / _target(scene)).is_symlink():
            outputs.link(_target(scene), found.resolve(), target_is_directory=False)
    for archive in sorted(file for pattern in published.archives for file in source.glob(pattern)):
        members = {path: out / _target(scene) for scene, path in lacking.items()}
        for number, target in enumerate(extract_members(archive, members), start=1):
            lacking = {scene: path for scene, path in lacking.items() if out / _target(scene) != target}
            if progress is not None:
                progress(f"extracting {archive.name}", number, len(members))
    if lacking:
        places = ", ".join([*(f"{one}/" for one in published.folders if one != "."), *published.archives])
        raise UserError(
            f"{source}: no video of {len(lacking)} of {len(wanted)} scenes: {first_few(list(lacking.values()))}. They "
            f"are looked for in {places}: hf download {published.hub} --repo-type dataset --local-dir DIR"
        )


def _target(scene: str) -> str:
    """Where a scene's video goes: an .mp4 unless its name has another ending."""
    return scene if Path(scene).suffix.lower() in (".mkv", ".webm", ".avi", ".mov") else f"{scene}.mp4"
