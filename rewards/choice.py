"""The reward for questions answered by an option or a word."""

from __future__ import annotations

from typing import ClassVar

from harness.api import Record, Reward, matches


class Choice(Reward):
    """1 for the right option letter or the right words, read as the study's scorer reads them; else 0.

    Does not apply to numeric questions. Source: arXiv 2504.00883, section 3.2, the accuracy reward
    for non-numeric questions (character matching). The paper trains without options.
    """

    summary: ClassVar[str] = "lettered and free-word answers: 1 if right, else 0"

    def score(self, text: str, record: Record, mode: str) -> float | None:
        return None if record.is_numeric else float(matches(self.read(text, record, mode), record))
