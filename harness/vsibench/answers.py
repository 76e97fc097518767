"""Parsing a model's answer: its final part, an option letter, a number, plain words.

The rewards and the tolerant scorer share these rules, so that training rewards what the report accepts.
They are lenient about form (tags, bold type, number words, units), never about content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from harness.vsibench.records import Record
from harness.vsibench.types import LETTERS

_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS: dict[str, int] = {
    **{word: value for value, word in enumerate(_TO_NINETEEN.split())},
    **{word: 10 * tens for tens, word in enumerate(_TENS.split(), start=2)},
    "hundred": 100,
    "thousand": 1000,
}
"""English number words with their values; compound numbers are built from them."""

TARGET_UNITS: dict[str, str] = {
    "object_abs_distance": "m",
    "object_size_estimation": "cm",
    "room_size_estimation": "m2",
}
"""The unit in which VSI-Bench's question templates ask for the answer."""

_METRES: dict[str, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001, "ft": 0.3048, "inch": 0.0254}
_UNIT_SPELLINGS: dict[str, str] = {
    "m": r"m(?:et(?:er|re)s?)?",
    "cm": r"cms?|centimet(?:er|re)s?",
    "mm": r"mm|millimet(?:er|re)s?",
    "ft": r"ft|foot|feet",
    "inch": r"inch(?:es)?",  # not "in": "3 in the room"
}
_UNIT = re.compile(
    r"[\s-]*(?P<square>sq(?:uare)?\.?\s*)?(?:"
    + "|".join(f"(?P<{name}>{spelling})" for name, spelling in _UNIT_SPELLINGS.items())
    + r")(?P<power>\^?2|²|\s+squared)?(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_DIGITS = re.compile(
    r"(?<![A-Za-z0-9.])[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+(?![A-Za-z0-9]))?"
)
_WORD = "(?:" + "|".join(NUMBER_WORDS) + ")"
_WORDS = re.compile(rf"\b{_WORD}(?:[\s-]+(?:and\s+)?{_WORD})*\b", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
_REASONING_END = re.compile(r"</(?:think|observe)>", re.IGNORECASE)
_REASONING_START = re.compile(r"<(?:think|observe)>", re.IGNORECASE)
_CUE = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*[:=])\s*", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`\"“”$#]+")
_OPTION_LABEL = re.compile(rf"^\s*[{LETTERS}][.):]\s*")


def final_answer(text: str) -> str:
    """The part of a completion that is its answer.

    The contents of the last ``<answer>`` tag, closed or not; else what follows the last ``</think>`` or
    ``</observe>``; else the whole text. Reasoning that is never closed is not part of the answer.
    """
    opened = list(_ANSWER_TAG.finditer(text))
    if opened:
        return _ANSWER_END.split(text[opened[-1].end() :], maxsplit=1)[0].strip()
    rest = _REASONING_END.split(text)[-1]
    return _REASONING_START.split(rest, maxsplit=1)[0].strip()


def parse_number(text: str, unit: str | None = None) -> float | None:
    """The first number in the answer part of a completion, in digits or English words.

    Args:
        text: The whole completion.
        unit: The unit asked for: ``m``, ``cm``, ``mm``, ``ft``, ``inch``, or one of them with a 2
            for an area. A number given in another unit of the same kind is converted; without
            a target unit, units are ignored.

    Returns:
        The number, or None when there is none. A range ("3-4", "2 to 3") gives its first number.
    """
    answer = _stated(final_answer(text)).replace("−", "-")
    digits, words = _DIGITS.search(answer), _WORDS.search(answer)
    if digits and (not words or digits.start() < words.start()):
        value, end = float(digits.group().replace(",", "")), digits.end()
    elif words:
        value, end = words_to_number(_one_number(words.group())), words.end()
    else:
        return None
    return value if unit is None else _convert(value, _UNIT.match(answer, end), unit)


def words_to_number(words: Sequence[str]) -> float:
    """The value of English number words, for example ``["three", "hundred", "twenty", "one"]``."""
    total = current = 0
    for word in words:
        value = NUMBER_WORDS[word]
        if value == 1000:
            total, current = total + max(current, 1) * 1000, 0
        elif value == 100:
            current = max(current, 1) * 100
        else:
            current += value
    return float(total + current)


def parse_letter(text: str, options: Sequence[str]) -> str | None:
    """The option a completion chooses, as a letter, or None when it names none.

    Accepted, in this order: a letter alone or with a delimiter ("B", "(b)", "B. chair", "**B**"), the
    exact words of one option, a letter as the first word ("B chair"), the only option letter that stands
    alone in upper case ("I think it is B"). "The answer is" and "Answer:" are skipped first.
    """
    letters = LETTERS[: len(options)]
    answer = _stated(_MARKUP.sub(" ", final_answer(text))).strip()
    if found := re.match(rf"[(\[]?([{letters}])\s*(?:$|[.):,\]\n])", answer, re.IGNORECASE):
        return found.group(1).upper()
    words = normalise(answer)
    for letter, option in zip(letters, options, strict=False):
        if words == normalise(option_words(option)):
            return letter
    if found := re.match(rf"([{letters}])\s", answer, re.IGNORECASE):
        return found.group(1).upper()
    alone = set(re.findall(rf"(?<![A-Za-z'])(?!A\s+[a-z])([{letters}])(?![A-Za-z'])", answer))
    return alone.pop() if len(alone) == 1 else None


def parse_words(text: str) -> str:
    """The answer part of a completion as normalised words, for questions without options."""
    return normalise(_stated(_MARKUP.sub(" ", final_answer(text))))


def normalise(text: str) -> str:
    """Lower case, punctuation as spaces, one space between words, no leading article."""
    words = re.sub(r"[\W_]+", " ", text.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def option_words(option: str) -> str:
    """An option without its label: "B. chair" gives "chair"."""
    return _OPTION_LABEL.sub("", option).strip()


def parse_answer(text: str, record: Record) -> float | str | None:
    """The answer that a completion gives to a record, or None when none can be parsed.

    Returns:
        A number in the unit the question asks for, an option letter, or (for a question in free
        form) normalised words.
    """
    if record.is_numeric:
        return parse_number(text, TARGET_UNITS.get(record.question_type))
    if record.options is not None:
        return parse_letter(text, record.options)
    return parse_words(text) or None


def answered_number(text: str, record: Record) -> float:
    """The number that a completion gives as its answer to a numeric record; NaN when there is none."""
    found = parse_answer(text, record)
    return found if isinstance(found, float) else math.nan


def matches(parsed: float | str | None, record: Record) -> bool:
    """Whether the parsed answer to a non-numeric record is correct."""
    truth = record.ground_truth if record.options is not None else normalise(record.ground_truth)
    return parsed == truth


def _stated(answer: str) -> str:
    """What follows the last "answer is" or "answer:", or the whole answer."""
    return _CUE.split(answer)[-1].strip() or answer


def _one_number(run: str) -> list[str]:
    """The leading words of a run of number words that form one number: "twenty one", but only "five" of "five two"."""
    words = [word for word in re.findall(r"[a-z]+", run.lower()) if word != "and"]
    for i in range(1, len(words)):
        before, here = NUMBER_WORDS[words[i - 1]], NUMBER_WORDS[words[i]]
        joins = before >= 100 or here >= 100 or (before >= 20 and 1 <= here <= 9)
        if not joins:
            return words[:i]
    return words


def _convert(value: float, found: re.Match[str] | None, target: str) -> float:
    if found is None:
        return value
    name = next(name for name in _METRES if found[name])
    is_area = bool(found["square"] or found["power"])
    if is_area != target.endswith("2"):
        return value
    wanted = target.removesuffix("2")
    return value if name == wanted else value * (_METRES[name] / _METRES[wanted]) ** (2 if is_area else 1)
