"""Decoding refuses what it cannot read whole; sizes and indices follow Qwen2-VL's rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from harness.data.video.decode import decode_frames, frame_indices
from harness.data.video.frames import VideoSettings, process_frames, smart_resize
from harness.errors import UserError

TINY = VideoSettings(frames=16, min_pixels=84 * 84, max_pixels=84 * 84)
GREY_STEP = 7


def film(path: Path, frames: int = 32, *, noise: bool = False, codec: str = "libx264", **options: str) -> Path:
    """A film; frame i is a flat grey of 7 i, or moving noise, which makes large packets."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt, stream.options = "yuv420p", {"qp": "10"}
        for number in range(frames):
            shown = np.roll(picture, 3 * number, axis=1) if noise else np.full_like(picture, GREY_STEP * number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("count", "expected"), [(16, range(0, 32, 2)), (4, (0, 8, 16, 24)), (32, range(32))])
def test_frames_are_taken_uniformly_from_the_first(tmp_path: Path, count: int, expected: range) -> None:
    frames = decode_frames(film(tmp_path / "a.mp4"), count)
    assert frames.shape == (count, 64, 64, 3)
    assert frames.dtype == np.uint8
    greys = frames.reshape(count, -1).mean(axis=1)
    np.testing.assert_allclose(greys, [GREY_STEP * number for number in expected], atol=2)


def test_indices_of_a_length_that_does_not_divide() -> None:
    assert frame_indices(37, 6) == [0, 6, 12, 18, 24, 30]
    assert frame_indices(10, 4) == [0, 2, 5, 7]
    assert all(len(frame_indices(total, 16)) == 16 for total in range(16, 1500))


def _flip(data: bytes) -> bytes:
    broken = bytearray(data)
    for place in np.random.default_rng(1).integers(len(data) // 3, len(data) - 10, 40):
        broken[place] ^= 0x55
    return bytes(broken)


def _blank(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(len(data) // 4) + data[middle + len(data) // 4 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"<html>404</html>",
    "header only": lambda data: data[:400],
    "end lost": lambda data: data[: -len(data) // 20],
    "half lost": lambda data: data[: len(data) // 2],
    "bits flipped": _flip,
    "zeros inside": _blank,
}


@pytest.mark.parametrize("index_first", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_video_is_refused_by_name(tmp_path: Path, damage: str, index_first: bool) -> None:
    options = {"movflags": "faststart"} if index_first else {}
    whole = film(tmp_path / "whole.mp4", noise=True, **options)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(DAMAGE[damage](whole.read_bytes()))
    assert len(decode_frames(whole, 4)) == 4
    with pytest.raises(UserError, match=r"broken\.mp4"):
        decode_frames(broken, 4)


def test_a_video_cut_between_packets_is_refused(tmp_path: Path) -> None:
    """The kept frames would all decode; only the declared number of frames tells."""
    whole = film(tmp_path / "whole.mp4", noise=True, movflags="faststart")
    with av.open(str(whole)) as container:
        packets = sorted((p.pos, p.size) for p in container.demux(video=0) if p.size)
    end = sum(packets[19])
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:end])
    with pytest.raises(UserError, match="truncated: its header declares 32 frames, it contains 20"):
        decode_frames(tmp_path / "cut.mp4", 4)


def test_a_video_cut_inside_its_last_packet_is_refused(tmp_path: Path) -> None:
    """MPEG-4 decoders conceal such a loss without an error."""
    whole = film(tmp_path / "whole.mp4", noise=True, codec="mpeg4", movflags="faststart")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(UserError, match="it ends inside frame 31"):
        decode_frames(tmp_path / "cut.mp4", 4)


def test_frames_that_the_decoder_drops_are_missed(tmp_path: Path) -> None:
    """Without its first key frame an H.264 stream gives no frames, and no error."""
    whole = film(tmp_path / "whole.mkv", 16, noise=True)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "headless.mkv"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][1:]:
            packet.stream = stream
            packet.dts = -125 if packet.dts is None else packet.dts
            container.mux(packet)
    with pytest.raises(UserError, match=r"headless\.mkv: .*only 0 of 15 frames can be decoded"):
        decode_frames(tmp_path / "headless.mkv", 4)


def test_no_file_no_video_stream_too_few_frames(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.mp4: no such video file"):
        decode_frames(tmp_path / "gone.mp4", 4)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="no video stream"):
        decode_frames(tmp_path / "sound.mp4", 4)
    with pytest.raises(UserError, match="has 3 frames and 4 are needed"):
        decode_frames(film(tmp_path / "short.mp4", 3), 4)


def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    """A film cut without re-encoding keeps packets that players do not show; it is not damaged."""
    film(tmp_path / "long.mp4", 32)
    with av.open(str(tmp_path / "long.mp4")) as source:
        template = source.streams.video[0]
        packets = [packet for packet in source.demux(template) if packet.size]
        step = packets[1].dts - packets[0].dts
        with av.open(str(tmp_path / "cut.mp4"), "w", options={"use_editlist": "1"}) as container:
            stream = container.add_stream_from_template(template)
            for packet in packets:
                packet.stream = stream
                packet.pts -= 12 * step
                packet.dts -= 12 * step
                container.mux(packet)
    frames = decode_frames(tmp_path / "cut.mp4", 20)
    greys = frames.reshape(20, -1).mean(axis=1)
    np.testing.assert_allclose(greys, [GREY_STEP * number for number in range(12, 32)], atol=2)


def test_a_file_without_a_frame_count_is_counted(tmp_path: Path) -> None:
    frames = decode_frames(film(tmp_path / "a.mkv", 10), 5)
    np.testing.assert_allclose(frames.reshape(5, -1).mean(axis=1), [0, 14, 28, 42, 56], atol=2)


@pytest.mark.parametrize(
    ("height", "width", "low", "high", "expected"),
    [
        (84, 84, 7056, 7056, (84, 84)),  # the tiny world keeps its size
        (480, 640, 3136, 602112, (476, 644)),  # VSI-Bench's size at the usual bounds: nearest multiples of 28
        (480, 640, 3136, 100352, (252, 364)),  # 128 x 28 x 28: by 1.7496 to 274.3 x 365.8, rounded down
        (14, 14, 3136, 602112, (56, 56)),  # rounds to zero, then enlarged, rounded up
        (42, 70, 784, 602112, (56, 56)),  # 1.5 and 2.5 tokens: Python rounds half to even
    ],
)
def test_smart_resize(height: int, width: int, low: int, high: int, expected: tuple[int, int]) -> None:
    assert smart_resize(height, width, factor=28, min_pixels=low, max_pixels=high) == expected


def test_a_ribbon_is_refused() -> None:
    with pytest.raises(UserError, match="2x600"):
        smart_resize(2, 600, factor=28, min_pixels=784, max_pixels=7056)


def test_the_tiny_world_has_72_tokens_of_four_patches() -> None:
    video = process_frames(np.zeros((16, 84, 84, 3), np.uint8), TINY)
    assert video.grid_thw.tolist() == [[8, 6, 6]]
    assert video.pixel_values.shape == (72 * 4, 3 * 2 * 14 * 14)
    black = -np.array(TINY.image_mean) / np.array(TINY.image_std)
    colours = video.pixel_values.reshape(-1, 3, 2 * 14 * 14)
    np.testing.assert_allclose(colours.mean(dim=(0, 2)), black, rtol=1e-5)


def test_the_digest_follows_what_the_model_sees() -> None:
    frames = np.zeros((16, 84, 84, 3), np.uint8)
    same = process_frames(frames.copy(), TINY).digest
    changed = frames.copy()
    changed[3, 40, 40, 1] = 1
    other = TINY.model_copy(update={"image_mean": (0.5, 0.5, 0.5)})
    assert process_frames(frames, TINY).digest == same
    assert len({same, process_frames(changed, TINY).digest, process_frames(frames, other).digest}) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "min_pixels"),
        ({"min_pixels": 784, "max_pixels": 783}, "max_pixels = 783 is below min_pixels = 784"),
        ({"min_pixels": 784, "max_pixels": 784, "frames": 15}, "not a multiple of temporal_patch_size = 2"),
        ({"min_pixels": 784, "max_pixels": 784, "frame": 16}, "frame\n"),
        ({"min_pixels": 784, "max_pixels": 784, "image_std": (0.0, 1.0, 1.0)}, "must be positive"),
    ],
)
def test_settings_are_strict(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        VideoSettings(**options)
