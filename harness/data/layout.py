"""Where a data set's folder keeps the questions of a split and the video of a scene."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.data import vsi100k
from harness.data.video.folders import still_files
from harness.errors import UserError
from harness.io import read_text

SUFFIXES = (".jsonl", ".parquet")
PRUNED_IDS = "pruned_ids.txt"
"""VSI-Bench's list of the questions that Iterative Bias Pruning removed (arXiv 2511.04655), one id per line."""

BENCHMARK_SPLITS = ("full", "debiased", "pruned")
"""VSI-Bench's configurations: all questions, those that pruning kept, those that it removed."""

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-(?P<count>\d{5})")
_WHOLE = "test"


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split, and which of their records belong to the split.

    Attributes:
        files: In order.
        ids: The ids that ``keep`` refers to; None when every record belongs.
        keep: Whether the records in ``ids`` are kept, or all others.
    """

    files: list[Path]
    ids: frozenset[str] | None = None
    keep: bool = False

    def has(self, key: str) -> bool:
        return self.ids is None or (key in self.ids) == self.keep


def find_split(root: Path, split: str) -> SplitFiles:
    """The files of a split in ``root``.

    ``{split}.jsonl``, ``{split}.parquet`` or ``{split}-00000-of-00001.parquet``; for VSI-Bench's configurations also
    ``test_{split}.parquet``, or the test split without (or with only) the ids of ``pruned_ids.txt``; for ``train``
    also VSI-100k's JSON files.

    Raises:
        UserError: There are no files, or a shard is missing.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such data set folder")
    for name in (split, f"{_WHOLE}_{split}") if split in BENCHMARK_SPLITS else (split,):
        if files := _files(root, name):
            return SplitFiles(files)
    whole = _files(root, _WHOLE)
    if split == "full" and whole:
        return SplitFiles(whole)
    if split in ("debiased", "pruned") and whole and (root / PRUNED_IDS).is_file():
        return SplitFiles(whole, pruned_ids(root), keep=split == "pruned")
    if split == "train" and (files := vsi100k.question_files(root)):
        return SplitFiles(files)
    raise UserError(
        f"{root}: no {split}.jsonl, {split}.parquet or {split}-00000-of-00001.parquet; "
        f"splits found: {', '.join(splits_in(root)) or 'none'}"
    )


def pruned_ids(root: Path) -> frozenset[str]:
    """The ids of ``pruned_ids.txt``.

    Raises:
        UserError: The file cannot be read or is empty.
    """
    path = root / PRUNED_IDS
    ids = frozenset(read_text(path).split())
    if not ids:
        raise UserError(f"{path}: contains no ids; download it again")
    return ids


def _files(root: Path, split: str) -> list[Path]:
    for suffix in SUFFIXES:
        if (root / f"{split}{suffix}").is_file():
            return [root / f"{split}{suffix}"]
    shards = [file for file in sorted(root.glob("*.parquet")) if _is_shard(file, split)]
    if shards and len(shards) != (count := int(shards[0].stem[-5:])):
        raise UserError(f"{shards[0]}: {len(shards)} of {count} shards of split {split} exist; add the others")
    return shards


def _is_shard(file: Path, split: str) -> bool:
    shard = _SHARD.fullmatch(file.stem)
    return shard is not None and shard["split"] == split


def split_of(file: Path) -> str:
    """The split a file belongs to: its stem, without a shard number."""
    shard = _SHARD.fullmatch(file.stem)
    return shard["split"] if shard else file.stem


def splits_in(root: Path) -> list[str]:
    """The splits a data set's folder offers, sorted; VSI-Bench's configurations among them."""
    found = {split_of(file) for file in root.iterdir() if file.suffix in SUFFIXES}
    if _WHOLE in found:
        listed = (root / PRUNED_IDS).is_file()
        found |= {name for name in ("debiased", "pruned") if listed or f"{_WHOLE}_{name}" in found}
    if not found and vsi100k.question_files(root):
        found = {"train"}
    return sorted(found)


def offers(root: Path, split: str) -> bool:
    """Whether a folder has a split; ``full`` is another name of the test split."""
    found = splits_in(root)
    return split in found or (split == "full" and _WHOLE in found)


def find_video(root: Path, scene: str) -> Path | None:
    """The video of ``DATASET/SCENE``: a file, or a folder of colour frames.

    Looked for as ``SCENE.mp4``, ``SCENE/SCENE.mp4``, ``SCENE``, ``SCENE/color/`` and ``SCENE/`` below
    ``root/DATASET``, or without this folder below ``root`` and ``root/scans``, as ScanNet's own are laid out.
    """
    dataset, _, name = scene.partition("/")
    for folder in (root / dataset,) if (root / dataset).is_dir() else (root, root / "scans"):
        for file in (folder / f"{name}.mp4", folder / name / f"{name}.mp4", folder / name):
            if file.is_file():
                return file
        for stills in (folder / name / "color", folder / name):
            if stills.is_dir() and still_files(stills):
                return stills
    return None
