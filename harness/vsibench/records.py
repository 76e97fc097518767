"""One question about one video, in VSI-Bench's own schema."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field

from harness.vsibench.letters import option_words
from harness.vsibench.rooms import room_of
from harness.vsibench.types import LETTERS, NUMERIC_TYPES, QUESTION_TYPES, task_of

NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
"""A number in plain digits."""


class BadRecordError(Exception):
    """Why one record cannot be used, and the fix."""


class Record(BaseModel):
    """One question about one video.

    Field names are those of VSI-Bench. ``options`` is ``None`` for numeric questions and for
    training questions in free form (answered by words, as in VSI-100k).
    """

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: int | str
    dataset: str = Field(min_length=1)
    scene_name: str = Field(min_length=1)
    question_type: str
    question: str = Field(min_length=1)
    options: tuple[str, ...] | None = None
    ground_truth: str = Field(min_length=1)

    @property
    def key(self) -> str:
        """The id as text, unique within a file."""
        return str(self.id)

    @property
    def scene(self) -> str:
        """The name of its video, ``dataset/scene_name``."""
        return f"{self.dataset}/{self.scene_name}"

    @property
    def is_numeric(self) -> bool:
        """Whether the answer is a number: by VSI-Bench's types, of another by a truth in digits and no options."""
        if self.question_type in QUESTION_TYPES:
            return self.question_type in NUMERIC_TYPES
        return self.options is None and NUMBER.fullmatch(self.ground_truth) is not None

    @property
    def task(self) -> str:
        """The benchmark's task: the question type, except that the three direction levels are one task."""
        return task_of(self.question_type)

    @property
    def room(self) -> str:
        """The physical room, the cluster of every statistic."""
        return room_of(self.dataset, self.scene_name)

    @property
    def answer_words(self) -> str:
        """The correct answer in words: the option's text for a lettered question, else the ground truth."""
        if self.options is None:
            return self.ground_truth
        return option_words(self.options[LETTERS.index(self.ground_truth)])
