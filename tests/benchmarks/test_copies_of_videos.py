"""How well perceptual hashes tell copies from other rooms, on the videos of the embedded world.

    python -m pytest -m study tests/benchmarks/test_copies_of_videos.py -s

Copies of 20 test videos, altered in each way, and the nearest other video of each of all 700.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from harness.data import lookalikes as hashing
from harness.data.lookalikes import ALIKE, Hashes, lookalikes, video_hashes
from harness.data.video.decode import decode_frames, inspect_video
from harness.processes import usable_cores
from harness.world.build import build_split
from harness.world.camera import FRAMES

Frames = np.ndarray
RATE = 6


def write(
    path: Path, frames: Frames, rate: float = RATE, side: int = 84, codec: str = "libx264", crf: int = 28
) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate), options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = side, 84, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(Image.fromarray(frame).resize((side, 84)))))
        container.mux(stream.encode())
    return path


def grey(frames: Frames) -> Frames:
    return np.repeat(frames.mean(-1, keepdims=True), 3, -1).astype(np.uint8)


COPIES: Mapping[str, Callable[[Path, Frames], Path]] = {
    "re-encoded, CRF 35": lambda to, frames: write(to, frames, crf=35),
    "re-encoded by VP9": lambda to, frames: write(to.with_suffix(".webm"), frames, codec="libvpx-vp9", crf=40),
    "wider by a third": lambda to, frames: write(to, frames, side=112),
    "every second frame": lambda to, frames: write(to, frames[::2], rate=RATE / 2),
    "every frame twice": lambda to, frames: write(to, frames.repeat(2, 0), rate=RATE * 2),
    "four times as fast": lambda to, frames: write(to, frames, rate=RATE * 4),
    "without its first 5%": lambda to, frames: write(to, frames[3:]),
    "without its first 30%": lambda to, frames: write(to, frames[20:]),
    "without its last 20%": lambda to, frames: write(to, frames[:-13]),
    "grey": lambda to, frames: write(to, grey(frames)),
    "brighter": lambda to, frames: write(to, np.clip(frames * 1.2 + 10, 0, 255).astype(np.uint8)),
}


@pytest.mark.study
@pytest.mark.timeout(3600)
def test_copies_and_other_rooms_of_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("test", "train"):
        build_split(split, tmp_path, workers=usable_cores())
    videos = sorted((tmp_path / "world").glob("*.mp4"))
    world = video_hashes(videos, tmp_path / "hashes.json", usable_cores())
    monkeypatch.setattr(hashing, "ALIKE", 1.0)  # the nearest at any distance

    def nearest(one: Path, hashes: Hashes, among: Mapping[Path, Hashes]) -> tuple[Path, float]:
        found = lookalikes({one: hashes}, among)[0]
        return found.like, found.differing

    farthest = 0.0
    originals = [path for path in videos if path.name.startswith("test_")][::10]
    for name, copied in COPIES.items():
        distances = []
        for original in originals:
            assert inspect_video(original).frames == FRAMES
            copy = copied(tmp_path / f"{name}-{original.name}", decode_frames(original, FRAMES))
            like, differing = nearest(copy, video_hashes([copy], tmp_path / "copies.json")[copy], world)
            assert like == original, name
            distances.append(differing)
        farthest = max(farthest, *distances)
        print(f"{name:24} mean {np.mean(distances):6.1%}  largest {max(distances):6.1%}")
    others = [nearest(one, world[one], {k: v for k, v in world.items() if k != one})[1] for one in videos]
    print(f"{'another room':24} mean {np.mean(others):6.1%}  smallest {min(others):6.1%} of {len(videos)}")
    assert farthest < ALIKE < min(others)
