"""Which questions are VSI-Bench's: by what they ask, not by the name of their folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from harness.io import read_text
from harness.vsibench.records import Record

_DIGITS = 8
"""Hex digits of a SHA-256 kept of each question: a foreign one is taken for VSI-Bench's once in a million."""

_OTHERS = 0.05
"""Share of changed questions up to which a set counts as VSI-Bench with changes, which are then counted."""


class Part(NamedTuple):
    """How much of VSI-Bench a set of questions is.

    Attributes:
        questions: In the set.
        changed: Those of the set that differ from every question of VSI-Bench.
        total: Questions of VSI-Bench.
    """

    questions: int
    changed: int
    total: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the full benchmark, unchanged."""
        return self.questions == self.total and not self.changed

    @property
    def words(self) -> str:
        """What to add to the benchmark's name; empty for the full benchmark."""
        part = [f"{self.questions:,} of its {self.total:,} questions"] if self.questions != self.total else []
        return ", ".join([*part, *([f"{self.changed:,} questions changed"] if self.changed else [])])


def part_of_vsi_bench(records: Iterable[Record]) -> Part | None:
    """How much of VSI-Bench these questions are; None when they are other questions."""
    digests = [question_digest(record) for record in records]
    known, total = len(_published() & set(digests)), len(_published())
    changed = len(digests) - known
    return Part(len(digests), changed, total) if known and changed <= _OTHERS * len(digests) else None


def question_digest(record: Record) -> str:
    """A short digest of a question: room, type, words, options and answer; not its id, case, spaces or punctuation."""
    asked = [record.room, record.question_type, *map(_plain, (record.question, *(record.options or ())))]
    return sha256(json.dumps([*asked, record.ground_truth.strip()]).encode()).hexdigest()[:_DIGITS]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


@cache
def _published() -> frozenset[str]:
    """The digests of the 5,130 questions of nyu-visionx/VSI-Bench."""
    return frozenset(read_text(files(__package__).joinpath("vsi_bench_questions.txt")).split())
