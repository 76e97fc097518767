"""The options of a question and the letter of the right one, however a file writes them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from harness.io import parse_json
from harness.vsibench.records import BadRecordError
from harness.vsibench.types import LETTERS

_LETTERED = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])(?:[.):、．：）]|\s[-–]\s))\s*(.*)", re.DOTALL)
_LONE_LETTER = re.compile(r"\(?([A-Za-z])[.:]?\)?")


def plain_text(field: str, value: Any) -> str:
    """A field's text, or its number as text.

    Raises:
        BadRecordError: It is something else: nothing, true or false, a list, NaN.
    """
    if isinstance(value, str):
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)  # of any size, also beyond a float's
    if not whole and not (isinstance(value, float | Decimal) and math.isfinite(value)):
        raise BadRecordError(f"field `{field}` = {value!r}: text or a number is expected")
    return str(value)


def lone_letter(text: str) -> str | None:
    """The letter that a text consists of ("B", "b", "(B)", "B."), or begins with as an option does ("B. chair")."""
    found = _LONE_LETTER.fullmatch(text.strip())
    letter = found[1].upper() if found else _split(text)[0]
    return letter if letter and letter in LETTERS else None


def no_options(value: Any) -> bool:
    """Whether a field holds no option: nothing, an empty list or text, or nulls alone."""
    if isinstance(value, str):
        return not value.strip()
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    return all(one is None for one in inside)


def option_texts(value: Any) -> tuple[str, ...] | None:
    """The options' texts without letters; None if there are none.

    Args:
        value: A list, with letters (A. chair, (A) chair, a) chair) or without; texts by letter; lines of text; or a
            JSON list as text.

    Raises:
        BadRecordError: It is something else; letters are out of order or on some options only; there is one option or
            more than eight; one is empty or occurs twice.
    """
    if no_options(value):
        return None
    listed = _listed(value)
    if len(listed) > len(LETTERS) or len(listed) < 2:
        raise BadRecordError(f"{len(listed)} options; 2 to {len(LETTERS)} are allowed")
    texts = [plain_text("options", option).strip() for option in listed]
    letters = LETTERS[: len(texts)]
    if any((found := _split(text)[0]) and found in letters for text in texts):
        for letter, text in zip(letters, texts, strict=True):
            if _split(text)[0] != letter:
                raise BadRecordError(
                    f"option {text!r} should begin with {letter + '. '!r}; letter the options in order"
                )
        texts = [_split(text)[1] for text in texts]
    if "" in texts:
        raise BadRecordError(f"option {letters[texts.index('')]} is empty; fix or remove it")
    if tuple(text.upper() for text in texts) == tuple(letters):
        raise BadRecordError(f"options {', '.join(letters)} have no texts; give what each letter stands for")
    plain = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".") for text in texts]
    if twice := next((text for text, same in zip(texts, plain, strict=True) if plain.count(same) > 1), None):
        raise BadRecordError(f"the option {twice!r} occurs twice, so two letters would be right; fix it")
    return tuple(texts)


def right_letter(truth: Any, texts: Sequence[str], field: str = "ground_truth") -> str:
    """The letter of the right option, given as its letter, its words, or both.

    Raises:
        BadRecordError: It is no option, or may be two.
    """
    said = plain_text(field, truth).strip()
    letters, plain = LETTERS[: len(texts)], [text.casefold() for text in texts]
    wrong = BadRecordError(
        f"{field} {truth!r} is not among the options {', '.join(letters)}; give the right option's letter"
    )
    if not isinstance(truth, str):  # an index, counted from 0 or from 1
        raise wrong
    by_words = letters[plain.index(said.casefold())] if said.casefold() in plain else None
    letter, words = lone_letter(said), _split(said)[1]
    if letter is None or letter not in letters or (words and words.casefold() != plain[letters.index(letter)]):
        letter = None
    found = {letter, by_words} - {None}
    if len(found) > 1:
        raise BadRecordError(f"{field} {truth!r} is a letter and another option's words; fix the record")
    if not found:
        raise wrong
    return str(found.pop())


def _split(text: str) -> tuple[str | None, str]:
    """The letter that an option begins with, and the rest of it."""
    found = _LETTERED.fullmatch(text.strip())
    return ((found[1] or found[2]).upper(), found[3].strip()) if found else (None, "")


def _listed(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        lines = [line for line in value.split("\n") if line.strip()]
        if value.strip().startswith("["):
            try:
                value = parse_json(value)
            except ValueError as error:
                raise BadRecordError(f"options = {value!r} is text and no JSON list ({error}); give a list") from error
        elif len(lines) == 1:
            raise BadRecordError(f"options = {value!r} is one line of text; give a list")
        else:
            value = lines
    if isinstance(value, Mapping):
        given = {str(key).strip().upper(): text for key, text in value.items() if text is not None}
        letters = LETTERS[: len(given)]
        if given.keys() != set(letters):
            raise BadRecordError(f"options = {value!r}: a list, or texts by the letters A, B, ..., is expected")
        value = [given[letter] for letter in letters]
    if not isinstance(value, list | tuple):
        raise BadRecordError(f"options = {value!r}: a list is expected")
    return value
