"""Hostile films and pictures: no memory beyond the bounds, no other file, no program; each refused by name."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from harness.data.video import container
from harness.data.video.decode import decode_frames, inspect_video
from harness.data.video.glimpses import glimpses
from harness.data.video.images import read_image
from harness.errors import UserError

PEAK = """
import resource, sys
from pathlib import Path
import torch
from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.data.lookalikes import video_hashes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
settings = VideoSettings(frames=16, min_pixels=3136, max_pixels=50_000)
for path in map(Path, sys.argv[2:]):
    FrameCache(Path(sys.argv[1]), settings).store(path)
    video_hashes([path], Path(sys.argv[1], "hashes.json"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def black(path: Path, width: int, height: int, frames: int, codec: str = "libx264", **options: str) -> Path:
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", options
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(frames):
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.slow
def test_a_small_file_of_large_frames_takes_bounded_memory(tmp_path: Path) -> None:
    """99 KB of black 8K frames: full frames must not be collected (16 of them take 1.6 GB)."""
    film = black(tmp_path / "8k.mp4", 7680, 4320, 16, preset="ultrafast", threads="1")
    assert film.stat().st_size < 200_000
    command = [sys.executable, "-c", PEAK, str(tmp_path), str(film)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1500


def test_playlists_open_no_other_file(tmp_path: Path) -> None:
    inside = black(tmp_path / "inside.ts", 64, 64, 8)
    playlists = {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ninside.ts\n#EXT-X-ENDLIST\n",
        "b.mp4": "ffconcat version 1.0\nfile inside.ts\n",
        "c.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/inside.ts\n#EXT-X-ENDLIST\n",
    }
    assert inspect_video(inside).frames == 8
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name}: (a playlist|the video cannot be read)"):
            inspect_video(tmp_path / name)
        with pytest.raises(UserError, match=name):
            glimpses(tmp_path / name, np.copy)


def test_a_name_is_a_file_and_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    black(tmp_path / "inside.mp4", 64, 64, 8).rename(tmp_path / "concat:inside.mp4")
    assert inspect_video(Path("concat:inside.mp4")).frames == 8


def test_frames_beyond_the_bounds_are_refused_on_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = black(tmp_path / "a.mp4", 64, 64, 12)
    monkeypatch.setattr(container, "MOST_FRAMES", 11)
    with pytest.raises(UserError, match=r"a.mp4: it has more than 11 frames. Cut it"):
        decode_frames(film, 4)
    monkeypatch.setattr(container, "MOST_PIXELS", 64 * 63)
    for look in (inspect_video, lambda path: glimpses(path, np.copy)):
        with pytest.raises(UserError, match=r"a.mp4: its frames of 64x64 pixels are more than"):
            look(film)


def test_a_pipe_is_no_film_and_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for look in (inspect_video, read_image, lambda path: glimpses(path, np.copy)):
        with pytest.raises(UserError, match=r"pipe: no such video|pipe`: a pipe or a device"):
            look(tmp_path / "pipe")


def test_a_picture_runs_no_program(tmp_path: Path) -> None:
    """Pillow gives PostScript to Ghostscript."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: the image cannot be read: cannot identify"):
        read_image(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_pictures_beyond_the_bound_are_refused_before_they_are_decoded(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1" if kind in ("PNG", "GIF", "TIFF", "BMP") else "L", (16_000, 8_000)).save(path, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"a.png: the image has 8000x16000 pixels, more than"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_pictures_with_many_frames_are_refused(kind: str, tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), (5 * number % 256, 0, 0)) for number in range(300)]
    pages[0].save(tmp_path / "a.png", kind, save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"a.png: the image has 300 frames or pages"):
        read_image(tmp_path / "a.png")
