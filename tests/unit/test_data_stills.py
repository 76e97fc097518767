"""A folder of still frames is a video: ScanNet's export is read in the order of its numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.video.cache import FrameCache
from harness.data.video.decode import decode_frames, frame_indices, inspect_video
from harness.data.video.folders import still_files
from harness.data.video.frames import VideoSettings
from harness.errors import UserError

SETTINGS = VideoSettings(frames=4, min_pixels=28 * 28, max_pixels=56 * 56)


def stills(folder: Path, count: int = 12, size: tuple[int, int] = (56, 84), name: str = "{}.png") -> Path:
    """Frame i is a flat grey of 10 i."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(np.full((*size, 3), 10 * number, np.uint8)).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize("name", ["{}.png", "{}.jpg", "frame-{:06d}.color.jpg"])
def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path, name: str) -> None:
    folder = stills(tmp_path / "color", name=name)
    stills(folder, 3, name="frame-{:06d}.depth.png")
    (folder / "intrinsic_color.txt").write_text("1")
    frames = decode_frames(folder, 4)
    assert frames.shape == (4, 56, 84, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [0, 30, 60, 90], atol=1)
    assert len(still_files(folder)) == 12
    assert inspect_video(folder) == (12, 56, 84)


def test_exactly_n_frames_are_kept_where_torch_would_give_one_more() -> None:
    torch = pytest.importorskip("torch")
    assert len(torch.arange(0, 60, 60 / 26).int()) == 27
    assert frame_indices(60, 26) == torch.arange(0, 60, 60 / 26).int()[:26].tolist()
    for total in range(4, 2000, 13):
        for n in range(2, min(total, 66), 2):
            assert frame_indices(total, n) == torch.arange(0, total, total / n).int()[:n].tolist()


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    folder = stills(tmp_path / "color")
    with pytest.raises(UserError, match=r"color: the video has 12 frames and 16 are needed. Lower `frames`"):
        decode_frames(folder, 16)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "3.png")
    with pytest.raises(UserError, match="frames change size"):
        decode_frames(folder, 4)
    (folder / "3.png").write_bytes((folder / "4.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"3\.png: the image cannot be read"):
        decode_frames(folder, 4)
    empty = tmp_path / "empty"
    empty.mkdir()
    for refused in (inspect_video, FrameCache(tmp_path / "cache", SETTINGS).load):
        with pytest.raises(UserError, match="contains no colour frames"):
            refused(empty)


def test_the_cache_meets_a_changed_folder_with_a_new_entry(tmp_path: Path) -> None:
    folder = stills(tmp_path / "color")
    cache = FrameCache(tmp_path / "cache", SETTINGS)
    first = cache.load(folder)
    assert first.grid_thw.tolist() == [[2, 2, 4]]
    assert cache.load(folder).digest == first.digest
    Image.fromarray(np.full((56, 84, 3), 200, np.uint8)).save(folder / "6.png")
    assert cache.load(folder).digest != first.digest


def test_frames_below_one_patch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"10x40 pixels are smaller than one patch \(14x14\)"):
        FrameCache(tmp_path / "cache", SETTINGS).load(stills(tmp_path / "color", size=(10, 40)))


def test_a_pixel_bound_below_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="below one visual token of 28 x 28 = 784 pixels"):
        VideoSettings(frames=4, min_pixels=100, max_pixels=700)
