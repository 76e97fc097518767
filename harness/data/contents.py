"""What a data set shows, by content: a video that is replaced by another of the same name is another data set."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from harness.data.reader import Dataset
from harness.data.video.cache import FrameCache
from harness.io import digest_of
from harness.processes import usable_cores


def content_digest(
    dataset: Dataset, frames: FrameCache, progress: Callable[[int, int], None] | None = None, *, keep: bool = True
) -> str:
    """SHA-256 of a data set's records and of the videos that they show, wherever these are.

    Args:
        dataset: The records.
        frames: The cache that will load the videos; it keeps their digests until a file changes.
        progress: Called with the number of videos looked at and the total.
        keep: Write new digests to the cache on disk.

    Raises:
        UserError: A video is missing, unreadable or too short.
    """
    videos = {record.scene: dataset.video_path(record) for record in dataset.records}
    found = {}
    with ThreadPoolExecutor(usable_cores()) as pool:  # hashing a file does not hold the interpreter's lock
        digests = pool.map(partial(frames.video_digest, keep=keep), videos.values())
        for scene, digest in zip(videos, digests, strict=True):
            found[scene] = digest
            if progress is not None:
                progress(len(found), len(videos))
    return digest_of([dataset.digest, found])
