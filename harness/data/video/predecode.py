"""Decoding a study's videos into the shared frame cache before its first cell, in several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.errors import UserError, first_few
from harness.processes import in_processes

MIN_UNDECODED_BYTES = 64 << 20
"""Below this many bytes of undecoded videos, starting processes does not pay, and cells decode as they go."""

_FOLDER_BYTES = 16 << 20
"""Size assumed for a folder of stills."""


def predecode(
    frames: FrameCache, videos: Sequence[Path], workers: int, progress: Callable[[int, int], None] | None = None
) -> int:
    """Decode the videos that are missing from the cache and return their number.

    Does nothing if little is missing, or if the cache is too small to hold all videos at once.

    Args:
        frames: The cache.
        videos: Files or folders of stills.
        workers: Processes.
        progress: Called with the number done and the total.

    Raises:
        UserError: Videos cannot be used; each is named with its problem.
    """
    paths = list(dict.fromkeys(videos))
    missing = [path for path in paths if not frames.holds(path)]
    if sum(map(_size, missing)) < MIN_UNDECODED_BYTES or len(paths) * frames.entry_bytes > frames.disk_bytes:
        return 0
    store = partial(_store, frames.root, frames.settings, frames.disk_bytes)
    faults = []
    for number, fault in enumerate(in_processes(store, missing, workers), start=1):
        faults += [fault] if fault else []
        if progress is not None:
            progress(number, len(missing))
    if faults:
        raise UserError(
            f"{len(faults)} of {len(missing)} videos cannot be used (--skip-bad leaves out their questions and counts "
            "them):\n" + first_few(faults, "\n")
        )
    return len(missing)


def _store(root: Path, settings: VideoSettings, disk_bytes: int, path: Path) -> str:
    """Decode one video into the cache; return its problem, or an empty string."""
    import torch

    torch.set_num_threads(1)
    try:
        FrameCache(root, settings, disk_bytes=disk_bytes).store(path)
    except UserError as error:
        return str(error)
    return ""


def _size(path: Path) -> int:
    try:
        return _FOLDER_BYTES if path.is_dir() else path.stat().st_size
    except OSError:
        return 0
