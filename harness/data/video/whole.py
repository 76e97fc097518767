"""Whether a video file is there to its end, by the sizes that its container states.

FFmpeg reads what is there and takes that for the film. The container's own structure tells more: boxes of MP4, elements
of Matroska and WebM, chunks of AVI, packets of MPEG-TS, the trailer of GIF.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_BOXES = frozenset(b"ftyp styp moov moof mdat mfra free skip wide udta meta uuid sidx emsg prft pnot ssix pdin".split())
_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", 0x18538067, 0x1F43B675
_TS_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Bytes of a packet, and where in it the sync byte stands."""


def cut_short(path: Path) -> str:
    """What is missing at the end of a file; empty if nothing is, or if its container does not tell.

    A file cut exactly between two fragments of an MP4, clusters of a live WebM or packets of a transport stream is
    whole to its container.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        head = file.read(4096)
        if head[4:8] in _BOXES:
            return _boxes(file, end)
        if head.startswith(_EBML):
            return _elements(file, end)
        if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
            return _chunks(file, end)
        if head.startswith(b"GIF8"):
            file.seek(max(0, end - 4096))
            return "" if file.read().rstrip(b"\0").endswith(b";") else "its trailer is missing"
        for length, sync in _TS_PACKETS:
            if len(head) > 4 * length and all(head[sync + length * number] == 0x47 for number in range(4)):
                return f"it ends inside a packet of {length} bytes" if end % length else ""
    return ""


def _boxes(file: BinaryIO, end: int) -> str:
    """ISO base media (ISO/IEC 14496-12): size and type, then the content."""
    at, kind = 0, b""
    while at + 8 <= end:
        file.seek(at)
        size, of = struct.unpack(">I4s", file.read(8))
        if of not in _BOXES or 1 < size < 8:
            return ""  # what follows the film is the maker's own
        kind = of
        if size == 1 and at + 16 <= end:
            size = struct.unpack(">Q", file.read(8))[0]
        if size == 0:  # to the end of the file
            return ""
        at += max(size, 8)
    if kind == b"moof":
        return "its last fragment has no content"
    file.seek(min(at, end))
    return _lacking(f"box {kind.decode()}", at, end) or ("it ends inside a box" if file.read().strip(b"\0") else "")


def _elements(file: BinaryIO, end: int) -> str:
    """EBML (RFC 8794): id and size of variable length, then the content; live files leave sizes open."""
    at = 0
    while at < end:
        file.seek(at)
        head = file.read(12)
        wide = 9 - head[0].bit_length()
        if wide > 4:
            return ""
        if len(head) <= wide or len(head) < wide + 9 - head[wide].bit_length():
            return "it ends inside an element"
        kind, digits = int.from_bytes(head[:wide], "big"), 9 - head[wide].bit_length()
        if digits > 8:
            return ""
        size = int.from_bytes(head[wide : wide + digits], "big") - (1 << 7 * digits)
        is_open = size == (1 << 7 * digits) - 1
        at += wide + digits
        if is_open and kind not in (_SEGMENT, _CLUSTER):
            return ""
        if not is_open:
            at += size
    return _lacking("element", at, end)


def _chunks(file: BinaryIO, end: int) -> str:
    """RIFF: one chunk, further ones in long OpenDML files."""
    at = 0
    while at + 8 <= end:
        file.seek(at)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or size == 0:
            return ""
        at += 8 + size
        if at > end:
            return _lacking("chunk", at, end)
        at += size % 2
    return ""


def _lacking(what: str, at: int, end: int) -> str:
    return f"the last {at - end:,} bytes of its last {what} are missing" if at > end else ""
