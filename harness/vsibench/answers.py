"""Reading a model's answer: its final part, an option letter, a number, plain words.

The rules of the tolerant scorer, and of rewards that are set to read so. They are lenient about form (tags, bold type,
number words, units), never about content: what could mean two things is not read.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

from harness.vsibench.letters import normalise, read_letter
from harness.vsibench.numbers import leading_unit, read_number
from harness.vsibench.records import Record

TARGET_UNITS: dict[str, str] = {
    "object_abs_distance": "m",
    "object_size_estimation": "cm",
    "room_size_estimation": "m2",
}
"""The unit in which VSI-Bench's question templates ask for the answer."""

_ANSWER_TAG = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer>", re.IGNORECASE)
_REASONING = re.compile(r"<(?P<close>/?)(?P<name>think|observe)>", re.IGNORECASE)
_REASONING_END = re.compile(r"</(?:think|observe)>", re.IGNORECASE)
_REASONING_START = re.compile(r"<(?:think|observe)>", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_HASHES = re.compile(r"(?:^|\n)\s*####\s")
_CUE = re.compile(r"\banswer(?:\s+(?:is|(?:would|should|must)\s+be)\b\s*:?|\s*[:=])\s*", re.IGNORECASE)

_LONG_SPACE = re.compile(r"\s{101,}")
"""Longer than any window in which words are looked for."""

_SUPERSCRIPT = re.compile(r"[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_SIGNS = str.maketrans({"−": "-", "–": "-", "‐": "-", "—": " - ", "⁄": "/", "≈": "~", "∼": "~", "٫": ".", "٬": ","})
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), plainly)
    for pattern, plainly in (
        # LaTeX
        (
            r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:bf|it|rm|sf|tt)|[mf]box|emph|unit|num|operatorname)\s*\{([^{}]*)\}",
            r"\1",
        ),
        (r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1 \2"),
        (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1/\2 "),
        (r"\^\s*\{([^{}]*)\}", r"^\1"),
        (r"\^\s*\\circ", "°"),
        (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
        (r"\\(?:approx|sim)(?![A-Za-z])", "~"),
        (r"\\(?=(?:centi|milli|kilo|deci|met(?:er|re)))", ""),
        (r"\\%", "%"),
        (r"\\(?:geq?|geqslant|gtrsim|gt)(?![A-Za-z])", "≥"),
        (r"\\(?:leq?|leqslant|lesssim|lt)(?![A-Za-z])", "≤"),
        (r"\\pm(?![A-Za-z])", "±"),
        (r"(?<=\d)~(?=[A-Za-z\\])", " "),
        (r"\\[,;:! ()\[\]]|\\(?:left|right|quad|qquad|rm|bf|it)(?![A-Za-z])|[${}]", " "),
        # Products before "*" is taken for Markdown
        (r"(?<=m)\*\*(?=[23](?!\d))", "^"),
        (r"(?:(?<=\d)|(?<=\dm)|(?<=\d\sm))\s*\*(?!\*)\s*(?=\d)", " × "),
        # HTML and the tokenizer's own marks, then feet and inches
        (r"<sup>\s*(\d)\s*</sup>", r"^\1"),
        (r"</?[a-z][\w-]*\s*/?>|<\|[^|<>]*\|>", " "),
        (r"""(?<![\w.'’"])(\d+)\s*['’′]\s*-?\s*(\d{1,2}(?:\.\d+)?)(?!\d)\s*(?:["”]|''|′′)?""", r"\1 ft \2 inch "),
        (r"(\d)\s?′′", r"\1 inch "),
        (r"(\d)\s?′", r"\1 ft "),
    )
)
_INCH_MARK = re.compile(r"""(?<=\d)(?:["”]|\s?'')(?!\w)""")
_FOOT_MARK = re.compile(r"(?<=\d)['’](?!\w)")
_OPEN_QUOTE = re.compile(r"""(?<!\d)["“]|(?<![\w'’])['‘’]""")
_MARKUP = re.compile(r"[*`\"“”„«»「」『』【】《》#]+|(?<![^\W_])_+|_+(?![^\W_])|(?<![^\W_])['‘’]+|['‘’]+(?![^\W_])")


def final_answer(text: str) -> str:
    """The part of a completion that is its answer.

    The contents of the last ``<answer>`` tag outside the reasoning, closed or not; else what follows the last
    ``</think>`` or ``</observe>``; else the whole text. Reasoning that is never closed is not part of the answer; a tag
    inside the reasoning counts where nothing else is left.
    """
    outside = _REASONING_END.split(without_reasoning(text))[-1]
    rest = _REASONING_START.split(_REASONING_END.split(text)[-1], maxsplit=1)[0]
    for place in (outside, rest, text):
        if opened := list(_ANSWER_TAG.finditer(place)):
            return _ANSWER_END.split(place[opened[-1].end() :], maxsplit=1)[0].strip()
        if place is rest and rest.strip():
            break
    return _ANSWER_END.split(rest, maxsplit=1)[0].strip()


def without_reasoning(text: str) -> str:
    """A text with a space in place of each block from ``<think>`` to ``</think>``, or ``<observe>`` to its end.

    In one pass; a pattern would look for the end of every block that has none through the whole text.
    """
    kept, at, opened = [], 0, None
    ends = {tag["name"].lower(): tag.start() for tag in _REASONING.finditer(text) if tag["close"]}
    for tag in _REASONING.finditer(text):
        name = tag["name"].lower()
        if opened is None and not tag["close"] and ends.get(name, -1) > tag.start():
            kept.append(text[at : tag.start()])
            opened = name
        elif tag["close"] and name == opened:
            kept.append(" ")
            at, opened = tag.end(), None
    return "".join((*kept, text[at:]))


def plain(text: str) -> str:
    """Words without Markdown, LaTeX, HTML and quotes; digits of every script as ASCII, "½" as 1/2, "²" as ^2."""
    text = _SUPERSCRIPT.sub(lambda found: f"^{unicodedata.normalize('NFKC', found.group())} ", html.unescape(text))
    text = unicodedata.normalize("NFKC", _BEYOND_ASCII.sub(_digits, _INVISIBLE.sub("", text))).translate(_SIGNS)
    for pattern, plainly in _REWRITES:
        text = pattern.sub(plainly, text)
    quote = _OPEN_QUOTE.search(text)  # a mark after it may end the quotation
    unquoted, rest = (text[: quote.start()], text[quote.start() :]) if quote else (text, "")
    text = _FOOT_MARK.sub(" ft ", _INCH_MARK.sub(" inch ", unquoted)) + rest
    return _narrowed(_MARKUP.sub(" ", text)).strip()


def _narrowed(text: str) -> str:
    """A text without endless white space, with whose every part the patterns would begin again."""
    return _LONG_SPACE.sub(lambda run: ("\n" if "\n" in run[0] else " ") * 100, text)


def parse_number(text: str, unit: str | None = None) -> float | None:
    """The number that a completion gives, see :func:`harness.vsibench.numbers.read_number`."""
    return read_number(_stated(text)[0], unit)


def parse_letter(text: str, options: Sequence[str]) -> str | None:
    """The option that a completion chooses, see :func:`harness.vsibench.letters.read_letter`."""
    stated, final = _stated(text)
    return read_letter(stated, options, final)


def parse_words(text: str) -> str:
    """The answer part of a completion as normalised words, for questions without options."""
    return normalise(_stated(text)[0])


def parse_answer(text: str, record: Record, unit: str | None = None) -> float | str | None:
    """The answer that a completion gives to a record, or None when none can be parsed.

    Args:
        text: The completion.
        record: The question.
        unit: The unit that a number is asked for in; VSI-Bench's for its types unless given.

    Returns:
        A number in the unit the question asks for, an option letter, or (for a question in free
        form) normalised words.
    """
    if record.is_numeric:
        return parse_number(text, unit or TARGET_UNITS.get(record.question_type))
    if record.options is not None:
        return parse_letter(text, record.options)
    return parse_words(text) or None


def matches(parsed: float | str | None, record: Record) -> bool:
    """Whether the parsed answer to a non-numeric record is correct."""
    truth = record.ground_truth if record.options is not None else normalise(record.ground_truth)
    return parsed == truth


def _stated(text: str) -> tuple[str, bool]:
    """What a completion states in plain words, and whether it announces it: in a box or after "answer is"."""
    answer = _HASHES.split(final_answer(_narrowed(text)))[-1]
    boxed = [box for box in _BOXED.finditer(answer) if box[1].strip()]
    whole = plain(boxed[-1][1] if boxed else answer)
    if boxed and whole[-1:].isdecimal():
        whole += " " + leading_unit(plain(answer[boxed[-1].end() :].lstrip(" $~")))
    stated = _CUE.split(whole)[-1].strip() or whole
    return stated, bool(boxed) or stated != whole


def _digits(found: re.Match[str]) -> str:
    letter = found.group()
    if letter.isdecimal():
        return str(unicodedata.decimal(letter))
    return f" {letter}" if unicodedata.decomposition(letter).startswith("<fraction>") else letter
