"""Files: the one reader of text and JSON, atomic writing (temporary name, sync, rename), digests."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import stat
import uuid
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeVar

import tomli_w

from harness.errors import UserError, first_few
from harness.visible import is_seen

if TYPE_CHECKING:
    from pydantic import ValidationError

Shape = TypeVar("Shape")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MOST_BYTES = 2**30
"""Of a text file that is read, as all of them are, at once: a data set of a million questions has less."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_FAULT = re.compile("[\0\udc80-\udcff]")
"""A NUL, or a byte that is not UTF-8, as ``surrogateescape`` keeps it."""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; create its folder."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; create its folder."""
    with atomic_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place at the end and leaves nothing behind after an error; creates its folder.

    What a kill leaves has a temporary name, and :func:`remove_leftovers` knows it by that nobody holds its lock.

    Raises:
        UserError: As :func:`refuse_special`.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name, file = _locked_temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            name.replace(path)  # while it is locked
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def _locked_temporary(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        name = temporary_name(path)
        file = name.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks: then no leftover is removed either
            fcntl.flock(file, fcntl.LOCK_EX)
        if name.exists():
            return name, file
        file.close()  # taken for a leftover before it was locked


def remove_leftovers(folder: Path, *, below: bool = False) -> None:
    """Remove what killed processes left of :func:`atomic_file` in a folder; what is being written stays.

    Args:
        folder: May be missing.
        below: In the folders below it as well, which must all be ours; links are not followed.
    """
    for at, folders, names in os.walk(folder):
        for path in (Path(at, name) for name in names if _TEMPORARY.fullmatch(name)):
            if path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError), path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
        if not below:
            folders.clear()


def refuse_special(path: Path) -> None:
    """Refuse a place to write where something other than a file is: behind a link is the user's, and a pipe hangs.

    Raises:
        UserError: There is a link, a folder, a pipe or a device.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "a symbolic link, which is not followed", stat.S_IFDIR: "a folder"}
        found = kinds.get(stat.S_IFMT(mode), "a pipe or a device")
        raise UserError(f"`{path}`: there is {found} where a file is to be written; move it or choose another folder")


def temporary_name(path: Path) -> Path:
    """A new name beside a file, for writing it; unlike tempfile's, the file is readable by all: reports are shared."""
    return path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.tmp")


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON atomically; NaN, which JSON lacks, is an error."""
    write_text(path, json_text(document))


def json_text(document: Any) -> str:
    """Indented JSON with a line end, in which characters that are not seen are escapes; NaN is an error."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return re.sub("[^\n -~]", lambda found: found[0] if is_seen(found[0]) else json.dumps(found[0])[1:-1], text) + "\n"


def toml_text(document: dict[str, Any]) -> str:
    """A document as TOML, without the keys whose value is None, since TOML has no null."""
    return tomli_w.dumps(_without_none(document))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def read_text(path: Path | Traversable) -> str:
    """Read a text file: UTF-8, or UTF-16 or UTF-32 with a byte-order mark, and lines that end in LF, CRLF or CR.

    Returns:
        The text with LF at the ends of lines and without marks, also those of files that were joined to it.

    Raises:
        UserError: The file is missing or cannot be read, or holds a NUL or bytes that are not text (line named).
    """
    text = _decoded(path)
    if why := _fault(text):
        number = text.count("\n", 0, why[1]) + 1
        raise UserError(f"`{path}`, line {number}: {why[0]}; save the file as UTF-8")
    return text


def read_lines(path: Path | Traversable) -> list[str]:
    """Read the lines of a text file as :func:`read_text` does; a bad byte is left for :func:`parse_json` to refuse,
    so that it spoils only its own line.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    return _decoded(path).removesuffix("\n").split("\n")


def _decoded(path: Path | Traversable) -> str:
    try:
        data = _bytes_of(path) if isinstance(path, Path) else path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"`{path}`: no such file") from error
    except OSError as error:
        raise UserError(f"`{path}`: cannot be read: {error.strerror}") from error
    if data.startswith(b"\x1f\x8b"):
        raise UserError(f"`{path}`: it is compressed; unpack it with gunzip")
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    if not mark and b"\0" in data[:4]:
        raise UserError(f"`{path}`: it begins with NUL bytes, so it is UTF-16 or no text; save the file as UTF-8")
    try:
        text = data[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        where = f"byte {error.start + len(mark)}"
        raise UserError(f"`{path}`, {where}: it is not {encoding}, as its mark says; save the file as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n\ufeff", "\n").removeprefix("\ufeff")


def _bytes_of(path: Path) -> bytes:
    refuse_endless(path)
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise UserError(f"`{path}`: its {size:,} bytes are more than the {_MOST_BYTES:,} that are read; split the file")
    return path.read_bytes()


def refuse_endless(path: Path) -> None:
    """Refuse to read what may have no end: a pipe waits for its writer, a device goes on; what is missing passes.

    Raises:
        UserError: There is neither a file nor a folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"`{path}`: a pipe or a device, which may have no end; save what it gives as a file")


def _fault(text: str) -> tuple[str, int] | None:
    """What is wrong with a text and where, if it holds a NUL or a byte that is not UTF-8."""
    if (found := _FAULT.search(text)) is None:
        return None
    bad = found[0]
    return "a NUL byte" if bad == "\0" else f"the byte 0x{ord(bad) - 0xDC00:02x} is not UTF-8", found.start()


def read_json(path: Path | Traversable) -> Any:
    """Read a JSON file, as strictly as :func:`parse_json`.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    text = read_text(path)
    try:
        document = parse_json(text)
        if r"\ud" in text.lower():
            json.dumps(document, ensure_ascii=False).encode()  # half of a surrogate pair could not be written again
    except ValueError as error:
        raise UserError(f"`{path}`: cannot be read as JSON: {error}") from error
    return document


def read_as(shape: type[Shape], path: Path, fix: str) -> Shape:
    """Read a JSON file as a pydantic model, a dataclass or a container of them.

    Args:
        shape: What it must be.
        path: The file.
        fix: What to do about a file that is something else.

    Raises:
        UserError: The file is missing, is not JSON, or is something else; the message names the file, the key and the
            fix.
    """
    return _validated(shape, read_json(path), path, fix)


def read_lines_as(shape: type[Shape], path: Path, fix: str) -> list[Shape]:
    """Read JSON lines, each as :func:`read_as` reads a file; the last may be cut short by a kill and is left out then.

    Raises:
        UserError: As :func:`read_as`; the message names the line by its number from 0.
    """
    try:
        lines = [parse_json(line) for line in whole_lines(path)]
    except ValueError as error:
        raise UserError(f"`{path}`: cannot be read as JSON lines: {error}. {fix}") from error
    return _validated(list[shape], lines, path, fix)  # type: ignore[valid-type]


def sealed_text(document: dict[str, Any]) -> str:
    """Compact JSON with a digest of its content, so that :func:`read_sealed` notices an edit."""
    sealed = {"seal": digest_of(document), **document}
    return json.dumps(sealed, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def write_sealed(path: Path, document: dict[str, Any]) -> None:
    """Write a :func:`sealed_text` atomically."""
    write_text(path, sealed_text(document))


def read_sealed(shape: type[Shape], path: Path, fix: str) -> Shape:
    """Read a file that holds a :func:`sealed_text`.

    Raises:
        UserError: As :func:`read_as`; or the content is not what was written.
    """
    document = read_json(path)
    if not isinstance(document, dict) or document.pop("seal", None) != digest_of(document):
        raise UserError(f"`{path}`: its content is not what was written (digest differs). {fix}")
    return _validated(shape, document, path, fix)


def _validated(shape: type[Shape], document: Any, path: Path, fix: str) -> Shape:
    from pydantic import TypeAdapter, ValidationError  # not with the module, which `harness --help` loads

    try:
        return TypeAdapter(shape).validate_python(document)
    except ValidationError as error:
        raise UserError(f"`{path}`: {problems_of(error)}. {fix}") from error


def problems_of(error: ValidationError) -> str:
    """The first problems of a failed validation, each with its key."""
    found = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
    return first_few([f"`{key}`: {why}" if key else why for key, why in found], "; ", shown=3)


def parse_json(text: str, *, constants: bool = False) -> Any:
    """Parse JSON and refuse what other readers would change without a word.

    Args:
        text: One JSON value.
        constants: Accept NaN and Infinity, which JSON lacks.

    Raises:
        ValueError: It is not JSON; an object has a key twice; a number is too large for a float; it nests too deeply;
            or it holds a NUL or a byte that is not UTF-8.
    """
    if why := _fault(text):
        raise ValueError(f"{why[0]}, at character {why[1] + 1}")
    options: dict[str, Any] = {} if constants else {"parse_constant": _no_constant}
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_float=_finite, **options)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object; keep one")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text} is too large")
    return number


def append_lines(path: Path, lines: list[str]) -> None:
    """Append lines in one synced write, so that a kill leaves at most the last line incomplete.

    Raises:
        UserError: As :func:`refuse_special`.
    """
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write("".join(line + "\n" for line in lines).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[str]:
    """The complete lines of a file whose last line may be incomplete after a kill; [] without a file.

    Raises:
        UserError: It is a pipe, a device or larger than is read.
    """
    if not path.exists():
        return []
    text = _bytes_of(path).decode("utf-8", errors="replace")
    return text.split("\n")[:-1]


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; a pipe or device is refused as by :func:`refuse_endless`."""
    refuse_endless(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(document: Any) -> str:
    """Hex SHA-256 of a JSON-serialisable document in canonical form."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
