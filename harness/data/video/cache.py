"""A cache of resized frames, keyed by the content of the video file and the settings."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.data.video.clock import Clock
from harness.data.video.decode import DECODING, frame_indices, sample_video
from harness.data.video.folders import require_stills, stills_clock
from harness.data.video.frames import ProcessedVideo, VideoSettings, frames_digest, patchify, resize_frames
from harness.errors import UserError
from harness.io import append_lines, digest_of, parse_json, sha256_file, whole_lines, write_bytes
from harness.outputs import inside

_MEMORY_BYTES = 256 << 20
DISK_BYTES = 100 << 30
"""Default limit of frames on disk, in bytes; ScanNet's 1,513 scans take 7 GB in the paper's presets."""

Entry = tuple[Tensor, Clock | None]
"""Resized frames, (n, 3, h, w) uint8, and their times."""

_DIGESTS = "digests.jsonl"
_ENTRY = re.compile(r"[0-9a-f]{16}/[0-9a-f]{64}\.npy")


class FrameCache:
    """Loads videos as vision input and decodes each only once.

    Disk and memory hold the resized uint8 frames, a twelfth of the size of the float32 patches, which
    are cut on load. An entry holds the frames, their times and a checksum of both. It is stored under the digest of the
    settings, of the decoding rules and of the decoders' versions, and named by the video's SHA-256, so a changed file,
    setting or decoder never matches an old entry. Above ``disk_bytes`` (over all settings) the least
    recently used entries are removed. Safe to use from several threads and processes.
    """

    def __init__(
        self,
        root: Path,
        settings: VideoSettings,
        memory_bytes: int = _MEMORY_BYTES,
        disk_bytes: int = DISK_BYTES,
        stills_rate: float | None = None,
    ) -> None:
        """Use ``root`` as the cache's folder and at most ``memory_bytes`` of memory for recent frames.

        ``stills_rate`` is the frame rate of folders of stills; without it their frames have no times.
        """
        self.settings = settings
        self.root = Path(root)
        self.disk_bytes = disk_bytes
        self._stills_rate = stills_rate
        self._folder = self.root / digest_of([settings.digest, DECODING, *map(version, ("av", "pillow"))])[:16]
        self._recent = functools.lru_cache(memory_bytes // self.entry_bytes)(self._frames)
        self._latest = functools.lru_cache(1)(self._video)
        self._digests = _known_digests(self.root / _DIGESTS)
        self._warned = False

    @property
    def entry_bytes(self) -> int:
        """Upper bound of the bytes that one video takes on disk."""
        return self.settings.frames * self.settings.max_pixels * 3

    def holds(self, path: Path) -> bool:
        """Whether a video's frames are on disk, as far as is known without reading the video."""
        known = self._digests.get(str(path))
        try:
            return known is not None and known[0] == self._stamp(path)[0] and self._entry(known[1]).is_file()
        except (OSError, UserError):
            return False

    def store(self, path: Path) -> None:
        """Decode a video into the cache on disk, unless it is there already.

        Raises:
            UserError: As :meth:`load`.
        """
        self._frames(self.video_digest(path), path)

    def load(self, path: Path) -> ProcessedVideo:
        """A video as vision input. Consecutive questions about one video share its tensors: do not modify them.

        Raises:
            UserError: The video is missing, damaged, too short or too small.
        """
        return self._latest(self.video_digest(path), path)

    def video_digest(self, path: Path, *, keep: bool = True) -> str:
        """SHA-256 of a file's bytes, cached until the file changes.

        For a folder of stills: of the names of all of them and the bytes of those that are sampled.

        Args:
            path: The video.
            keep: Write a new digest to the disk too.

        Raises:
            UserError: The file is missing or unreadable.
        """
        try:
            stamp, stills, read = self._stamp(path)
            known = self._digests.get(str(path))
            if known is not None and known[0] == stamp:
                return known[1]
            digest = _folder_digest(stills, read) if stills else sha256_file(path)
        except OSError as error:
            raise UserError(f"{path}: the video cannot be opened: {error.strerror or error}") from error
        self._digests[str(path)] = (stamp, digest)
        if not keep:
            return digest
        with contextlib.suppress(OSError):  # then it is computed again the next time
            line = json.dumps({"video": str(path), "stamp": stamp, "sha256": digest})
            append_lines(self.root / _DIGESTS, [line])
        return digest

    def _stamp(self, path: Path) -> tuple[list[Any], list[Path], list[Path]]:
        """A stamp that changes with the video, a folder's stills, and the files that are read."""
        stills = require_stills(path) if path.is_dir() else []
        read = [stills[at] for at in self._indices(len(stills))] if stills else [path]
        return [len(stills), *(_stamp(file) for file in read)], stills, read

    def _indices(self, total: int) -> list[int]:
        return frame_indices(total, self.settings.frames, self.settings.sampling)

    def _video(self, digest: str, path: Path) -> ProcessedVideo:
        """A video's patches, with their times if they are known."""
        frames, clock = self._recent(digest, path)
        video, depth = patchify(frames, self.settings), self.settings.temporal_patch_size
        if self._stills_rate is not None and path.is_dir():
            whole = stills_clock(path, self._stills_rate)
            clock = whole.at(self._indices(len(whole.times)))
        if clock is None:
            return video
        seconds, at = clock.seconds / self.settings.frames * depth, clock.times
        times = tuple((at[first] + at[first + depth - 1]) / 2 for first in range(0, len(at), depth))
        digest = digest_of([video.digest, seconds])
        return replace(video, digest=digest, seconds_per_patch=seconds, patch_times=times)

    def _frames(self, digest: str, path: Path) -> Entry:
        """A video's resized frames and their times, from the disk or decoded and written to it."""
        entry = self._read(digest)
        if entry is None:
            entry = self._build(path)
            self._write(digest, entry)
        return entry

    def _build(self, path: Path) -> Entry:
        def resized(frame: NDArray[np.uint8]) -> Tensor:
            height, width = frame.shape[:2]
            if min(height, width) < (side := self.settings.patch_size):
                raise UserError(
                    f"{path}: its frames of {height}x{width} pixels are smaller than one patch ({side}x{side}), so "
                    "there is nothing to see; replace the video with one of a higher resolution"
                )
            try:
                return resize_frames(frame[None], self.settings, self.settings.frames)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error

        frames, clock = sample_video(path, self.settings.frames, self.settings.sampling, resized)
        return torch.cat(frames), clock

    def _entry(self, digest: str) -> Path:
        return self._folder / f"{digest}.npy"

    def _read(self, digest: str) -> Entry | None:
        """The stored frames and times, or None when there are none or their checksum differs."""
        try:
            with self._entry(digest).open("rb") as file:
                frames = torch.from_numpy(np.load(file, allow_pickle=False))
                clock, checksum = json.loads(file.read())
            with contextlib.suppress(OSError):
                os.utime(self._entry(digest))  # used now, so removed last
            return _entry(frames, clock) if checksum == self._checksum(frames, clock) else None
        except Exception:  # of a damaged header numpy raises many kinds: ValueError, TokenError, MemoryError, ...
            return None

    def _write(self, digest: str, entry: Entry) -> None:
        """Store the frames, then their times and a checksum; a cache that cannot be written only causes a warning."""
        frames, clock = entry
        content = io.BytesIO()
        np.save(content, frames.numpy())
        content.write(json.dumps([clock, self._checksum(frames, clock)]).encode())
        try:
            inside(self.root, f"{self._folder.name}/{digest}.npy")
            write_bytes(self._entry(digest), content.getvalue())
            self._make_room()
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"frames are not cached, so videos will be decoded again: {self._folder}: {error}",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def _checksum(self, frames: Tensor, clock: Sequence[Any] | None) -> str:
        return digest_of([frames_digest(frames, self.settings), clock])

    def _make_room(self) -> None:
        """Remove the least recently used entries until the others fit."""
        entries = []
        for entry in self.root.glob("*/*.npy"):
            if not _ENTRY.fullmatch(f"{entry.parent.name}/{entry.name}") or entry.parent.is_symlink():
                continue  # another's
            with contextlib.suppress(FileNotFoundError):  # another process may remove entries too
                status = entry.stat()
                entries.append((status.st_mtime_ns, status.st_size, entry))
        held = sum(size for _, size, _ in entries)
        for _, size, entry in sorted(entries)[:-1]:  # the newest is in use
            if held <= self.disk_bytes:
                return
            entry.unlink(missing_ok=True)
            held -= size


def _stamp(file: Path) -> list[int]:
    """A stamp that changes with the file, by its ``ctime`` also where the time of modification is set back."""
    status = file.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _entry(frames: Tensor, clock: Sequence[Any] | None) -> Entry:
    return frames, None if clock is None else Clock(clock[0], tuple(clock[1]))


def _known_digests(file: Path) -> dict[str, tuple[list[Any], str]]:
    """Digests of videos by path, each with the stamp it is valid for; the last line of a video counts."""
    known: dict[str, tuple[list[Any], str]] = {}
    for line in whole_lines(file):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged line is computed again
            entry = parse_json(line)
            known[entry["video"]] = (entry["stamp"], bytes.fromhex(entry["sha256"]).hex())
    return known


def _folder_digest(stills: Sequence[Path], read: Sequence[Path]) -> str:
    content = hashlib.sha256("\n".join(file.name for file in stills).encode())
    for file in read:
        content.update(sha256_file(file).encode())
    return content.hexdigest()
