"""A row of a file as a record: lenient about how it is written, strict about what it means.

What is read otherwise than it stands there is counted and said; what may mean two things is refused with the fix.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import ValidationError

from harness.benchmarks.built_in import VSI_BENCH
from harness.data.truths import Types, truth_of, type_named
from harness.errors import UserError, closest, first_few, unknown_name
from harness.vsibench.options import lone_letter, no_options, plain_text
from harness.vsibench.records import BadRecordError, Record
from harness.vsibench.types import LETTERS

VIDEO = "video"
"""A field that may stand for dataset and scene_name: the video's path below the data set's folder."""

FIELDS = (*Record.model_fields, VIDEO)

ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "qid", "problem_id", "idx", "index"),
    "question_type": ("question_type", "problem_type", "type", "task", "category"),
    "scene_name": ("scene_name", "scene", "scene_id", "scan_id", "scan", "video_id"),
    "video": ("video", "videos", "video_path", "path", "file_name", "file"),
    "question": ("question", "problem", "query", "instruction", "prompt", "conversations", "messages"),
    "options": ("options", "choices", "candidates", "option", "answer_choices"),
    "ground_truth": (
        "ground_truth",
        "answer",
        "gt",
        "solution",
        "label",
        "response",
        "correct_answer",
        "conversations",
        "messages",
    ),
}
"""What other data sets call our fields, the likeliest first."""

_ROLES = {"question": ("human", "user"), "ground_truth": ("gpt", "assistant")}
_MARK = (
    r"<(?:video|image|frame|img|vid|audio)s?[ _-]?(?:here|placeholder|token|pad|\d+)?\s*/?>"
    r"|<\|(?:vision_start|vision_end|video_pad|image_pad)\|>"
)
_MARKS_AT_EDGES = re.compile(rf"^\s*(?:(?:{_MARK})\s*)+|(?:\s*(?:{_MARK}))+\s*$", re.IGNORECASE)
_SPECIAL = re.compile(
    rf"{_MARK}|</(?:video|image|frame|img)s?>|</?s>|\[/?INST\]|<<SYS>>|<\|[^\s|<>]+\|>|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]",
    re.IGNORECASE,
)
_OPTION_COLUMN = re.compile(
    r"(?:option|opt|choice|candidate|answer_choice)s?[ _-]?[A-H0-9]|a[ _-]?[0-9]|[ab]", re.IGNORECASE
)
_OPTION_WORD = re.compile(r"(?:^|[\W_])(?:opts?|options?|choices?|candidates?|alternatives?)(?:$|[\W_])", re.IGNORECASE)
_LONGEST_NAME = 250
"""Bytes of a file's name that file systems take, without its suffix."""


class RowReader:
    """Turns the rows of a data set into records and keeps count of what it read otherwise, or not at all.

    Args:
        fields: Maps our field names, or ``video``, to the file's; None where names cannot be mapped.
        types: The types that records may have; VSI-Bench's unless given.
    """

    def __init__(self, fields: Mapping[str, str] | None, types: Types | None = None) -> None:
        for name in fields or ():
            if name not in FIELDS:
                raise unknown_name(f"data.fields.{name}", name, FIELDS)
        self._fields = fields
        self._types = VSI_BENCH.types if types is None else types
        self._said: Counter[str] = Counter()
        self._unread: Counter[str] = Counter()
        self._found: set[str] = set()

    def record(self, row: Mapping[str, Any]) -> Record:
        """The record of a row.

        Raises:
            BadRecordError: The row is no question that can be asked and scored.
        """
        given = self._named(row)
        kind = type_named(given["question_type"], self._types)
        if kind != given["question_type"]:
            self._said["`question_type` is spelled otherwise"] += 1
        truth = truth_of(kind, self._types[kind], given.get("options"), spoken("ground_truth", given["ground_truth"]))
        self._said.update(truth.remarks)
        values = {
            "id": record_id(given["id"]),
            "dataset": given["dataset"],
            "scene_name": given["scene_name"],
            "question_type": kind,
            "question": self._question(given["question"]),
            "options": truth.options,
            "ground_truth": truth.ground_truth,
        }
        for field in ("question", "ground_truth"):
            refuse_special(field, values[field])
        for option in values["options"] or ():
            refuse_special("options", option)
        try:
            return Record.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadRecordError(f"field `{first['loc'][0]}` = {first['input']!r}: {first['msg']}") from error

    def remarks(self) -> list[str]:
        """What was read otherwise than it stands in the file, and which fields were not read, with counts.

        Raises:
            UserError: A mapped field is in no row.
        """
        for ours, theirs in (self._fields or {}).items():
            if theirs not in self._found:
                raise UserError(f"`data.fields.{ours}` = {theirs!r}: no record has such a field")
        remarks = [f"{what} ({count} records)" for what, count in self._said.items()]
        if self._unread:
            remarks.append(unread_fields(self._unread))
        return remarks

    def _named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row by our names."""
        mapped = {ours: row[theirs] for ours, theirs in (self._fields or {}).items() if theirs in row}
        for ours, theirs in (self._fields or {}).items():
            if ours not in mapped and ours != "options":  # numeric questions have none
                raise BadRecordError(f"`data.fields.{ours}` = {theirs!r} is none of its fields{closest(theirs, row)}")
        given = {name: row[name] for name in FIELDS if name in row} | mapped
        read = {*given, *(self._fields or {}).values(), "pruned"}  # VSI-Bench's own, see `pruned_ids`
        self._found |= row.keys() & read
        columns = {letter: row[letter] for letter in LETTERS if row.get(letter) is not None}
        if columns and no_options(given.get("options")):
            given["options"] = columns
            read |= set(LETTERS)
        by_path = VIDEO in mapped or (VIDEO in given and "scene_name" not in given)
        if by_path:
            given |= _place_of(given[VIDEO], given.get("dataset"))
        elif VIDEO not in (self._fields or {}).values():
            read.discard(VIDEO)
        missing = [name for name, one in Record.model_fields.items() if one.is_required() and name not in given]
        if missing:
            names = ", ".join(f"`{name}`" for name in missing)
            verb = "is" if len(missing) == 1 else "are"
            raise BadRecordError(
                f"field{'s' * (verb == 'are')} {names} {verb} missing among {_keys(row)}; {self._fix(missing, row)}"
            )
        if no_options(given.get("options")):
            truth = given["ground_truth"]
            self._refuse_lost_options(row, read, lettered=isinstance(truth, str) and lone_letter(truth) is not None)
        if not by_path:
            given |= {field: _name(field, given[field]) for field in ("dataset", "scene_name")}
        self._unread.update(key for key, value in row.items() if key not in read and value is not None)
        return given

    def _fix(self, missing: Sequence[str], row: Mapping[str, Any]) -> str:
        """How to make good for missing fields, with the names that they probably have."""
        found: dict[str, str] = {}
        for field in missing:
            names = [VIDEO, field] if field in ("dataset", "scene_name") else [field]
            keys = ((name, alias_of(name, row, set(FIELDS))) for name in names)
            ours, theirs = next(((name, key) for name, key in keys if key), (field, ""))
            found[ours] = theirs
        if VIDEO in found:  # it stands for both
            found.pop("dataset", None)
        return self._rename(found)

    def _rename(self, found: Mapping[str, str]) -> str:
        """How to give our fields the names that are ``found`` for them; "" where none is."""
        it = "it" if len(found) == 1 else "them"
        if self._fields is None:
            renamed = ", ".join(f"rename `{theirs}` to `{ours}`" for ours, theirs in found.items() if theirs)
            return renamed or f"add {it}"
        mapped = ", ".join(f'{ours} = "{theirs or "KEY"}"' for ours, theirs in found.items())
        return f"add {it}, or map another in the study file: [data.fields] {mapped}"

    def _refuse_lost_options(self, row: Mapping[str, Any], read: set[str], lettered: bool) -> None:
        """Refuse a row that has options, but not where they are read; ``lettered``: its truth is an option's letter."""
        key, is_column = lost_options(row, read, lettered)
        if key:
            fix = "give a list of all in `options`" if is_column else self._rename({"options": key})
            raise BadRecordError(f"it has `{key}` and no `options`; {fix}")

    def _question(self, value: Any) -> str:
        text = spoken("question", value)
        if not isinstance(text, str):
            raise BadRecordError(f"field `question` = {text!r}: text is expected")
        plain = without_placeholders(text)
        if plain != text:
            self._said["placeholders such as <video> were removed around `question`"] += 1
        return plain


def record_id(value: Any) -> int | str:
    """A record's id: a whole number or visible text.

    Raises:
        BadRecordError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = plain_text("id", value)
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= 2**53:  # beyond, floats leave whole numbers out
            raise BadRecordError(f"id {value!r} is not a whole number; fix it")
        return int(value)
    if not text or text != text.strip() or not text.isprintable():
        raise BadRecordError(f"id {text!r} is empty or has spaces at its ends or unprintable characters; fix it")
    return text


def _name(field: str, value: Any) -> str:
    """A part of a video's path that is one name; a number may be a float, as in tables with gaps."""
    name = plain_text(field, int(value) if isinstance(value, float) and value.is_integer() else value)
    if ".." in name or "/" in name or not _is_file_name(name):
        raise BadRecordError(
            f"{field} {name[:_LONGEST_NAME]!r} leads out of the data set's folder, is blank or too long; use a name "
            f"without .., / or \\, or give the video's path in the field `{VIDEO}`"
        )
    return name


def _is_file_name(name: str) -> bool:
    """Whether a name can be one part of a path that stays where it is."""
    long = len(name.encode("utf-8", "replace")) > _LONGEST_NAME
    return not (long or "\\" in name or not name.isprintable() or name.strip() in ("", ".", ".."))


def _place_of(video: Any, dataset: Any) -> dict[str, str]:
    """Data set and scene of a video's path: "clips/a.mp4" is "a" of "clips"; "a.mp4" of the data set that is given."""
    if isinstance(video, list | tuple) and len(video) == 1:
        video = video[0]
    if not isinstance(video, str):
        raise BadRecordError(f"video {video!r} is not one path")
    *folders, name = video.removeprefix("./").removesuffix(".mp4").split("/")
    if not all(map(_is_file_name, [*folders, name])):
        raise BadRecordError(
            f"video {video[:_LONGEST_NAME]!r} leads out of the data set's folder, or is no path; write one below it, "
            "or below data.videos"
        )
    home = folders[0] if folders else "." if dataset is None else _name("dataset", dataset)
    return {"dataset": home, "scene_name": "/".join([*folders[1:], name])}


def spoken(field: str, value: Any) -> Any:
    """A field's value; of a conversation what one side says, if that is one message."""
    if not isinstance(value, list):
        return value
    turns = [turn for turn in value if isinstance(turn, dict)]
    mine = [turn for turn in turns if turn.get("from", turn.get("role")) in _ROLES[field]]
    if len(mine) != 1:
        shown = str(value)[:100]
        raise BadRecordError(f"`{field}` = {shown!r} is not one question and one answer; write a record of each pair")
    said = mine[0].get("value", mine[0].get("content"))
    if isinstance(said, list):  # parts, of which some may be media
        return "".join(str(part["text"]) for part in said if isinstance(part, dict) and "text" in part)
    return said


def without_placeholders(question: str) -> str:
    """A question without the placeholders of a video or image at its edges.

    Raises:
        BadRecordError: Nothing is left.
    """
    plain = _MARKS_AT_EDGES.sub("", question)
    if not plain.strip():
        raise BadRecordError(f"question {question!r} is empty; fix the record")
    return plain


def refuse_special(field: str, text: str) -> None:
    """Refuse a text that a tokenizer could take for a video or a special token.

    Raises:
        BadRecordError: It is such a text.
    """
    if found := _SPECIAL.search(text):
        raise BadRecordError(f"{field} contains {found[0]!r}, which a model takes for more than text; remove it")


def alias_of(field: str, row: Mapping[str, Any], taken: set[str]) -> str | None:
    """The key of a row that probably holds one of our fields: another name for it, or another spelling.

    Args:
        field: Our name.
        row: The row.
        taken: Its keys that are read already.
    """
    plain = {re.sub(r"[\W_]", "", key.casefold()): key for key in map(str, row) if key not in taken}
    names = (re.sub(r"[\W_]", "", name) for name in ALIASES.get(field, (field,)))
    return next((plain[name] for name in names if name in plain), None)


def lost_options(row: Mapping[str, Any], read: set[str], lettered: bool) -> tuple[str | None, bool]:
    """The key under which a row without `options` probably has them, and whether it is one of several columns.

    Args:
        row: The row.
        read: Its keys that are read already.
        lettered: Whether its truth is an option's letter; then any list of texts may be the options.
    """
    unread = {key: value for key, value in row.items() if key not in read and not no_options(value)}
    columns = list(filter(_OPTION_COLUMN.fullmatch, unread))
    if len(columns) > 1:
        return columns[0], True
    lists = (key for key, value in unread.items() if _several_texts(value) and (lettered or _OPTION_WORD.search(key)))
    return alias_of("options", unread, read) or next(lists, None), False


def _several_texts(value: Any) -> bool:
    inside = list(value.values()) if isinstance(value, Mapping) else value
    return isinstance(inside, list | tuple) and len(inside) > 1 and all(isinstance(one, str) for one in inside)


def unread_fields(counts: Counter[str]) -> str:
    """The remark on fields that are not read, with the number of records that have them."""
    fields = [f"`{name}` ({count} records)" for name, count in counts.most_common()]
    return f"fields that are not read: {first_few(fields, shown=10)}"


@cache
def tell(remark: str) -> None:
    """Say something about a file once, however often a process reads it."""
    logging.getLogger(__name__).warning("%s", remark)


def _keys(row: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, row)) or "no fields at all"
