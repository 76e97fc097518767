"""What fuzz targets are given, and mutations: of bytes, and of the values in a JSON or TOML document."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class NonsenseError(AssertionError):
    """Something was accepted that is not so."""


@dataclass(frozen=True)
class Input:
    """What a target makes its input of.

    Attributes:
        rng: The source of every choice.
        folder: An empty folder, the working directory; nothing may be written elsewhere.
        seeds: Valid files, made once.
    """

    rng: random.Random
    folder: Path
    seeds: Path


def require(holds: bool, words: str) -> None:
    """Raise :class:`NonsenseError` unless something holds; the words before a colon tell the fault from others."""
    if not holds:
        raise NonsenseError(words)


ODD_TEXT = (
    "", " ", "\t", "\0", "a\0b", "\ufeff", "\u2028", "\u00a0", "\ud800", "é", "３", "nan", "inf", "-inf", "1e999",
    "1e-400", "-5", "0", "007", "0x10", "1_000", "1,5", "½", "٣", "A", "Z", "a.", "A. ", "None", "null", "true", "[]",
    "{}", "<video>", "<answer>", "</answer>", "{0}", "{x}", "%s", "[/]", "[bold]", "\x1b[31m", "\\", "/", ".", "..",
    "../../outside", "/etc/passwd", "..\\outside", "a/b", "C:\\x", "~", "~root", "#", "a#b", "hub:", "world:",
    "world:test@0", "x" * 300, "y" * 70_000, "$(id)", "'", '"', "`", "=", ":", ",", "\r\n", "🙂", "e\u0301",
    "\u202eabc",
)  # fmt: skip
ODD_NUMBERS = (
    0, 1, -1, 2, 3, 255, 2**31, -(2**31), 2**63, 2**64, -(2**70), 10**30, 10**4000, 0.0, -0.0, 0.1, 0.5, -0.5, 1.5,
    1e308, -1e308, 5e-324, 1e-9, math.nan, math.inf, -math.inf,
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [{}], {"": None}, [None], {"a": {"b": {}}})


PLAYLISTS = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n",
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile a.mp4\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) print\n%%EOF\n",
)
"""Media that open other files or a network, or are programs."""


def special_file(rng: random.Random, file: Path) -> None:
    """Put in a file's place what is none: a pipe, a device, a folder, a link to itself or to nothing."""
    file.unlink(missing_ok=True)
    kind = rng.choice(("pipe", "device", "folder", "loop", "nothing"))
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to({"device": "/dev/zero", "loop": file.name, "nothing": "missing"}[kind])


def odd_value(rng: random.Random) -> Any:
    """A value that a careless reader does not expect."""
    return rng.choice([rng.choice(ODD_TEXT), rng.choice(ODD_NUMBERS), copy.deepcopy(rng.choice(ODD_VALUES))])


def mutated_document(rng: random.Random, document: Any, times: int | None = None) -> Any:
    """A copy with one to three of its values changed, removed, doubled, renamed, moved or nested."""
    changed = copy.deepcopy(document)
    for _ in range(times or rng.choice((1, 1, 1, 2, 3))):
        holder, key = _place(rng, changed)
        if holder is None:
            return odd_value(rng)
        _mutate_at(rng, changed, holder, key)
    return changed


def _place(rng: random.Random, document: Any) -> tuple[Any, Any]:
    """A dictionary or list inside a document and one of its keys; a shallow place is as likely as a deep one."""
    places: dict[int, list[tuple[Any, Any]]] = {}

    def walk(node: Any, depth: int) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.setdefault(depth, []).append((node, key))
            walk(value, depth + 1)

    walk(document, 0)
    return rng.choice(places[rng.choice(list(places))]) if places else (None, None)


def _mutate_at(rng: random.Random, document: Any, holder: Any, key: Any) -> None:
    value = holder[key]
    what = rng.choice(("replace", "replace", "replace", "remove", "add", "nest", "type", "swap", "near", "rename"))
    if what == "remove":
        del holder[key]
    elif what == "add" and isinstance(holder, dict):
        holder[rng.choice(ODD_TEXT)] = odd_value(rng)
    elif what == "add":
        holder.insert(key, copy.deepcopy(value))
    elif what == "nest":
        holder[key] = rng.choice(([value], {"value": value}, [value, value]))
    elif what == "type":
        holder[key] = _other_type(value)
    elif what == "swap":
        other, there = _place(rng, document)
        holder[key], other[there] = copy.deepcopy(other[there]), copy.deepcopy(value)
    elif what == "near":
        holder[key] = _near(rng, value)
    elif what == "rename" and isinstance(holder, dict) and isinstance(key, str):
        holder[rng.choice((key.upper(), key + " ", f" {key}", key.replace("_", "-"), key + "\u200b"))] = holder.pop(key)
    else:
        holder[key] = odd_value(rng)


def _other_type(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return list(value[:50])
    return dict.fromkeys(map(str, range(len(value)))) if isinstance(value, list) else list(value)


def _near(rng: random.Random, value: Any) -> Any:
    """A value of the same type that is not far away."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 10, -value, -2 * value))
    if isinstance(value, float):
        return value * rng.choice((-1, 0, 10, 1e-3, 1e300))
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return rng.choice((value[:at], value[:at] + rng.choice(ODD_TEXT) + value[at:], value[at:], value + value))
    return odd_value(rng)


def json_text(rng: random.Random, document: Any) -> str:
    """JSON as Python writes it, NaN and halves of surrogate pairs too; some with a key twice, or deeply nested."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.7)
    if rng.random() < 0.03:  # a number that Python itself refuses to read
        return re.sub(r"\d+", "9" * 5000, text, count=1)
    if rng.random() < 0.05:
        return "[" * 100_000 + text
    if rng.random() < 0.05 and text.startswith("{") and isinstance(document, dict) and document:
        key = rng.choice(list(document))
        return f"{text[:-1]}, {json.dumps(key)}: {json.dumps(odd_value(rng))}}}"
    return text


def encoded(rng: random.Random, text: str) -> bytes:
    """Text as bytes: mostly UTF-8, now and then with a mark, in UTF-16, with CRLF, or with halves of pairs."""
    change: Callable[[str], bytes] = rng.choice(
        (
            *[lambda one: one.encode("utf-8", "surrogatepass")] * 12,
            lambda one: one.encode("utf-8-sig", "surrogatepass"),
            lambda one: one.encode("utf-16", "surrogatepass"),
            lambda one: one.replace("\n", "\r\n").encode("utf-8", "surrogatepass"),
            lambda one: one.rstrip("\n").encode("utf-8", "surrogatepass"),
        )
    )
    return change(text)


def mutated_bytes(rng: random.Random, data: bytes, times: int | None = None) -> bytes:
    """A copy with one to four changes: bits, bytes, numbers, runs; cut, doubled, moved or filled."""
    changed = bytearray(data)
    for _ in range(times or rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        size = min(len(changed) - at, rng.choice((1, 2, 4, 8, 32, 256, 4096)))
        what = rng.choice(("bit", "bit", "byte", "number", "cut", "remove", "double", "insert", "zero", "move", "text"))
        if what == "bit" and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif what == "byte" and at < len(changed):
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif what == "number":
            width = rng.choice((2, 4, 8))
            number = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), rng.randrange(2 ** (8 * width))))
            changed[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif what == "cut":
            del changed[at:]
        elif what == "remove":
            del changed[at : at + size]
        elif what == "double":
            changed[at:at] = changed[at : at + size]
        elif what == "insert":
            changed[at:at] = rng.randbytes(size)
        elif what == "zero":
            changed[at : at + size] = bytes(size)
        elif what == "move":
            piece = bytes(changed[at : at + size])
            del changed[at : at + size]
            there = rng.randrange(len(changed) + 1)
            changed[there:there] = piece
        else:
            changed[at:at] = rng.choice(ODD_TEXT)[:400].encode("utf-8", "surrogatepass")
    return bytes(changed)
