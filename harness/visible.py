"""Text on its way out of a process: what a reader cannot see is made visible, and an output that fails ends no work.

Names, answers, paths and error messages come from files, videos and libraries. Escape sequences in them could forge or
hide what a terminal shows, so :func:`visible` stands before every output: in :mod:`harness.console` for our own, in
:func:`own_streams` for what libraries write (warnings, logs, tracebacks), in ``reports.text`` for files.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any, TextIO

_FILLERS = re.compile(
    "[\N{COMBINING GRAPHEME JOINER}\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}\u17b4\u17b5\u180b-\u180f"
    "\N{HANGUL FILLER}\ufe00-\ufe0f\N{HALFWIDTH HANGUL FILLER}\U000e0100-\U000e01ef]"
)
"""What Unicode calls default ignorable and Python nevertheless calls printable."""

_REDRAWS = re.compile(r"\r|\n*(?:\x1b\[A)*\Z")
"""How the progress bars of tqdm begin: back to the start of the line, or a write that only changes lines."""

_lost: list[str] = []
"""Why output was lost, apart from a reader that left."""


def visible(text: str) -> str:
    r"""A text whose control, formatting and other unseen characters are escapes such as ``\x1b``.

    Line feeds, tabs and spaces of any width stay. The result of a result is the same.
    """
    return re.sub("[^\n\t -~]", _shown, text)


def is_seen(c: str) -> bool:
    """Whether a character has a shape or is a line feed, a tab or a space of any width."""
    return c in "\n\t" or unicodedata.category(c) == "Zs" or (c.isprintable() and not _FILLERS.match(c))


def _shown(found: re.Match[str]) -> str:
    return found[0] if is_seen(found[0]) else found[0].encode("unicode_escape").decode()


def clean(text: str) -> str:
    """One line of :func:`visible` text: runs of whitespace become one space."""
    return visible(" ".join(text.split()))


def paragraph(text: str) -> str:
    """A message of one paragraph: its further lines are indented, so that no text in it passes for another message."""
    return re.sub(r"\n(?=\S)", "\n  ", visible(text))


def own_streams() -> None:
    """Take over this process's standard streams; those that something else has replaced stay as they are.

    What libraries write is made visible, and "\\xe9" stands for what the encoding lacks. A stream that is closed, or
    whose reader leaves as in ``harness compare | head``, goes nowhere, and work goes on. Any other failure, such as a
    full disk, is kept for :func:`lost_output`.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get the number, and what a library prints
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = map(_owned, (sys.stdout, sys.stderr))


def lost_output() -> str:
    """Write what waits to be written; return why output was lost so far, or nothing."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return ", ".join(dict.fromkeys(_lost))


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                _lost.append(str(error.strerror))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


class _Stream(io.TextIOWrapper):
    def write(self, text: str) -> int:
        moves = _REDRAWS.match(text)
        start = moves.end() if moves else 0
        self.direct(text[:start] + visible(text[start:]))
        return len(text)

    def direct(self, text: str) -> int:
        """Write text as it is."""
        written = super().write(text)
        if self.write_through:  # PYTHONUNBUFFERED, as in cells: the log is whole when a process is killed
            self.flush()
        return written

    @property
    def rich_proxied_file(self) -> _Direct:
        """Where rich writes, whose own escape sequences are wanted."""
        return _Direct(self)


class _Direct:
    """A stream's way past :meth:`_Stream.write`."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.direct(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _owned(stream: TextIO | None) -> TextIO:
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
    lines, at_once = stream.line_buffering, stream.write_through
    return _Stream(raw, stream.encoding, "backslashreplace", line_buffering=lines, write_through=at_once)
