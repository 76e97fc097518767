"""Fuzz targets about videos, images and the cache of decoded frames."""

from __future__ import annotations

import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from fuzz_mutations import (
    PLAYLISTS,
    Input,
    encoded,
    json_text,
    mutated_bytes,
    mutated_document,
    require,
    special_file,
)
from PIL import Image, ImageOps

from harness.data.broken import without_broken_videos
from harness.data.reader import read_dataset
from harness.data.video.cache import FrameCache
from harness.data.video.decode import decode_frames, inspect_video, sample_video
from harness.data.video.folders import stills_clock
from harness.data.video.frames import VideoSettings
from harness.data.video.images import read_image
from harness.io import parse_json

VIDEOS = ("a.mp4", "b.mkv", "c.webm", "d.ts", "e.avi", "fragmented.mp4")
IMAGES = ("a.png", "b.jpg", "c.webp", "d.gif", "e.tiff", "f.bmp")
SETTINGS = VideoSettings(frames=4, min_pixels=28 * 28, max_pixels=56 * 56)


def make_seeds(folder: Path) -> None:
    """Videos in several containers, images in several formats."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (12, 4, 4, 3), dtype=np.uint8).repeat(12, 1).repeat(16, 2)
    (folder / "videos").mkdir()
    for name in VIDEOS:
        codec = "libvpx" if name.endswith("webm") else "mpeg4" if name.endswith("avi") else "libx264"
        options = {"movflags": "frag_keyframe+empty_moov"} if name.startswith("fragmented") else {}
        with av.open(str(folder / "videos" / name), "w", options=options) as container:
            stream = container.add_stream(codec, rate=8, options={"g": "4"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for number, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts, picture.time_base = number, Fraction(1, 8)
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    (folder / "images").mkdir()
    for number, name in enumerate(IMAGES):
        image = Image.fromarray(frames[number])
        exif = image.getexif()
        exif[0x0112] = number % 8 + 1
        image.save(folder / "images" / name, **({"exif": exif} if name[2:] in ("png", "jpg", "webp") else {}))


def videos(given: Input) -> None:
    """A video file, or a folder of stills; what is accepted is what a plain decoding gives."""
    rng = given.rng
    if rng.random() < 0.15:
        _stills(given)
        return
    name = rng.choice(VIDEOS)
    data = mutated_bytes(rng, (given.seeds / "videos" / name).read_bytes())
    file = given.folder / f"video{rng.choice((Path(name).suffix, '.mp4'))}"
    file.write_bytes(data)
    if rng.random() < 0.05:
        (given.folder / "a.mp4").write_bytes((given.seeds / "videos" / "a.mp4").read_bytes())
        (file := given.folder / rng.choice(("b.mp4", "b.m3u8", "b.sdp"))).write_text(rng.choice(PLAYLISTS))
    elif rng.random() < 0.03:
        special_file(rng, file)
    facts = inspect_video(file)
    count = rng.choice((2, 4, facts.frames))
    frames, clock = sample_video(file, count, rng.choice(("even", "ends")), lambda frame: frame)
    size = {frame.shape for frame in frames}
    require(len(frames) == count and size == {(facts.height, facts.width, 3)}, f"other frames than inspected: {size}")
    if clock is not None:
        rising = all(later > earlier for earlier, later in pairwise(clock.times))
        require(rising and len(clock.times) == count, f"times that do not rise: {clock.times}")
        require(clock.times[-1] <= clock.seconds < 1e9, f"a video of {clock.seconds} seconds")
    with av.open(str(file), metadata_errors="replace") as container:
        plain = sum(1 for _ in container.decode(video=0))
    require(plain == facts.frames, f"other frames than a plain decoding gives: {facts.frames}, {plain}")


def _stills(given: Input) -> None:
    rng, folder = given.rng, given.folder / "stills"
    folder.mkdir()
    for number in range(4):
        image = (given.seeds / "images" / "b.jpg").read_bytes()
        suffix = rng.choice((".jpg", ".jpg", ".png", ".JPEG", ".txt"))
        name = rng.choice((f"{number}", f"frame-{number:06d}", f"{number}x{10 ** rng.choice((1, 30, 5000)) % 10**200}"))
        (folder / f"{name}{suffix}").write_bytes(mutated_bytes(rng, image) if rng.random() < 0.3 else image)
    facts = inspect_video(folder)
    frames = decode_frames(folder, min(2, facts.frames))
    require(frames.shape[1:] == (facts.height, facts.width, 3), "stills of another size than inspected")
    clock = stills_clock(folder, 2.0)
    require(len(clock.times) == facts.frames, "a clock of other stills")


def images(given: Input) -> None:
    """An image; what is accepted are its pixels, upright."""
    rng, name = given.rng, given.rng.choice(IMAGES)
    file = given.folder / rng.choice((name, "a.png", "b.jpg"))
    file.write_bytes(mutated_bytes(rng, (given.seeds / "images" / name).read_bytes()))
    if rng.random() < 0.05:
        file.write_text(rng.choice(PLAYLISTS))
    elif rng.random() < 0.03:
        special_file(rng, file)
    pixels = read_image(file)
    require(pixels.ndim == 3 and pixels.shape[2] == 3 and min(pixels.shape) > 0, f"an image of {pixels.shape}")
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if not upright.has_transparency_data:
            require(bool(np.array_equal(pixels, upright.convert("RGB"))), f"pixels that do not stand upright: {name}")


def caches(given: Input) -> None:
    """The cache of frames and the verdicts on videos, damaged: they are rebuilt, and change nothing."""
    rng, cache = given.rng, given.folder / "cache"
    data = read_dataset(given.seeds / "data")
    (video, *_) = data.distinct_videos()
    frames = FrameCache(cache / "frames", SETTINGS).load(video)
    without_broken_videos(data, 4, cache / "videos.json")
    for file in rng.sample(files := sorted(path for path in cache.rglob("*") if path.is_file()), min(2, len(files))):
        content = file.read_bytes()
        if file.suffix == ".npy" or rng.random() < 0.4:
            file.write_bytes(mutated_bytes(rng, content))
        else:
            document = parse_json(content.decode().splitlines()[0] if file.suffix == ".jsonl" else content.decode())
            file.write_bytes(encoded(rng, json_text(rng, mutated_document(rng, document)) + "\n"))
    if rng.random() < 0.1:
        shutil.rmtree(cache / "frames")
    again = FrameCache(cache / "frames", SETTINGS).load(video)
    require(bool((again.pixel_values == frames.pixel_values).all()), "other frames out of a damaged cache")
    kept = without_broken_videos(data, 4, cache / "videos.json")
    require(kept.records == data.records, "records left out because of a damaged file of verdicts")
