"""Atomic writing of files (temporary name, sync, rename), reading JSON and JSON lines, digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import tomli_w

from harness.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; create its folder."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; create its folder."""
    with atomic_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place at the end and leaves nothing behind after an error; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose files only their owner can read: reports are shared.
    name = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with name.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON atomically; NaN, which JSON lacks, is an error."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def toml_text(document: dict[str, Any]) -> str:
    """A document as TOML, without the keys whose value is None, since TOML has no null."""
    return tomli_w.dumps(_without_none(document))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"`{path}`: no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"`{path}`: cannot be read as JSON: {error}") from error


def append_lines(path: Path, lines: list[str]) -> None:
    """Append lines in one synced write, so that a kill leaves at most the last line incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write("".join(line + "\n" for line in lines).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[str]:
    """The complete lines of a file whose last line may be incomplete after a kill; [] without a file."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return text.split("\n")[:-1]


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(document: Any) -> str:
    """Hex SHA-256 of a JSON-serialisable document in canonical form."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
