"""Opening a video file with PyAV: its video stream, its frames one by one, and whether it is there to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from harness.data.video.whole import cut_short
from harness.errors import UserError
from harness.io import refuse_endless

MOST_PIXELS = 8192 * 4352
"""Pixels of the largest frame that is decoded: the largest picture of H.264's level 6 and HEVC's."""

_MOST_PIXELS_A_BYTE = 100_000
"""A recording, even of a black screen, has fewer; beyond it a small file would be decoded for minutes."""

_SOON = 2_000_000_000
"""Pixels that are decoded in seconds, whatever their file's size."""

MOST_FRAMES = 500_000
"""Frames of the longest video that is decoded, four hours at 30 a second."""

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,ivf,h264,hevc,av1,obu,ogg,gif,apng,"
    "webp_pipe,webp_anim,nut,mxf,rm,dv,vc1,yuv4mpegpipe,wtv,jpeg_pipe,png_pipe,bmp_pipe,mjpeg"
)
"""FFmpeg's formats that are read: films and pictures. Playlists (hls, concat, dash, sdp) open other files, or a
network."""

_HOLE = bytes(32)

_SLACK = Fraction(1, 2)
"""Seconds by which a declared duration may exceed that of the packets, for sound that runs on."""

_TIMED = {"flv", "asf", "matroska,webm"}
"""Formats without a count of frames whose header states how long the film is."""


class Film(NamedTuple):
    """What a file contains, as far as is known without decoding it.

    Attributes:
        frames: Frames that are shown, without those that an edit list hides.
        rate: Frames a second, as declared.
        aspect: Width of a pixel over its height.
        stamps: Time stamps of the frames where those of decoded frames do not count (AVI), in units of ``tick``.
        tick: Seconds of a unit of the stream's stamps.
    """

    frames: int
    rate: Fraction | None
    aspect: Fraction
    stamps: list[int | None] | None
    tick: Fraction


def survey(path: Path) -> Film:
    """Read a file's packets to its end.

    Raises:
        UserError: It is missing, empty, no video, truncated, or its frames are too large to decode.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such video file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the video file is empty. Download or export it again.")
    frames = hidden = 0
    stamps: list[int | None] = []
    end = Fraction(0)
    with opened(path) as container:
        stream = video_stream(container, path)
        aspect = pixel_aspect(stream)
        size = shown_pixels(path, stream.width, stream.height, aspect)
        no_zeros = _is_free_of_zeros(stream)
        timed = container.format.name in _TIMED
        for packet in container.demux() if timed else container.demux(stream):
            if packet.pts is not None and packet.time_base:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if not packet.size or packet.stream_index != stream.index:
                continue
            if packet.is_corrupt:
                raise damaged(path, f"it ends inside frame {frames}, so it is truncated")
            if no_zeros and _HOLE in bytes(packet):
                raise damaged(path, f"the data of frame {frames} are overwritten by zeros")
            frames += 1
            if frames > MOST_FRAMES:
                raise UserError(f"{path}: it has more than {MOST_FRAMES:,} frames. Cut it, or lower its frame rate.")
            hidden += packet.is_discard or _is_invisible(stream, packet)
            stamps.append(packet.dts)
        rate, tick = stream.average_rate or None, stream.time_base
        declared, is_avi = stream.frames, container.format.name == "avi"
        length = Fraction(container.duration, 1_000_000) if timed and container.duration else end
    if frames * size > max(_SOON, _MOST_PIXELS_A_BYTE * path.stat().st_size):
        raise UserError(
            f"{path}: {frames} frames of {size:,} pixels in {path.stat().st_size:,} bytes show nothing. Scale it down."
        )
    if is_avi and stamps:  # a frame that stands longer is followed by empty chunks, which its header counts
        declared -= max(0, (stamps[-1] or 0) + 1 - frames)
    if frames < declared and _unedited(path) < declared:
        raise damaged(path, f"it is truncated: its header declares {declared} frames, it contains {frames}")
    if problem := cut_short(path):
        raise damaged(path, f"it is truncated: {problem}")
    if length - end > _SLACK:
        raise damaged(
            path, f"it is truncated: its header declares {float(length):.1f} seconds, it contains {float(end):.1f}"
        )
    return Film(frames - hidden, rate, aspect, stamps if is_avi else None, tick)


def decoded(path: Path, film: Film) -> Iterator[Any]:
    """Every shown frame of a file; fewer or damaged frames, and frames of several sizes, are refused."""
    done, total, sizes = 0, film.frames, set()
    with opened(path, lambda why: f"decoding stops after {done} of {total} frames ({why})") as container:
        stream = video_stream(container, path)
        stream.thread_type = "SLICE"  # frame threads may pass on a frame before another finds it broken
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise damaged(path, f"frame {done} of {total} is corrupt")
            sizes.add((frame.width, frame.height))
            if len(sizes) > 1:
                raise damaged(path, "its frames change size")
            yield frame
            done += 1
    if done < total:
        raise damaged(path, f"only {done} of {total} frames can be decoded")
    if done > total:
        raise damaged(path, f"its {total} packets decode to {done} frames")


@contextlib.contextmanager
def opened(path: Path, problem: Callable[[str], str] = str, options: Mapping[str, str] | None = None) -> Iterator[Any]:
    """An open container; an error of FFmpeg or the file system means a damaged video, with the words of ``problem``."""
    import av
    from av.error import ArgumentError, FFmpegError

    refuse_endless(path)
    safe = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        try:
            container = av.open(f"file:{path}", options=safe | dict(options or {}), metadata_errors="replace")
        except ArgumentError as error:
            raise UserError(
                f"{path}: a playlist, or no format that is read. Convert it: ffmpeg -i IN OUT.mp4"
            ) from error
        with container:
            yield container
    except (FFmpegError, OSError, IndexError, ValueError, ArithmeticError, MemoryError) as error:
        raise damaged(path, problem(str(getattr(error, "strerror", None) or error))) from error


def video_stream(container: Any, path: Path) -> Any:
    """The container's only video stream; cover art and thumbnails, which are video streams too, are none.

    Raises:
        UserError: There is none, there are several, it has no decoder, or its frames are too large.
    """
    from av.stream import Disposition

    aside = Disposition.attached_pic | Disposition.timed_thumbnails
    found = [stream for stream in container.streams.video if not stream.disposition & aside]
    if not found:
        raise UserError(f"{path}: the file has no video stream")
    if len(found) > 1:
        raise UserError(
            f"{path}: the file has {len(found)} video streams. Keep the one that is meant: "
            f"ffmpeg -i IN -map 0:{found[0].index} -c copy OUT"
        )
    if found[0].codec_context is None:
        raise damaged(path, "its codec is unknown to FFmpeg, or its header is broken")
    shown_pixels(path, found[0].width, found[0].height, pixel_aspect(found[0]))
    found[0].codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # a frame may be larger than the header says
    return found[0]


def shown_pixels(path: Path, width: int, height: int, aspect: Fraction) -> int:
    """Pixels of a frame as it is shown, whose pixels may be wider than high.

    Raises:
        UserError: More than :data:`MOST_PIXELS`.
    """
    width = max(width, round(width * aspect))
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path}: its frames of {height}x{width} pixels are more than {MOST_PIXELS:,} pixels. Scale the video down."
        )
    return width * height


def pixel_aspect(stream: Any) -> Fraction:
    """Width of a pixel over its height; 1 if it is unknown or differs by less than a hundredth."""
    aspect: Fraction = stream.sample_aspect_ratio or Fraction(1)
    return aspect if abs(aspect - 1) > Fraction(1, 100) else Fraction(1)


def damaged(path: Path, problem: str) -> UserError:
    """The error of a video that cannot be used as it is."""
    return UserError(f"{path}: the video cannot be read completely: {problem}. Download or export it again.")


def _unedited(path: Path) -> int:
    """Packets with those that FFmpeg passes over because an edit list needs none of them."""
    with opened(path, options={"ignore_editlist": "1"}) as container:
        return sum(packet.size > 0 for packet in container.demux(video_stream(container, path)))


def _is_free_of_zeros(stream: Any) -> bool:
    """Whether a run of zeros in a packet is a hole, as a download leaves it that was not finished; decoders take it.

    Within a NAL unit of H.264 or HEVC three zeros never follow one another (ITU-T H.264 and H.265, 7.4), and units that
    stand behind their length (extra data that begin with 1) have no padding between them.
    """
    context = stream.codec_context
    return context.name in ("h264", "hevc") and (context.extradata or b"\0")[0] == 1


def _is_invisible(stream: Any, packet: Any) -> bool:
    """Whether a packet is a reference that is never shown: VP8 writes them as packets of their own (RFC 6386, 9.1)."""
    return stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] >> 4 & 1
