"""Named, versioned rules that turn a raw VSI-Bench answer into a score.

Answers are stored exactly as the model gave them, so every rule can score the same answers. The
rules differ in what they accept as an answer; accepted answers are scored alike by all (exact
option, or mean relative accuracy).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from harness.vsibench.answers import matches, parse_answer
from harness.vsibench.letters import normalise
from harness.vsibench.mra import mean_relative_accuracy, numeric_truth
from harness.vsibench.numbers import SMALL_NUMBERS
from harness.vsibench.records import Record
from harness.vsibench.types import LETTERS

Parser = Callable[[str, Record], float | str | None]


class ItemScore(NamedTuple):
    """The score of one answer in [0, 1], and whether the rule could parse an answer at all."""

    score: float
    parsed: bool = True


@dataclass(frozen=True)
class Scorer:
    """One rule.

    Attributes:
        name: As on the command line and in tables.
        version: The rule's own version and the code it follows; stored with every score.
        summary: One line for listings and captions.
        parse: Extracts a number, an option letter or words from an answer, or None.
        words: Reads all words of an answer in free form, where ``parse`` reads the first.
    """

    name: str
    version: str
    summary: str
    parse: Parser
    words: Parser | None = None

    def in_unit(self, unit: str | None) -> Scorer:
        """The rule for answers that are asked for in a unit; the same unless it understands units."""
        return (
            self
            if unit is None or self.parse is not parse_answer
            else replace(self, parse=partial(parse_answer, unit=unit))
        )

    def read(self, answer: str, record: Record) -> float | str | None:
        """What the rule takes for the answer, None where it takes nothing: what rewards go by.

        Words in free form, which VSI-Bench does not ask for, must be equal as a whole, since the truths of training
        records may have several words, of which the official rule's first token is never all.
        """
        in_words = not record.is_numeric and record.options is None
        found = (self.words if self.words and in_words else self.parse)(answer, record)
        return None if isinstance(found, float) and not math.isfinite(found) else found

    def score(self, answer: str, record: Record) -> ItemScore:
        """Score one raw answer.

        Raises:
            UserError: The record is numeric and its ground truth is not a number.
        """
        if record.is_numeric:
            number = self.read(answer, record)
            score = mean_relative_accuracy(number, numeric_truth(record)) if isinstance(number, float) else 0.0
            return ItemScore(score, number is not None)
        parsed = self.parse(answer, record)
        return ItemScore(float(matches(parsed, record)), parsed is not None)


def _first_token(answer: str) -> str:
    # As in the source: a leading space gives an empty token, and a line break does not end one.
    return answer.split(" ")[0].rstrip(".").strip()


def _all_words(answer: str, record: Record) -> str | None:
    said, truth = (words.rstrip(".").rstrip() for words in (answer, record.ground_truth))
    return _compared(said, truth)


def _compared(words: str, truth: str) -> str | None:
    """Words in free form, equal to the truth's as `matches` has them only if they are so but for case."""
    if words.lower() == truth.lower():
        return normalise(words)
    return words.lower() if words and words.lower() != normalise(truth) else None


def _token_choice(answer: str, record: Record) -> str | None:
    token = _first_token(answer)
    if record.options is None:
        return _compared(token, record.ground_truth)
    letter = token.upper()
    return letter if len(letter) == 1 and letter in LETTERS[: len(record.options)] else None


def _official(answer: str, record: Record) -> float | str | None:
    if not record.is_numeric:
        return _token_choice(answer, record)
    try:
        return float(_first_token(answer))
    except ValueError:
        return None


_LMMS_REASONING = (("<think>", "</think>"), ("<analysis>", "</analysis>"))
_LMMS_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
_LMMS_WORDS = {**SMALL_NUMBERS, "hundred": 100, "thousand": 1000}
_LETTERS_RUN = re.compile(r"[a-z]+")


def _lmms_eval(answer: str, record: Record) -> float | str | None:
    answer = _without_reasoning(answer)
    if not record.is_numeric:
        return _token_choice(answer, record)
    text = answer.lower()
    digits = _LMMS_DIGITS.search(text)
    start, words = _first_word_run(text)
    if digits and (not words or digits.start() < start):
        return float(digits.group())
    return _sum_of_words(words) if words else None


def _without_reasoning(answer: str) -> str:
    """What lmms-eval's evaluator gives its scorers by default: no reasoning blocks, no white space at the ends."""
    for start, end in _LMMS_REASONING:
        while (opened := answer.find(start)) >= 0 and (closed := answer.find(end, opened)) >= 0:
            answer = answer[:opened] + answer[closed + len(end) :]
        if start not in answer:  # the chat template may have opened it
            answer = answer.rpartition(end)[2]
    return answer.strip()


def _first_word_run(text: str) -> tuple[int, list[str]]:
    """Position of the first number word, and the run of number words that starts there ("and" may join them)."""
    start = -1
    words: list[str] = []
    for found in _LETTERS_RUN.finditer(text):
        word = found.group()
        if word in _LMMS_WORDS:
            start = found.start() if not words else start
            words.append(word)
        elif words and word != "and":
            break
    return start, words


def _sum_of_words(words: Sequence[str]) -> float:
    """lmms-eval's value of any run of number words, whether or not it is one number: "two three" is 5."""
    total = current = 0
    for word in words:
        value = _LMMS_WORDS[word]
        if value == 1000:
            total, current = total + max(current, 1) * 1000, 0
        elif value == 100:
            current = max(current, 1) * 100
        else:
            current += value
    return float(total + current) if total + current < 2**1023 else math.inf  # no float: "hundred hundred ..."


SCORERS: dict[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        Scorer(
            "official",
            "1 (thinking-in-space 51e089c)",
            "the benchmark's own rule: the first space-separated token, a trailing full stop removed",
            _official,
            _all_words,
        ),
        Scorer(
            "lmms-eval",
            "2 (lmms-eval 0.7.3)",
            "lmms-eval since July 2026, as it runs: without reasoning blocks and outer white space, the first "
            "number anywhere, in digits or words; letters as official",
            _lmms_eval,
            lambda answer, record: _all_words(_without_reasoning(answer), record),
        ),
        Scorer(
            "tolerant",
            "2",
            "answer tags, phrases, number words, thousands and units are understood; what could mean two things is not "
            "read",
            parse_answer,
        ),
    )
}
"""All scorers by name; the first is the headline."""
