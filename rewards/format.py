"""The reward for the format that a prompt mode asks for."""

from __future__ import annotations

import re
from typing import ClassVar

from harness.api import Record, Reward
from harness.vsibench.prompts import mode_named


class Format(Reward):
    """1 if the completion is one filled reasoning block and then one filled answer block, else 0.

    The reasoning tag is that of the prompt mode, ``<think>`` or ``<observe>``. Each of the four tags
    must occur exactly once and both blocks must contain a letter or digit, because models have been seen to
    collect this reward with empty or repeated tags (arXiv 2504.00883, section 3.3). Source of the 0/1
    reward and of its absence in vanilla mode: section 3.2 of the same paper.
    """

    summary: ClassVar[str] = "think and observe modes: 1 if the tags are as asked, else 0"

    def score(self, text: str, record: Record, mode: str) -> float | None:
        tag = mode_named(mode).tag
        return None if tag is None else float(is_tagged(text, tag))


def is_tagged(text: str, tag: str) -> bool:
    """Whether a text is ``<tag>...</tag> <answer>...</answer>``, once each, filled, and nothing else."""
    once = all(text.count(mark) == 1 for name in (tag, "answer") for mark in (f"<{name}>", f"</{name}>"))
    blocks = re.fullmatch(rf"\s*<{tag}>(.*)</{tag}>\s*<answer>(.*)</answer>\s*", text, re.DOTALL)
    return once and blocks is not None and all(any(map(str.isalnum, part)) for part in blocks.groups())
