"""Steps shared by all data set preparations: linking videos, decoding and hashing each once, writing a manifest."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.data.layout import PRUNED_IDS, find_video
from harness.data.reader import MANIFEST
from harness.data.video.decode import DECODING, VideoFacts, inspect_video
from harness.data.video.folders import still_files
from harness.errors import UserError, first_few
from harness.io import append_lines, json_text, sha256_file, whole_lines
from harness.outputs import Outputs
from harness.processes import in_processes
from harness.vsibench.records import Record

Progress = Callable[[str, int, int], None]
"""Called with the current activity, the number of items done, and their total."""

_CHECKED = ".harness-videos"


def scenes_of(records: Sequence[Record]) -> list[str]:
    """The distinct scenes of some records, sorted."""
    return sorted({record.scene for record in records})


def link_videos(source: Path, outputs: Outputs, scenes: Sequence[str]) -> list[str]:
    """Link every scene's video at ``source`` as ``DATASET/SCENE(.mp4)``; return the names of scenes without one.

    A video that is there is kept.

    Raises:
        UserError: A link of the user's leads elsewhere, or something else is in the way.
    """
    without, out = [], outputs.folder
    for scene in scenes:
        found = find_video(source, scene)
        if found is None:
            without.append(scene)
        elif source.resolve() != out.resolve():
            name = scene if found.is_dir() else f"{scene}.mp4"
            if (out / name).is_symlink() or not (out / name).exists():
                outputs.link(name, found.resolve(), target_is_directory=found.is_dir())
    return without


def check_videos(root: Path, scenes: Sequence[str], workers: int, progress: Progress | None) -> dict[str, Any]:
    """Decode every scene's video completely and hash it, in several processes.

    Results are stored as they come in, so that an interrupted check resumes; a video whose bytes changed is decoded
    again.

    Returns:
        For each scene: frames, height, width, bytes, sha256.

    Raises:
        UserError: Videos are missing or damaged; each is named with its problem.
    """
    videos = {scene: find_video(root, scene) for scene in scenes}
    if missing := [name for name, path in videos.items() if path is None]:
        raise UserError(
            f"{root}: {len(missing)} of {len(videos)} videos are missing: {first_few(missing)}; put them there"
        )
    known = _checked_before(root / _CHECKED)
    jobs = [(name, path, known.get(name)) for name, path in videos.items() if path is not None]
    facts: dict[str, Any] = {}
    faults: list[str] = []
    for number, (name, found) in enumerate(in_processes(_check, jobs, workers), start=1):
        if isinstance(found, str):
            faults.append(found)
        else:
            facts[name] = found
            if found != known.get(name):
                append_lines(root / _CHECKED, [json.dumps(found)])
        if progress is not None:
            progress("checking videos", number, len(jobs))
    if faults:
        raise UserError(f"{len(faults)} of {len(jobs)} videos cannot be used:\n" + first_few(faults, "\n"))
    return {
        name: {key: value for key, value in one.items() if key not in ("name", "rules")} for name, one in facts.items()
    }


def _checked_before(file: Path) -> dict[str, dict[str, Any]]:
    """Facts about videos by scene, from an interrupted check; a damaged line is checked again."""
    known = {}
    for line in whole_lines(file):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and {"name", "bytes", "sha256", *VideoFacts._fields} <= entry.keys():
                known[str(entry["name"])] = entry
    return known


Job = tuple[str, Path, dict[str, Any] | None]


def _check(job: Job) -> tuple[str, dict[str, Any] | str]:
    """Facts about one video, or its problem; decoded only if its content was not checked before."""
    name, path, known = job
    try:
        files = still_files(path) if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
        content = {"name": name, "rules": DECODING, "bytes": size, "sha256": _digest(path, files)}
        if known is not None and content.items() <= known.items():
            return name, known
        return name, content | inspect_video(path)._asdict()
    except (UserError, OSError) as error:
        return name, str(error)


def _digest(path: Path, files: Sequence[Path]) -> str:
    """SHA-256 of a file; for a folder of stills, which may have many gigabytes, of the first, middle and last frame."""
    if not path.is_dir() or not files:
        return "" if path.is_dir() else sha256_file(path)
    return "+".join(sha256_file(files[at])[:16] for at in (0, len(files) // 2, -1))


def write_manifest(
    outputs: Outputs, name: str, source: str, records: Sequence[Record], videos: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Write the contents of a prepared folder to ``manifest.json`` and return them.

    Args:
        outputs: The folder.
        name: Name of the data set.
        source: Where it came from.
        records: All its questions.
        videos: As returned by :func:`check_videos`.
        more: Further entries, such as ``notes``.
    """
    out = outputs.folder
    questions = Counter(record.question_type for record in records)
    kinds = ("*.jsonl", "*.parquet", PRUNED_IDS)
    manifest = {
        "name": name,
        "source": source,
        "harness": version("vlm-harness"),
        "questions": dict(sorted(questions.items())),
        "total": {
            "questions": len(records),
            "scenes": len(scenes_of(records)),
            "videos": len(videos),
        },
        "shortest_video": min((one["frames"] for one in videos.values()), default=0),
        "files": {path.name: sha256_file(path) for kind in kinds for path in sorted(out.glob(kind))},
        **more,
        "videos": dict(videos),
    }
    outputs.write(MANIFEST, json_text(manifest).encode())
    (out / _CHECKED).unlink(missing_ok=True)
    return manifest


def records_text(records: Sequence[Record]) -> bytes:
    """Records as JSON lines in VSI-Bench's schema."""
    lines = [json.dumps(record.model_dump(mode="json"), ensure_ascii=False) for record in records]
    return ("\n".join(lines) + "\n").encode()
