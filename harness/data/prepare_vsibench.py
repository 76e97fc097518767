"""Preparing VSI-Bench as published: questions as JSON lines or parquet, 288 videos in three zip archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.data.archives import extract_members
from harness.data.layout import PRUNED_IDS, find_video, pruned_ids
from harness.data.prepare import (
    Progress,
    check_videos,
    link_videos,
    records_text,
    scenes_of,
    write_manifest,
)
from harness.data.reader import MANIFEST, Dataset, read_dataset
from harness.errors import UserError, first_few
from harness.locks import hold
from harness.outputs import Outputs, inside
from harness.vsibench.published import published_counts, published_scenes
from harness.vsibench.questions import part_of_vsi_bench
from harness.vsibench.records import Record

HUB_ID = "nyu-visionx/VSI-Bench"
_FETCH = f"hf download {HUB_ID} --repo-type dataset --local-dir DIR"
_FILE = "test.jsonl"


def prepare_vsibench(
    source: Path, out: Path, *, part: bool = False, workers: int = 2, progress: Progress | None = None
) -> dict[str, Any]:
    """Turn a copy of the hub's data set into a folder that is ready for use.

    Questions go to ``out/test.jsonl``, the ids of the pruned ones to ``out/pruned_ids.txt``; videos are taken from
    ``DATASET.zip`` (extracted to ``out/DATASET/``) or from folders (linked). Every video is decoded
    completely. An interrupted preparation resumes where it stopped.

    Args:
        source: The copy: ``test.jsonl`` or the parquet files, and the zip archives or folders of videos.
        out: The folder to create; may be ``source``.
        part: Accept counts other than VSI-Bench's, for a copy that is meant to be a part of it.
        workers: Processes that decode.
        progress: Called as work proceeds.

    Raises:
        UserError: Questions are bad or their counts are wrong, videos are missing or damaged, or an archive is
            incomplete or would write outside its folder.
    """
    data = read_dataset(source, "test", check_videos=False)
    if not part:
        check_counts(data.records)
    pruned = _pruned(source, data)
    elsewhere, scenes = source.resolve() != out.resolve(), scenes_of(data.records)
    files = {_FILE: records_text(data.records)}
    if pruned is not None:
        files[PRUNED_IDS] = ("\n".join(pruned) + "\n").encode()
    files = {name: text for name, text in files.items() if elsewhere or not (out / name).is_file()}
    with hold(out, "data set's folder"):
        outputs = Outputs(out)
        outputs.check([*files, MANIFEST])
        _bring_videos(source, outputs, scenes, progress)
        for name, text in files.items():
            outputs.write(name, text)
        videos = check_videos(out, scenes, workers, progress)
        return _write_manifest(outputs, source, data, pruned, part, videos)


def _write_manifest(
    outputs: Outputs, source: Path, data: Dataset, pruned: list[str] | None, part: bool, videos: dict[str, Any]
) -> dict[str, Any]:
    splits = {"full": len(data.records)}
    if pruned is not None:
        splits |= {"debiased": len(data.records) - len(pruned), "pruned": len(pruned)}
    more = {"splits": splits, "part": part, "notes": _notes(data.records)}
    return write_manifest(outputs, HUB_ID, str(source), data.records, videos, **more)


def _notes(records: Sequence[Record]) -> list[str]:
    """What differs from VSI-Bench's questions as known to this package; a later release may differ with good reason."""
    found = part_of_vsi_bench(records)
    changed = len(records) if found is None else found.changed
    return [f"{changed:,} of its {len(records):,} questions differ from VSI-Bench's"] if changed else []


def check_counts(records: Sequence[Record]) -> None:
    """Refuse questions that are not the complete VSI-Bench.

    Raises:
        UserError: The counts of types or the scenes differ.
    """
    found = Counter(record.question_type for record in records)
    published = published_counts().items()
    wrong = [f"{kind} {found[kind]} instead of {count}" for kind, count in published if found[kind] != count]
    whole, scenes = set(map("/".join, published_scenes())), set(scenes_of(records))
    if scenes != whole:
        lacking, unknown = sorted(whole - scenes), sorted(scenes - whole)
        wrong += [f"{len(lacking)} scenes are missing ({first_few(lacking)})"] if lacking else []
        wrong += [f"{len(unknown)} scenes are unknown ({first_few(unknown)})"] if unknown else []
    if wrong:
        raise UserError(
            f"this is not the complete VSI-Bench ({sum(published_counts().values()):,} questions on "
            f"{len(whole)} videos): {'; '.join(wrong)}. Download it again ({_FETCH}), or use --part if "
            "the copy is meant to be a part of it; scores on a part cannot be compared with published ones"
        )


def _pruned(source: Path, data: Dataset) -> list[str] | None:
    """Ids of the questions that bias pruning removed; None if the copy does not list them (as the first release).

    Raises:
        UserError: The copy's files disagree.
    """
    keys = {record.key for record in data.records}
    listings: dict[str, set[str]] = {}
    if (source / PRUNED_IDS).is_file():
        listings[PRUNED_IDS] = set(pruned_ids(source)) & keys
        if unknown := sorted(pruned_ids(source) - keys):
            raise UserError(f"{source / PRUNED_IDS}: {len(unknown)} ids belong to no question: {first_few(unknown)}")
    for split in ("debiased", "pruned"):
        path = source / f"test_{split}.parquet"
        if path.is_file():
            listed = {record.key for record in read_dataset(path, check_videos=False).records}
            listings[path.name] = listed if split == "pruned" else keys - listed
    if len({frozenset(ids) for ids in listings.values()}) > 1:
        sizes = ", ".join(f"{name} {len(ids)}" for name, ids in listings.items())
        raise UserError(f"{source}: its files disagree on the pruned questions ({sizes}); download them again")
    order = [record.key for record in data.records]
    return [key for key in order if key in next(iter(listings.values()))] if listings else None


def _bring_videos(source: Path, outputs: Outputs, scenes: Sequence[str], progress: Progress | None) -> None:
    """Extract or link the videos that are not there yet.

    Raises:
        UserError: Scenes have no video anywhere, or another file is in a video's place.
    """
    out = outputs.folder
    for dataset in sorted({scene.split("/")[0] for scene in scenes}):
        inside(out, f"{dataset}/video")
        mine = [scene for scene in scenes if scene.startswith(f"{dataset}/")]
        archive = source / f"{dataset}.zip"
        if archive.is_file() and not all(find_video(source, scene) for scene in mine):
            members = {path.name: path for path in (out / f"{scene}.mp4" for scene in mine)}
            for number, _ in enumerate(extract_members(archive, members), start=1):
                if progress is not None:
                    progress(f"extracting {archive.name}", number, len(members))
    missing = link_videos(source, outputs, [scene for scene in scenes if find_video(out, scene) is None])
    if missing:
        archives = ", ".join(sorted({f"{name.split('/')[0]}.zip" for name in missing}))
        raise UserError(
            f"{source}: no video of {len(missing)} of {len(scenes)} scenes: {first_few(missing)}. They are in "
            f"{archives} of {HUB_ID}: {_FETCH}"
        )
