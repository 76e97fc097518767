"""Many videos are decoded beforehand by several processes into a bounded cache, and hashed once for good."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import write_video

from harness.data.video import cache as frames_module
from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.data.video.predecode import predecode
from harness.errors import UserError

SETTINGS = VideoSettings(frames=4, min_pixels=28 * 28, max_pixels=56 * 56)


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Nine short films, and a threshold that they pass."""
    monkeypatch.setattr("harness.data.video.predecode.MIN_UNDECODED_BYTES", 1)
    paths = [tmp_path / f"{number}.mp4" for number in range(9)]
    for number, path in enumerate(paths):
        write_video(path, np.full((8, 56, 56, 3), 20 * number, np.uint8))
    return paths


def test_several_processes_fill_the_cache_and_nothing_is_decoded_again(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrameCache(tmp_path / "frames", SETTINGS)
    seen: list[tuple[int, int]] = []
    assert predecode(cache, [*videos, videos[0]], 2, lambda *told: seen.append(told)) == 9
    assert seen[-1] == (9, 9)
    fresh = FrameCache(tmp_path / "frames", SETTINGS)  # as another process opens it
    assert predecode(fresh, videos, 2) == 0
    with monkeypatch.context() as patch:
        for name in ("sample_video", "sha256_file"):  # neither decoded nor read for its digest
            patch.setattr(frames_module, name, None)
        found = [fresh.load(path) for path in videos]
    direct = FrameCache(tmp_path / "other", SETTINGS)
    assert [video.digest for video in found] == [direct.load(path).digest for path in videos]


def test_a_changed_video_is_read_again(videos: list[Path], tmp_path: Path) -> None:
    before = FrameCache(tmp_path / "frames", SETTINGS).load(videos[0]).digest
    write_video(videos[0], np.full((8, 56, 56, 3), 250, np.uint8))
    cache = FrameCache(tmp_path / "frames", SETTINGS)
    assert not cache.holds(videos[0]) and cache.load(videos[0]).digest != before
    known = tmp_path / "frames" / "digests.jsonl"
    last = json.loads(known.read_text().splitlines()[-1])
    for damaged in ('{"video": 3}\nnot json\n', "[" * 100_000 + "\n", json.dumps(last | {"sha256": [1]}) + "\n"):
        known.write_text(damaged + '{"torn": ')
        assert FrameCache(tmp_path / "frames", SETTINGS).load(videos[0]).digest == cache.load(videos[0]).digest


def test_every_damaged_video_is_named_at_once(videos: list[Path], tmp_path: Path) -> None:
    videos[3].write_bytes(b"no film")
    videos[7].write_bytes(videos[7].read_bytes()[:-400])
    with pytest.raises(UserError, match=r"2 of 9 videos cannot be used \(--skip-bad") as caught:
        predecode(FrameCache(tmp_path / "frames", SETTINGS), videos, 1)
    assert "3.mp4" in str(caught.value) and "7.mp4: the video cannot be read completely" in str(caught.value)


def test_little_work_is_left_to_the_cells(videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FrameCache(tmp_path / "frames", SETTINGS)
    monkeypatch.setattr("harness.data.video.predecode.MIN_UNDECODED_BYTES", 10**9)
    assert predecode(cache, videos, 1) == 0
    monkeypatch.setattr("harness.data.video.predecode.MIN_UNDECODED_BYTES", 1)
    small = FrameCache(tmp_path / "frames", SETTINGS, disk_bytes=8 * cache.entry_bytes)
    assert predecode(small, videos, 1) == 0, "a cache that cannot hold them all would decode in vain"
    assert not list((tmp_path / "frames").glob("*/*.npy"))


def test_the_cache_is_bounded_and_keeps_what_was_used_last(videos: list[Path], tmp_path: Path) -> None:
    entry = 4 * 56 * 56 * 3 + 256  # frames, and room for the array's head and the checksum
    cache = FrameCache(tmp_path / "frames", SETTINGS, memory_bytes=0, disk_bytes=3 * entry)
    for number, path in enumerate(videos[:3]):
        cache.load(path)
        os.utime(cache._entry(cache.video_digest(path)), ns=(number, number))
    FrameCache(tmp_path / "frames", SETTINGS).load(videos[0])  # used again, so it is the newest
    cache.load(videos[3])
    assert [cache.holds(path) for path in videos[:4]] == [True, False, True, True]
    cache.load(videos[1])  # decoded again, as if it had never been there
    assert [cache.holds(path) for path in videos[:4]] == [True, True, False, True]
    assert sum(file.stat().st_size for file in (tmp_path / "frames").glob("*/*.npy")) <= 3 * entry
    other = SETTINGS.model_copy(update={"frames": 2})
    mine = [tmp_path / "frames" / name for name in ("mine/array.npy", f"{'a' * 16}/array.npy")]
    for path in mine:
        path.parent.mkdir()
        path.write_bytes(b"the user's own")
    FrameCache(tmp_path / "frames", other, disk_bytes=1).load(videos[5])
    left = [path for path in (tmp_path / "frames").glob("*/*.npy") if path not in mine]
    assert len(left) == 1 and all(path.exists() for path in mine), "all settings share the bound"
