"""A record's type, options and truth, as the types of its benchmark have them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.benchmarks.description import QuestionType
from harness.errors import unknown_name
from harness.vsibench.options import lone_letter, no_options, option_texts, plain_text, right_letter
from harness.vsibench.records import NUMBER, BadRecordError
from harness.vsibench.types import LETTERS

Types = Mapping[str, QuestionType]
"""The types that records may have, by name."""

_IN_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Truth(NamedTuple):
    """Options with their letters, the right answer, and what was read otherwise than it stands in the file."""

    options: tuple[str, ...] | None
    ground_truth: str
    remarks: tuple[str, ...]


def type_named(value: Any, types: Types) -> str:
    """The name of a type, given in its spelling, another case, or one of its further names.

    Raises:
        BadRecordError: There is none.
    """
    kind = plain_text("question_type", value)
    if kind in types:
        return kind
    known = {_plain(name): own for own, one in types.items() for name in (own, *one.names)}
    if _plain(kind) not in known:
        raise BadRecordError(str(unknown_name(f"question_type: {kind}", kind, types)))
    return known[_plain(kind)]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def truth_of(name: str, kind: QuestionType, options: Any, truth: Any) -> Truth:
    """What a record's options and truth mean for a question of a type.

    Args:
        name: Of the type.
        kind: The type.
        options: The record's, in any form of :func:`~harness.vsibench.options.option_texts`.
        truth: The record's.

    Raises:
        BadRecordError: They are none of its kind, or may mean two things.
    """
    remarks = []
    if isinstance(truth, str) and len(tagged := _IN_TAGS.findall(truth)) == 1:
        truth = tagged[0]
        remarks.append("`ground_truth` was taken out of its <answer> tags")
    said = plain_text("ground_truth", truth).strip()
    if kind.metric == "mra":
        if not no_options(options):
            raise BadRecordError(f"{name} is answered by a number, but the record has options; make them null")
        return Truth(None, _number(name, kind, said), tuple(remarks))
    texts = option_texts(options)
    if texts is None:
        return Truth(None, _without_options(name, kind, said), tuple(remarks))
    letter = right_letter(truth, texts)
    lettered = tuple(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    if not isinstance(options, list | tuple) or lettered != tuple(options):
        remarks.append('`options` were written as "A. ...", "B. ...", in their order')
    if letter != truth:
        remarks.append("`ground_truth` was read as its option's letter")
    return Truth(lettered, letter, tuple(remarks))


def _without_options(name: str, kind: QuestionType, said: str) -> str:
    """The truth of a question without options: words, or of an exact answer a number too."""
    if kind.metric == "exact":
        return said
    if not kind.free:
        raise BadRecordError(f"{name} is answered by an option's letter, but the record has no options; add them")
    if lone_letter(said) or NUMBER.fullmatch(said):
        raise BadRecordError(
            f"ground_truth {said!r} stands for an option, but the record has no options; add them as a list"
        )
    return said


def _number(name: str, kind: QuestionType, text: str) -> str:
    """A plain number: above 0 unless the type says what counts as 0; of a count, a whole one."""
    plain = NUMBER.fullmatch(text) is not None and math.isfinite(float(text))
    if not plain or (kind.zero is None and float(text) <= 0):
        raise BadRecordError(
            f"ground_truth {text!r} of {name} is not a {'' if kind.zero else 'positive '}number in plain digits, which "
            "relative accuracy needs; fix it"
        )
    if kind.whole and not float(text).is_integer():
        raise BadRecordError(f"ground_truth {text!r} of {name} is not a whole number; fix it")
    return text.partition(".")[0] if kind.whole else text
