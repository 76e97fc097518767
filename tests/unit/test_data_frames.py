"""The frame cache: decodes once, never serves a stale or broken entry, works without a disk."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import harness.data.video.cache as frames_module
from harness.data.video.cache import FrameCache
from harness.data.video.decode import decode_frames, sample_video
from harness.data.video.frames import VideoSettings, process_frames
from harness.errors import UserError

SETTINGS = VideoSettings(frames=4, min_pixels=28 * 28, max_pixels=56 * 56)
FRAME_BYTES = 4 * 56 * 56 * 3


def film(path: Path, seed: int = 0) -> Path:
    picture = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, number, axis=0), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos decoded so far."""
    names: list[str] = []

    def counting(path: Path, *wanted: Any) -> Any:
        names.append(path.name)
        return sample_video(path, *wanted)

    monkeypatch.setattr(frames_module, "sample_video", counting)
    return names


def test_each_video_is_decoded_once_and_comes_back_the_same(tmp_path: Path, decoded: list[str]) -> None:
    path = film(tmp_path / "a.mp4")
    direct = process_frames(decode_frames(path, 4), SETTINGS)
    first = FrameCache(tmp_path / "cache", SETTINGS)
    loads = [first.load(path), first.load(path), FrameCache(tmp_path / "cache", SETTINGS).load(path)]
    for video in loads:
        assert torch.equal(video.pixel_values, direct.pixel_values)
        assert torch.equal(video.grid_thw, direct.grid_thw)
        assert video.digest == loads[0].digest
    assert loads[0] is loads[1]
    assert decoded == ["a.mp4"]


def test_entries_go_by_content_not_by_name(tmp_path: Path, decoded: list[str]) -> None:
    path, other = film(tmp_path / "a.mp4"), film(tmp_path / "b.mp4", seed=1)
    (tmp_path / "copy.mp4").write_bytes(path.read_bytes())
    cache = FrameCache(tmp_path / "cache", SETTINGS)
    first = cache.load(path).digest
    assert cache.load(tmp_path / "copy.mp4").digest == first
    path.write_bytes(other.read_bytes())
    assert cache.load(path).digest != first
    assert decoded == ["a.mp4", "a.mp4"]


def test_other_settings_are_other_entries(tmp_path: Path, decoded: list[str]) -> None:
    path = film(tmp_path / "a.mp4")
    FrameCache(tmp_path / "cache", SETTINGS).load(path)
    more = SETTINGS.model_copy(update={"frames": 8})
    assert FrameCache(tmp_path / "cache", more).load(path).grid_thw.tolist() == [[4, 4, 4]]
    assert len(decoded) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "one bit", "other array", "pickle"])
def test_a_broken_entry_is_rebuilt(tmp_path: Path, decoded: list[str], damage: str) -> None:
    path = film(tmp_path / "a.mp4")
    whole = FrameCache(tmp_path / "cache", SETTINGS).load(path)
    (entry,) = (tmp_path / "cache").rglob("*.npy")
    content = bytearray(entry.read_bytes())
    if damage == "empty":
        content.clear()
    elif damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "one bit":
        content[len(content) // 2] ^= 1
    elif damage == "other array":
        np.save(entry, np.zeros((4, 3, 56, 56), np.float32))
        content = bytearray(entry.read_bytes())
    else:
        np.save(entry, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        content = bytearray(entry.read_bytes())
    entry.write_bytes(content)
    for _ in range(2):
        assert torch.equal(FrameCache(tmp_path / "cache", SETTINGS).load(path).pixel_values, whole.pixel_values)
    assert len(decoded) == 2


def test_a_folder_that_cannot_be_written_warns_once(tmp_path: Path, decoded: list[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = FrameCache(tmp_path / "cache", SETTINGS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache.load(film(tmp_path / "a.mp4"))
        cache.load(film(tmp_path / "b.mp4", seed=1))
        cache.load(tmp_path / "a.mp4")
    messages = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert len(messages) == 1
    assert str(tmp_path / "cache") in messages[0]
    assert decoded == ["a.mp4", "b.mp4"]


def test_memory_is_bounded(tmp_path: Path, decoded: list[str]) -> None:
    paths = [film(tmp_path / f"{seed}.mp4", seed) for seed in range(3)]
    (tmp_path / "cache").write_text("no disk")
    with pytest.warns(RuntimeWarning):
        cache = FrameCache(tmp_path / "cache", SETTINGS, memory_bytes=2 * FRAME_BYTES)
        for path in (*paths, paths[2], paths[1], paths[0]):
            cache.load(path)
    assert decoded == ["0.mp4", "1.mp4", "2.mp4", "0.mp4"]


def test_a_bad_video_is_named(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "cache", SETTINGS)
    with pytest.raises(UserError, match=r"gone\.mp4"):
        cache.load(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(UserError, match=r"text\.mp4"):
        cache.load(tmp_path / "text.mp4")


def test_a_file_whose_time_was_set_back_is_read_again(tmp_path: Path) -> None:
    contents = [film(tmp_path / f"{seed}.mp4", seed).read_bytes() for seed in range(2)]
    length = max(map(len, contents)) + 8  # both end in a box of free space
    path, kinds = tmp_path / "a.mp4", []
    for content in contents:
        path.write_bytes(
            content + (length - len(content)).to_bytes(4, "big") + b"free".ljust(length - len(content) - 4)
        )
        os.utime(path, ns=(1, 1))
        kinds.append(FrameCache(tmp_path / "cache", SETTINGS).load(path).digest)
    assert kinds[0] != kinds[1]


def test_times_are_stored_with_the_frames_and_under_their_checksum(tmp_path: Path, decoded: list[str]) -> None:
    path = film(tmp_path / "a.mp4")
    first = FrameCache(tmp_path / "cache", SETTINGS).load(path)
    again = FrameCache(tmp_path / "cache", SETTINGS).load(path)
    assert (again.seconds_per_patch, again.patch_times) == (0.5, (0.125, 0.625))
    assert (again.digest, decoded) == (first.digest, ["a.mp4"])
    (entry,) = (tmp_path / "cache").rglob("*.npy")
    content = entry.read_bytes()
    assert content.count(b"[1.0, [0.0, 0.25, 0.5, 0.75]]") == 1
    entry.write_bytes(content.replace(b"[1.0, [0.0,", b"[9.0, [0.0,"))
    assert FrameCache(tmp_path / "cache", SETTINGS).load(path).seconds_per_patch == 0.5
    assert decoded == ["a.mp4", "a.mp4"]


@pytest.mark.parametrize("changed", ["rules", "decoder"])
def test_frames_of_other_rules_or_another_decoder_are_not_served(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    path = film(tmp_path / "a.mp4")
    FrameCache(tmp_path / "cache", SETTINGS).load(path)
    if changed == "rules":
        monkeypatch.setattr(frames_module, "DECODING", frames_module.DECODING + 1)
    else:
        monkeypatch.setattr(frames_module, "version", lambda name: "another")
    FrameCache(tmp_path / "cache", SETTINGS).load(path)
    assert decoded == ["a.mp4", "a.mp4"]
