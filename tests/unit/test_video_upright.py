"""Frames and images are read as they are shown: upright, with square pixels, in their own colours, opaque."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from harness.data.video.decode import decode_frames, inspect_video
from harness.data.video.images import read_image
from harness.errors import UserError

HEIGHT, WIDTH = 48, 64
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
ONE = 1 << 16
MATRICES = {  # ISO/IEC 14496-12: x goes to (a, b), y to (c, d), in 16.16; what a viewer then sees
    "as it is": ((1, 0, 0, 1), lambda shown: shown),
    "a quarter clockwise": ((0, 1, -1, 0), lambda shown: np.rot90(shown, -1)),
    "upside down": ((-1, 0, 0, -1), lambda shown: np.rot90(shown, 2)),
    "a quarter counterclockwise": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down in a mirror": ((1, 0, 0, -1), np.flipud),
    "along the diagonal": ((0, 1, 1, 0), lambda shown: shown.transpose(1, 0, 2)),
    "along the other diagonal": ((0, -1, -1, 0), lambda shown: np.rot90(shown, 2).transpose(1, 0, 2)),
}


def film(path: Path, frames: int = 4, codec: str = "libx264", **set_on_stream: Any) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.options = {"qp": "0"} if codec == "libx264" else {}
        for name, value in set_on_stream.items():
            setattr(stream if name == "sample_aspect_ratio" else stream.codec_context, name, value)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(PICTURE, format="rgb24")))
        container.mux(stream.encode())
    return path


def turned(path: Path, matrix: tuple[float, ...], name: str) -> Path:
    """A copy whose track header has another display matrix."""
    data = bytearray(path.read_bytes())
    unity = np.array([ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = data.index(unity, data.index(b"tkhd"))
    a, b, c, d = (round(ONE * value) for value in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    (path.parent / name).write_bytes(data)
    return path.parent / name


@pytest.mark.parametrize("way", MATRICES)
def test_a_video_is_turned_as_its_display_matrix_says(tmp_path: Path, way: str) -> None:
    plain = film(tmp_path / "plain.mp4")
    matrix, seen = MATRICES[way]
    path = turned(plain, matrix, "turned.mp4")
    expected = [seen(frame) for frame in decode_frames(plain, 4)]
    np.testing.assert_array_equal(decode_frames(path, 4), expected)
    assert inspect_video(path) == (4, *expected[0].shape[:2])


def test_a_video_turned_by_other_than_quarters_is_refused(tmp_path: Path) -> None:
    half = 0.5**0.5
    path = turned(film(tmp_path / "plain.mp4"), (half, half, -half, half), "slanted.mp4")
    with pytest.raises(UserError, match=r"slanted\.mp4: its display matrix .* Encode it upright"):
        decode_frames(path, 4)


def test_wide_pixels_make_a_wide_frame(tmp_path: Path) -> None:
    path = film(tmp_path / "wide.mp4", sample_aspect_ratio=Fraction(3, 2))
    frames = decode_frames(path, 4)
    assert frames.shape == (4, HEIGHT, WIDTH * 3 // 2, 3)
    resized = Image.fromarray(PICTURE).resize((WIDTH * 3 // 2, HEIGHT), Image.Resampling.BICUBIC)
    assert np.abs(frames[0].astype(int) - np.asarray(resized)).mean() < 12  # chroma is subsampled


def test_pixels_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed byte of the header can make 64 x 48 pixels 2 million wide."""
    path = film(tmp_path / "wide.mp4")
    monkeypatch.setattr("harness.data.video.container.pixel_aspect", lambda stream: Fraction(30000, 1))
    with pytest.raises(UserError, match=r"wide\.mp4: its frames of 48x1920000 pixels are more than.*Scale"):
        decode_frames(path, 4)


@pytest.mark.parametrize(("space", "red", "blue"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (9, 0.2627, 0.0593)])
@pytest.mark.parametrize("full", [False, True])
def test_colours_follow_the_matrix_and_range_that_the_video_states(
    tmp_path: Path, space: int, red: float, blue: float, full: bool
) -> None:
    """BT.709, BT.601, BT.2020 (ITU-T H.273, table 4): R = Y + 2 (1 - Kr) Cr and so on."""
    path, stored = tmp_path / "grey.mp4", (81, 90, 200)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 1 + full
        frame = av.VideoFrame(32, 32, "yuv444p")
        frame.colorspace, frame.color_range = space, 1 + full
        for plane, value in zip(frame.planes, stored, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    y, cb, cr = stored
    luma = y / 255 if full else (y - 16) / 219
    pb, pr = ((chroma - 128) / (255 if full else 224) for chroma in (cb, cr))
    r, b = luma + 2 * (1 - red) * pr, luma + 2 * (1 - blue) * pb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    expected = np.clip([r, g, b], 0, 1) * 255
    np.testing.assert_allclose(decode_frames(path, 1)[0, 5, 5], expected, atol=1.5)


def test_what_is_transparent_in_a_video_is_white(tmp_path: Path) -> None:
    shown = [Image.new("RGBA", (32, 32), (200, 0, 0, 255)) for _ in range(4)]
    for number, image in enumerate(shown):
        image.paste((10 * number, 10, 10, 0), (0, 0, 16, 32))
    shown[0].save(tmp_path / "a.gif", save_all=True, append_images=shown[1:], duration=100, disposal=2)
    (frame,) = decode_frames(tmp_path / "a.gif", 1)
    np.testing.assert_allclose(frame[10, 4], 255, atol=2)
    np.testing.assert_allclose(frame[10, 28], (200, 0, 0), atol=2)


ORIENTED: dict[int, Any] = {  # EXIF 2.32, 0x0112: where the first row and column of the file belong
    1: lambda shown: shown,
    2: np.fliplr,
    3: lambda shown: np.rot90(shown, 2),
    4: np.flipud,
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, -1),
    7: lambda shown: np.rot90(shown, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def oriented(path: Path, picture: NDArray[np.uint8], orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", ORIENTED)
def test_an_image_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    path = oriented(tmp_path / "a.png", PICTURE, orientation)
    np.testing.assert_array_equal(read_image(path), ORIENTED[orientation](PICTURE))


def test_stills_are_turned_too(tmp_path: Path) -> None:
    for number in range(4):
        oriented(tmp_path / f"{number}.png", PICTURE, 3)
    np.testing.assert_array_equal(decode_frames(tmp_path, 4)[2], np.rot90(PICTURE, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_in_an_image_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    image.paste((80, 80, 80, 255), (2, 0, 4, 2))
    path = tmp_path / "a.png"
    (image.quantize() if mode == "P" else image.convert(mode)).save(path)
    expected = [[255, 255, 80, 80]] * 2
    np.testing.assert_array_equal(read_image(path), np.repeat(np.array(expected)[..., None], 3, axis=2))


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (100, 0, 200, 51)).save(tmp_path / "a.png")  # 51 of 255: a fifth
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0, 0], (224, 204, 244), atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_keep_their_colours(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.full((16, 16, 3), (255, 255, 255), np.uint8)).convert(mode)
    image.save(tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"))
    (path,) = tmp_path.iterdir()
    np.testing.assert_allclose(read_image(path), 255, atol=2)


def broken_jpeg(path: Path) -> None:
    """What libjpeg reads with a warning and wrong colours."""
    Image.fromarray(PICTURE.repeat(4, 0).repeat(4, 1)).save(path, quality=95)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 4] = bytes(len(data) // 4)
    path.write_bytes(data)


def broken_png(path: Path) -> None:
    Image.fromarray(PICTURE).save(path, format="PNG")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    path.write_bytes(data)


def cut(path: Path, kind: str) -> None:
    Image.fromarray(PICTURE).save(path, kind)
    path.write_bytes(path.read_bytes()[:-300])


def several(path: Path) -> None:
    pages = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    pages[0].save(path, format="GIF", save_all=True, append_images=pages[1:])


UNUSABLE: dict[str, tuple[Any, str]] = {
    "zeros in a jpg": (broken_jpeg, "compressed data are broken"),
    "a flipped bit in a png": (broken_png, "cannot be read"),
    "a jpg's end is lost": (lambda path: cut(path, "JPEG"), "cannot be read"),
    "a bmp's end is lost": (lambda path: cut(path, "BMP"), "truncated"),
    "16 bits of grey": (lambda path: Image.fromarray(np.full((9, 9), 900, np.uint16)).save(path, "PNG"), "8 bits"),
    "floats": (lambda path: Image.fromarray(np.ones((9, 9), np.float32)).save(path, "TIFF"), "8 bits"),
    "several frames": (several, "2 frames or pages"),
    "huge": (lambda path: Image.new("1", (9000, 9000)).save(path, "PNG"), "9000x9000 pixels, more than"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_image_that_would_be_seen_wrong_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as other libraries set it
    make, problem = UNUSABLE[kind]
    make(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=rf"a\.jpg: the image .*{problem}"):
        read_image(tmp_path / "a.jpg")


def test_a_photograph_with_its_preview_is_one_image(tmp_path: Path) -> None:
    photo = Image.fromarray(PICTURE)
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[photo.resize((8, 6))], quality=100)
    assert read_image(tmp_path / "a.jpg").shape == PICTURE.shape
