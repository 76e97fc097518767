"""Reading an image as a viewer shows it: upright, opaque, whole."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from harness.errors import UserError
from harness.io import refuse_endless

MOST_PIXELS = 8192 * 8192
"""Pixels of the largest image that is read, which takes a gigabyte on the way to RGB."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's formats that are read, whatever a file is called; others run a program (EPS) or read further files."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is as large is refused

_DEEP = ("I", "F")
"""Pillow's modes of more than eight bits; they are clipped, not scaled, on the way to RGB."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image as (H, W, 3) RGB: turned as its EXIF orientation says, what is transparent on white.

    Turned as by transformers' own loader of images; on white as by qwen-vl-utils (the colours below transparent pixels
    are arbitrary, often black). An embedded colour profile is ignored, as by both.

    Raises:
        UserError: It is missing or damaged, has several pages or frames, more than 8 bits of grey (a depth map), or
            more than :data:`MOST_PIXELS`.
    """
    refuse_endless(path)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a library may have turned it on; what is lost would be grey
    try:
        with Image.open(path, formats=FORMATS) as image:
            kind = image.format
            if problem := _unusable(image):
                raise UserError(f"{path}: the image {problem}")
            image.verify()  # checksums; afterwards the file must be opened again
        if kind in ("JPEG", "MPO"):
            _refuse_broken_jpeg(path)
        with Image.open(path, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return np.array(upright.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds: OSError, SyntaxError, struct.error, EOFError, ...
        raise UserError(f"{path}: the image cannot be read: {error}. Download or export it again.") from error


def _unusable(image: Image.Image) -> str:
    """Why an image would not be seen as it is; empty if it would."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        return f"has {height}x{width} pixels, more than {MOST_PIXELS:,}. Scale it down."
    if image.mode.startswith(_DEEP):
        return f"has more than 8 bits a pixel (Pillow's mode {image.mode}), as depth maps have. Save it with 8 bits."
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a photograph with its preview
        return f"has {getattr(image, 'n_frames', 'several')} frames or pages. Save the one that is meant."
    return ""


def _refuse_broken_jpeg(path: Path) -> None:
    """Pillow passes over what libjpeg only warns about; FFmpeg's decoder can be told to stop at it.

    Raises:
        OSError: The compressed data are broken.
    """
    import av

    with av.open(str(path), format="jpeg_pipe") as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        try:
            next(container.decode(stream), None)
        except av.error.InvalidDataError as error:
            raise OSError("its compressed data are broken") from error
