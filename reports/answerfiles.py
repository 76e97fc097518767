"""Reading raw answers made anywhere: our own lines, and the per-sample logs of lmms-eval.

Our own: ``{"id": 17, "answer": "4"}`` a line; ``truncated`` is read where it is there, other keys are ignored.

lmms-eval (``--log_samples``; versions 0.2 to 0.7.3 read for this) writes one object a question with ``doc_id``,
``target``, ``filtered_resps``, ``resps`` unless equal, ``input``, ``doc_hash`` and the metrics. Its own ``doc`` is
dropped on writing, but VSI-Bench's metrics (``vsibench_score``, since 2026 ``vsibench_overall`` and others) each repeat
it. So the question is, in this order, ``doc.id``; the ``id`` of a metric that has one; row ``doc_id`` of the
benchmark, counted from 0. The last holds only for the same file in the same order (``LMMS_EVAL_SHUFFLE_DOCS`` breaks
it), so ``target`` is compared with the record's ground truth, and ``input`` must contain its question. The answer is
``filtered_resps``, which is what lmms-eval scored (reasoning tags stripped since 0.7), even if the filter left nothing;
without it ``resps``. Lists nested in lists are opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import UserError
from harness.io import parse_json, read_lines
from harness.vsibench.records import Record

_EXAMPLE = 'a line must look like {"id": 17, "answer": "4"}, or be one of lmms-eval\'s logged samples'


class RawAnswer(NamedTuple):
    """An answer as the model gave it, and whether a token limit cut it off (None: not known)."""

    text: str
    truncated: bool | None = None


def read_answers(path: Path, records: Sequence[Record]) -> dict[str, RawAnswer]:
    """Read a file of answers by record id.

    Args:
        path: JSON lines, of either kind.
        records: The benchmark's, in its order; needed to find the questions of lmms-eval's lines.

    Raises:
        UserError: The file cannot be read or is empty, or a line is malformed, repeats an id or contradicts the
            benchmark (file and line named).
    """
    by_key = {record.key: record for record in records}
    answers: dict[str, RawAnswer] = {}
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        entry = _entry(line, where)
        if "answer" not in entry and ("filtered_resps" in entry or "resps" in entry):
            key, answer = _lmms_sample(entry, where, records, by_key)
        else:
            key, answer = _own(entry, where)
        if key in answers:
            raise UserError(f"{where}: id {key} was answered already in line {first_line[key]}; keep one")
        answers[key], first_line[key] = answer, number
    if not answers:
        raise UserError(f"{path}: no answers; {_EXAMPLE}")
    return answers


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield number, line


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = parse_json(line, constants=True)  # lmms-eval writes metrics that are NaN
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); {_EXAMPLE}") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where}: a JSON object is expected, not {type(entry).__name__}; {_EXAMPLE}")
    return entry


def _own(entry: Mapping[str, Any], where: str) -> tuple[str, RawAnswer]:
    if not {"id", "answer"} <= entry.keys():
        raise UserError(f"{where}: `id` or `answer` is missing; {_EXAMPLE}")
    key, answer, truncated = entry["id"], entry["answer"], entry.get("truncated")
    if isinstance(key, float) and key.is_integer() and abs(key) < 2**53:  # as tables with gaps write them
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise UserError(f"{where}: `id` must be a whole number or text, is {key!r}; {_EXAMPLE}")
    if isinstance(answer, bool) or not isinstance(answer, int | float | str) or answer != answer:  # NaN: a gap
        raise UserError(f"{where}: `answer` must be text, is {answer!r}; {_EXAMPLE}")
    return _storable(str(key)), RawAnswer(_storable(str(answer)), truncated if isinstance(truncated, bool) else None)


def _lmms_sample(
    entry: Mapping[str, Any], where: str, records: Sequence[Record], by_key: Mapping[str, Record]
) -> tuple[str, RawAnswer]:
    found = list(_texts(entry.get("filtered_resps")))
    raw = list(_texts(entry.get("resps")))
    if not found:
        # A filter that leaves nothing makes an empty answer, which is wrong, and not a missing one.
        found = [""] if entry.get("filtered_resps") is not None and len(raw) == 1 else raw
    if len(found) != 1:
        raise UserError(f"{where}: {len(found)} responses to one question; log one a question (repeats = 1)")
    key = _document_id(entry)
    by_row = key is None
    if key is None:
        row = entry.get("doc_id")
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < len(records):
            raise UserError(f"{where}: `doc_id` {row!r} is no row of the benchmark's {len(records)} records")
        key = records[row].key
    if key in by_key:
        _refuse_other_question(entry, by_key[key], where, by_row)
    return key, RawAnswer(_storable(found[0]))


def _storable(text: str) -> str:
    """Text that every file can hold: JSON allows half of a surrogate pair, UTF-8 does not; it becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _document_id(entry: Mapping[str, Any]) -> str | None:
    """The record id in the logged document, or in a metric that repeats it."""
    documents = [entry.get("doc"), *entry.values()]
    for document in documents:
        if isinstance(document, dict) and "question_type" in document and isinstance(document.get("id"), int | str):
            return _storable(str(document["id"]))
    return None


def _refuse_other_question(entry: Mapping[str, Any], record: Record, where: str, by_row: bool) -> None:
    target, prompt = entry.get("target"), entry.get("input")
    other = target is not None and not _same_truth(str(target), record.ground_truth)
    other |= by_row and isinstance(prompt, str) and record.question not in prompt
    if other:
        why = (
            f"row `doc_id` {entry['doc_id']} of the benchmark is record {record.key}, which is another question: "
            "the documents were shuffled or filtered (LMMS_EVAL_SHUFFLE_DOCS)"
            if by_row
            else f"the benchmark's ground truth of record {record.key} is {record.ground_truth!r}, not {target!r}"
        )
        raise UserError(f"{where}: {why}; give --benchmark the very file that was evaluated")


def _same_truth(target: str, truth: str) -> bool:
    if target.strip() == truth.strip():
        return True
    try:
        return float(target) == float(truth)
    except ValueError:
        return False


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif value is not None:
        yield str(value)
