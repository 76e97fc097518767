"""The checks of a reward: configuration, return values, and that a right answer is worth more."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from itertools import product

from harness.api.testing.checks import ContractError, InapplicableError, Subject, config_is_documented, config_is_strict
from harness.data.corruption import corrupted_answer
from harness.vsibench.prompts import MODES, answer_text
from harness.vsibench.records import Record

_CHOICE = ("A. chair", "B. sofa", "C. table", "D. lamp")
RECORDS = tuple(
    Record(
        id=number,
        dataset="world",
        scene_name="check",
        question_type=kind,
        question="How many chairs are there?" if options is None else "Which of these is the closest to the door?",
        options=options,
        ground_truth=truth,
    )
    for number, (kind, options, truth) in enumerate(
        (("object_counting", None, "4"), ("room_size_estimation", None, "23.5"), ("object_rel_distance", _CHOICE, "B"))
    )
)
HOSTILE = (
    "",
    " ",
    "\n",
    "nan",
    "-inf",
    "1e999",
    "<answer>",
    "</think><answer></answer>",
    "𝟜",
    "١٢",
    "4" * 5000,
    "B. " * 99,
)


def returns_numbers(subject: Subject) -> None:
    """``score`` returns a finite float or None for any text."""
    reward = subject.new()
    for record, mode in product(RECORDS, MODES):
        for text in (*HOSTILE, answer_text(record.ground_truth, mode)):
            value = reward.score(text, record, mode)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise ContractError(
                    f"`score` returned {value!r} for the answer {text[:40]!r} to {record.question_type}: "
                    "return a finite float, or None if the reward does not apply"
                )


def repeats_itself(subject: Subject) -> None:
    """Equal completions get equal rewards, also from a new instance."""
    reward = subject.new()
    for record, mode in product(RECORDS, MODES):
        text = answer_text(record.ground_truth, mode)
        values = {one.score(text, record, mode) for one in (reward, reward, subject.new())}
        if len(values) > 1:
            raise ContractError(
                f"the same completion got the rewards {sorted(map(str, values))}: does `score` draw random numbers "
                "or keep state between calls?"
            )


def prefers_right(subject: Subject) -> None:
    """A right answer never gets less than a wrong one of the same form, and sometimes more."""
    reward = subject.new()
    better = 0
    for record, mode in product(RECORDS, MODES):
        wrong = corrupted_answer(record, random.Random(0))
        right, other = (reward.score(answer_text(words, mode), record, mode) for words in (record.ground_truth, wrong))
        if right is None or other is None:
            continue
        if right < other:
            raise ContractError(
                f"{record.question_type}: the right answer {record.ground_truth!r} gets {right}, the wrong one "
                f"{wrong!r} gets {other}: is a distance returned instead of a reward, or a sign flipped?"
            )
        better += right > other
    if not better:
        raise InapplicableError("the reward does not depend on whether an answer is right (a format or length reward)")


REWARD_CHECKS: Mapping[str, Callable[[Subject], None]] = {
    "config": config_is_strict,
    "documentation": config_is_documented,
    "values": returns_numbers,
    "repeatable": repeats_itself,
    "direction": prefers_right,
}
"""All checks by name, in the order of reports."""
