"""Corrupted gold answers, the rejected side of the paper's DPO pairs (synthetic negatives).

The paper (arXiv 2504.00883, section 3.3.5) turns the correct answer into a wrong one and does not say
how. This is our interpretation: an answer of the same kind that the benchmark would score zero.
"""

from __future__ import annotations

import math
import random
import re

from harness.errors import UserError
from harness.vsibench.records import Record
from harness.vsibench.types import LETTERS

_WORDS: dict[str, tuple[str, ...]] = {
    "object_rel_direction_easy": ("left", "right"),
    "object_rel_direction_medium": ("left", "right", "back"),
    "object_rel_direction_hard": ("front-left", "front-right", "back-left", "back-right"),
}
_TURNS = ("turn left", "turn right", "turn back")
_NAMED = re.compile(r"which of these objects \((?P<names>[^)]*)\)", re.IGNORECASE)
_BETWEEN_LISTS = re.compile(r"[.:;()?!]|,,+")
_LONGEST_NAME = 4
_WRONG_BEYOND = 0.5
_UP = (1.6, 3.0)
_DOWN = (0.2, 0.45)
_DRAWS = 1000
"""Numbers that are drawn for one with the truth's decimals; rounded to these, some truths ("1e-05") have no other."""


def corrupted_answer(record: Record, rng: random.Random) -> str:
    """A wrong answer of the same form as the record's ground truth.

    Another letter for a lettered question; for a number, the number times a random factor, written
    with as many decimals and more than 50% off, where mean relative accuracy is 0; for free words,
    another word of the question type or another object that the question names.

    Raises:
        UserError: The record offers no other answer.
    """
    if record.options is not None:
        return _other(record, list(LETTERS[: len(record.options)]), rng)
    if record.is_numeric:
        return _scaled(record, rng)
    if record.question_type == "route_planning":
        return _rerouted(record, rng)
    if record.question_type == "obj_appearance_order":
        return _reordered(record, rng)
    if record.question_type in _WORDS:
        return _other(record, list(_WORDS[record.question_type]), rng)
    named = _NAMED.search(record.question)
    return _other(record, [name.strip() for name in named["names"].split(",")] if named else _listed(record), rng)


def _listed(record: Record) -> list[str]:
    """The names in the question's list that contains the right answer, for wordings other than VSI-Bench's."""
    right = record.ground_truth.strip().lower()
    for run in _BETWEEN_LISTS.split(record.question):
        names = [re.sub(r"^\s*(?:and|or)\s+", "", part).strip() for part in run.strip(",").split(",")]
        if len(names) > 1 and right in (name.lower() for name in names):
            return [name for name in names if len(name.split()) <= _LONGEST_NAME]
    return []


def _other(record: Record, pool: list[str], rng: random.Random) -> str:
    right = record.ground_truth.strip()
    wrong = [word for word in pool if word and word.lower() != right.lower()]
    if not wrong:
        raise _no_other(record)
    return _cased_like(right, rng.choice(wrong))


def _cased_like(right: str, wrong: str) -> str:
    return wrong[:1].upper() + wrong[1:] if right[:1].isupper() else wrong


def _scaled(record: Record, rng: random.Random) -> str:
    right = float(record.ground_truth)
    if not 0 < right < math.inf:
        raise _no_other(record)
    decimals = len(record.ground_truth.partition(".")[2])
    for draw in range(2 * _DRAWS):
        number = right * rng.uniform(*rng.choice((_UP, _DOWN)))
        text = f"{number:.{decimals}f}" if draw < _DRAWS else f"{number:.1e}"
        wrong = float(text)
        if 0 < wrong < math.inf and abs(wrong - right) > _WRONG_BEYOND * right:
            return text
    raise _no_other(record)


def _rerouted(record: Record, rng: random.Random) -> str:
    steps = [step.strip() for step in record.ground_truth.split(",")]
    if any(step.lower() not in _TURNS for step in steps):
        raise _no_other(record)
    changed = rng.randrange(len(steps))
    turns = [
        rng.choice([turn for turn in _TURNS if turn != step.lower()]) if place == changed else rng.choice(_TURNS)
        for place, step in enumerate(steps)
    ]
    titled = steps[0] != steps[0].lower()
    return ", ".join(turn.title() if titled else turn for turn in turns)


def _reordered(record: Record, rng: random.Random) -> str:
    right = [name.strip() for name in record.ground_truth.split(",")]
    said = [name.lower() for name in right]
    if len(set(said)) < 2:
        raise _no_other(record)
    wrong = list(right)
    while [name.lower() for name in wrong] == said:  # ends: of two names or more, one other order in two
        rng.shuffle(wrong)
    return ", ".join(wrong)


def _no_other(record: Record) -> UserError:
    return UserError(
        f"record {record.key} ({record.scene}): no wrong answer can be made from "
        f"{record.ground_truth!r} for {record.question_type}; fix the record, or take DPO pairs from rollouts"
    )
