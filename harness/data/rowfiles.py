"""The rows of a data set's files, each with its place: JSON lines, parquet, or one JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from harness.errors import UserError
from harness.io import parse_json, read_lines, read_text, refuse_endless
from harness.vsibench.records import BadRecordError

Row = tuple[str, str | dict[str, Any] | BadRecordError]
"""The place of a record ("FILE, line 3"), and its JSON text, its fields or why it cannot be used."""


def rows_in(file: Path) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        UserError: It cannot be read.
    """
    if file.suffix == ".json":
        for number, record in enumerate(json_records(file), start=1):
            yield f"{file}, record {number}", record
        return
    try:
        if file.suffix == ".parquet":
            refuse_endless(file)
            table = pyarrow.parquet.read_table(file)
            for number, row in enumerate(table.to_pylist(), start=1):
                yield f"{file}, row {number}", row
        else:
            for number, line in enumerate(read_lines(file), start=1):
                if line.strip():
                    yield f"{file}, line {number}", line
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def fields_of(content: str | dict[str, Any] | BadRecordError) -> dict[str, Any]:
    """The fields of a row.

    Raises:
        BadRecordError: It is no JSON object.
    """
    if isinstance(content, BadRecordError):
        raise content
    try:
        row = parse_json(content) if isinstance(content, str) else content
    except ValueError as error:
        raise BadRecordError(f"not a JSON record ({error}); fix the line") from error
    if not isinstance(row, dict):
        raise BadRecordError(f"a JSON object is expected, not {type(row).__name__}; fix the line")
    return row


def json_records(file: Path) -> list[dict[str, Any]]:
    """The records of a JSON array, of an object that contains one, of an object of records by id, or of JSON lines.

    Raises:
        UserError: The file is not JSON, or contains no records.
    """
    text = read_text(file)
    try:
        try:
            content = parse_json(text)
        except ValueError:
            content = [parse_json(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        raise UserError(f"{file}: cannot be read as JSON: {error}; download it again") from error
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else [{"id": key, **_object(file, one)} for key, one in content.items()]
    if not isinstance(content, list) or not content:
        raise UserError(f"{file}: contains no records; a JSON array of questions is expected")
    return [_object(file, record) for record in content]


def _object(file: Path, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise UserError(f"{file}: a question is expected to be a JSON object, not {type(record).__name__} ({record!r})")
    return record
