"""One clock for every container, from the time stamps of the frames that are shown."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from harness.data.video.cache import FrameCache
from harness.data.video.clock import Clock, clock_of
from harness.data.video.decode import inspect_video, sample_video
from harness.data.video.folders import stills_clock
from harness.data.video.frames import VideoSettings
from harness.errors import UserError

SETTINGS = VideoSettings(frames=4, min_pixels=28 * 28, max_pixels=56 * 56)
RATE, FRAMES = 30, 40
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
CONTAINERS = {  # name: codec, format, options of the container
    "plain.mp4": ("libx264", None, {}),
    "fragmented.mp4": ("libx264", "mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "first fragment in the header.mp4": ("libx264", "mp4", {"movflags": "frag_keyframe"}),
    "dash.mp4": ("libx264", "mp4", {"movflags": "dash+frag_keyframe"}),
    "matroska.mp4": ("libx264", "matroska", {}),
    "a.webm": ("libvpx", "webm", {}),
    "live.webm": ("libvpx-vp9", "webm", {"live": "1"}),
    "stream.mp4": ("libx264", "mpegts", {}),
    "a.avi": ("libx264", "avi", {}),
    "packed.avi": ("mpeg4", "avi", {}),
    "a.flv": ("libx264", "flv", {}),
}
TELLS_EVERY_BYTE = [name for name in CONTAINERS if name not in ("stream.mp4", "a.flv")]


def film(path: Path, stamps: Sequence[int] | None = None, tick: Fraction = Fraction(1, RATE)) -> Path:
    """A film of 40 frames; frame i is noise moved by 3 i pixels, shown at ``stamps[i]`` ticks."""
    codec, kind, options = CONTAINERS.get(path.name, ("libx264", None, {}))
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=RATE, options={"g": "10"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        if stamps is not None:
            stream.codec_context.time_base = tick
        for number in range(len(stamps or range(FRAMES))):
            frame = av.VideoFrame.from_ndarray(np.roll(NOISE, 3 * number, axis=1), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def clock(path: Path, n: int) -> Clock | None:
    return sample_video(path, n, "even", lambda frame: None)[1]


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_has_the_same_clock(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name)
    assert clock(path, 8) == Clock(FRAMES / RATE, tuple(number / RATE for number in range(0, FRAMES, 5)))
    patches = FrameCache(tmp_path / "cache", SETTINGS).load(path)
    assert patches.seconds_per_patch == pytest.approx(2 * FRAMES / RATE / 4)
    assert patches.patch_times == pytest.approx((5 / RATE, 25 / RATE))


def test_an_avi_may_leave_frames_out(tmp_path: Path) -> None:
    """A screen recorder writes an empty chunk for a frame like the one before; the header counts it."""
    stamps = [*range(20), *range(50, 70)]
    path = film(tmp_path / "packed.avi", stamps, Fraction(1, RATE))
    assert clock(path, 8) == Clock(70 / RATE, tuple(stamps[number] / RATE for number in range(0, FRAMES, 5)))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match="truncated"):
        inspect_video(path)


@pytest.mark.parametrize("name", ["plain.mp4", "fragmented.mp4", "matroska.mp4", "a.webm", "stream.mp4"])
def test_a_changing_rate_has_the_times_of_its_frames(tmp_path: Path, name: str) -> None:
    """A second at 20 frames a second, then two at 10: the frames are counted, their times are their own."""
    stamps = [50 * number for number in range(20)] + [1000 + 100 * number for number in range(20)]
    found = clock(film(tmp_path / name, stamps, Fraction(1, 1000)), 4)
    assert found is not None
    assert found.times == pytest.approx((0, 0.5, 1.0, 2.0), abs=1e-3)
    assert found.seconds == pytest.approx(3, abs=0.07)  # how long the last frame stands is the container's guess


def test_frames_before_zero_and_late_starts_count_from_the_first_that_is_shown(tmp_path: Path) -> None:
    path = film(tmp_path / "stream.mp4", [5000 + 100 * number for number in range(20)], Fraction(1, 1000))
    found = clock(path, 4)
    assert found is not None and found.times == pytest.approx((0, 0.5, 1, 1.5))


def test_an_edit_list_hides_frames_and_their_time(tmp_path: Path) -> None:
    """Two of five seconds are hidden; a patch of the other three does not take part of them."""
    long = film(tmp_path / "long.mp4", [100 * number for number in range(50)], Fraction(1, 1000))
    with av.open(str(long)) as source:
        template = source.streams.video[0]
        packets = [packet for packet in source.demux(template) if packet.size]
        with av.open(str(tmp_path / "cut.mp4"), "w", options={"use_editlist": "1"}) as container:
            stream = container.add_stream_from_template(template)
            for packet in packets:
                packet.stream = stream
                packet.pts -= int(2 / packet.time_base)
                packet.dts -= int(2 / packet.time_base)
                container.mux(packet)
    assert inspect_video(tmp_path / "cut.mp4").frames == 30
    assert clock(tmp_path / "cut.mp4", 5) == Clock(3.0, (0.0, 0.6, 1.2, 1.8, 2.4))


@pytest.mark.parametrize(
    ("stamps", "last", "rate", "expected"),
    [
        ([0, 33, 67, 100], None, Fraction(30), Clock(4 / 30, (0.0, 1 / 30, 2 / 30, 3 / 30))),  # rounded by Matroska
        ([0, 33, 67, 100], 33, Fraction(24), Clock(0.133, (0.0, 0.033, 0.067, 0.1))),  # the header lies
        ([0, 33, 67, 167], 33, Fraction(30), Clock(0.2, (0.0, 0.033, 0.067, 0.167))),  # two frames were left out
        ([-100, 0, 100], None, None, Clock(0.3, (0.0, 0.1, 0.2))),  # the mean distance
        ([0, 33, 33, 100], 33, Fraction(30), None),
        ([0, 67, 33, 100], 33, Fraction(30), None),
        ([0, None, 67, 100], 33, Fraction(30), None),
        ([], None, Fraction(30), None),
    ],
)
def test_the_stamps_count_and_the_header_only_undoes_their_rounding(
    stamps: list[int | None], last: int | None, rate: Fraction | None, expected: Clock | None
) -> None:
    found = clock_of(stamps, Fraction(1, 1000), last, rate)
    assert (found is None) == (expected is None)
    if found and expected:
        assert found.times == pytest.approx(expected.times) and found.seconds == pytest.approx(expected.seconds)


def test_a_stream_without_stamps_has_no_clock(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "raw.mp4"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(NOISE, format="rgb24")))
        container.mux(stream.encode())
    video = FrameCache(tmp_path / "cache", SETTINGS).load(tmp_path / "raw.mp4")
    assert video.seconds_per_patch is None and video.patch_times == ()


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1])
def test_a_truncated_file_of_any_container_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = film(tmp_path / name)
    data = path.read_bytes()
    lost = 1 if share == 1 and name in TELLS_EVERY_BYTE else 300
    path.write_bytes(data[: round(len(data) * share) // 1000 * 1000 + 1 if share < 1 else -lost])
    with pytest.raises(UserError, match=f"{name}: the video cannot be read completely"):
        inspect_video(path)


@pytest.mark.parametrize("name", ["plain.mp4", "fragmented.mp4", "matroska.mp4"])
def test_a_hole_of_zeros_within_any_frame_is_found(tmp_path: Path, name: str) -> None:
    """The decoder takes about half of them."""
    whole = film(tmp_path / name).read_bytes()
    with av.open(str(tmp_path / name)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size > 200]
    assert len(places) > 10
    for at, size in places[::4]:
        content = whole[at + size // 2 : at + size // 2 + 64]
        assert whole.count(content) == 1
        (tmp_path / name).write_bytes(whole.replace(content, bytes(64)))
        with pytest.raises(UserError, match="cannot be read completely"):
            inspect_video(tmp_path / name)


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    plain = film(tmp_path / "plain.mp4")
    with av.open(str(plain)) as source, av.open(str(tmp_path / "cover.mp4"), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.height, picture.width, picture.pix_fmt = 32, 32, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream_from_template(source.streams.video[0])
        container.mux(picture.encode(av.VideoFrame.from_ndarray(NOISE[:32, :32], format="rgb24")))
        container.mux(picture.encode())
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    assert inspect_video(tmp_path / "cover.mp4") == (FRAMES, 64, 64)


def test_two_films_in_one_file_are_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=8) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for stream in streams:
            for _ in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(NOISE, format="rgb24")))
            container.mux(stream.encode())
    with pytest.raises(UserError, match=r"two\.mkv: the file has 2 video streams.*-map 0:0"):
        inspect_video(tmp_path / "two.mkv")


def stills(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        Image.fromarray(np.full((56, 56, 3), 10 * number, np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0.png", "1.png", "2.png", "3.png"), Clock(2.0, (0.0, 0.5, 1.0, 1.5))),
        (("10.jpg", "20.jpg", "30.jpg", "60.jpg"), Clock(3.0, (0.0, 0.5, 1.0, 2.5))),
        (("a.png", "b.png", "c.png"), Clock(1.5, (0.0, 0.5, 1.0))),
        (("scan7_1.png", "scan7_2.png"), Clock(1.0, (0.0, 0.5))),
    ],
)
def test_stills_have_the_times_of_their_numbers(tmp_path: Path, names: tuple[str, ...], expected: Clock) -> None:
    assert stills_clock(stills(tmp_path, *names), 2.0) == expected


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("0.png", "3.png", "7.png", "12.png"), "7.png follows after 4"),
        (("1.png", "01.jpg", "2.png"), "01.jpg and 1.png have the same number"),
        (("left_1.png", "right_1.png"), "have the same number"),
        (("0.png", "1.png", "thumbnail.png"), "not numbered alike"),
        (("1_0.png", "2_0.png"), "no even numbers"),
    ],
)
def test_stills_that_are_no_series_have_no_times(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        stills_clock(stills(tmp_path, *names), 2.0)


def test_two_rates_of_the_same_stills_are_two_inputs(tmp_path: Path) -> None:
    """Qwen2.5-VL's positions differ, so nothing computed for one may serve the other."""
    folder = stills(tmp_path, *(f"{number}.png" for number in range(4)))
    slow, fast = (FrameCache(tmp_path / "cache", SETTINGS, stills_rate=rate).load(folder) for rate in (1.0, 2.0))
    assert (slow.seconds_per_patch, fast.seconds_per_patch) == (2.0, 1.0)
    assert slow.digest != fast.digest


def test_a_title_in_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    path = film(tmp_path / "matroska.mp4")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Lavf", b"L\x80vf"))
    assert path.read_bytes() != data
    assert inspect_video(path).frames == FRAMES


def black(path: Path, frames: int, side: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast", "x264-params": "keyint=9999"})
        stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
        for _ in range(frames):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8), format="rgb24"))
            )
        container.mux(stream.encode())
    return path


def test_what_a_small_file_could_not_record_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = black(tmp_path / "black.mp4", 60, 512)
    assert inspect_video(path).frames == 60
    monkeypatch.setattr("harness.data.video.container._SOON", 10_000_000)
    monkeypatch.setattr("harness.data.video.container._MOST_PIXELS_A_BYTE", 100)
    with pytest.raises(UserError, match=r"black\.mp4: 60 frames of 262,144 pixels in [\d,]+ bytes show nothing"):
        inspect_video(path)


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = black(tmp_path / "large.mp4", 2, 512)
    monkeypatch.setattr("harness.data.video.container.MOST_PIXELS", 512 * 511)
    with pytest.raises(UserError, match=r"large\.mp4: its frames of 512x512 pixels are more than 261,632.*Scale"):
        inspect_video(path)


def test_only_resized_frames_are_kept_in_memory(tmp_path: Path) -> None:
    """32 frames of 1024 x 1024 are 101 MB in RGB."""
    path = black(tmp_path / "large.mp4", 32, 1024)
    settings = VideoSettings(frames=32, min_pixels=28 * 28, max_pixels=56 * 56)
    tracemalloc.start()
    FrameCache(tmp_path / "cache", settings).load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_a_hidden_reference_frame_of_vp8_is_no_lost_frame(tmp_path: Path) -> None:
    path = film(tmp_path / "a.webm")
    with av.open(str(path)) as source:
        template = source.streams.video[0]
        packets = [bytes(packet) for packet in source.demux(template) if packet.size]
        with av.open(str(tmp_path / "hidden.webm"), "w") as container:
            stream = container.add_stream_from_template(template)
            for number, content in enumerate(packets):
                if number in (12, 13):  # no key frame
                    content = bytes([content[0] & ~0x10]) + content[1:]
                packet = av.Packet(content)
                packet.stream, packet.pts, packet.dts, packet.time_base = (
                    stream,
                    33 * number,
                    33 * number,
                    Fraction(1, 1000),
                )
                packet.is_keyframe = number == 0
                container.mux(packet)
    found = clock(tmp_path / "hidden.webm", FRAMES - 2)
    assert found is not None and len(found.times) == FRAMES - 2


def test_a_frame_cut_at_the_end_of_a_transport_stream_is_found_every_time(tmp_path: Path) -> None:
    """Between two packets of 188 bytes, so that only the decoder can tell, and not by its luck with threads."""
    with av.open(str(tmp_path / "a.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"qp": "20"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(24):
            frame = np.roll(NOISE, 5 * number, axis=0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    path = tmp_path / "a.ts"
    assert inspect_video(path).frames == 24
    path.write_bytes(path.read_bytes()[: -2 * 188])
    for _ in range(8):
        with pytest.raises(UserError, match="is corrupt"):
            inspect_video(path)
