"""The reward of keeping the form that a prompt mode asks for."""

from __future__ import annotations

import re
from typing import ClassVar

from harness.api import Record, Reward
from harness.errors import unknown_name

TAGGED_MODES: tuple[str, ...] = ("think", "observe")
"""Prompt modes that ask for reasoning and an answer in tags."""

PLAIN_MODES: tuple[str, ...] = ("vanilla", "official", "cot")
"""Prompt modes that ask for no tags; the paper drops the format reward there."""


class Format(Reward):
    """1 if the completion is one filled reasoning block and then one filled answer block, else 0.

    The reasoning tag is that of the prompt mode, ``<think>`` or ``<observe>``. Each of the four tags
    must occur exactly once and both blocks must hold more than white space, because models were seen
    to win this reward by empty and by repeated tags (arXiv 2504.00883, section 3.3). Source of the 0/1
    reward and of its absence in vanilla mode: the same paper, section 3.2.
    """

    summary: ClassVar[str] = "think and observe modes: 1 if the tags are as asked, else 0"

    def score(self, text: str, record: Record, mode: str) -> float | None:
        if mode in PLAIN_MODES:
            return None
        if mode not in TAGGED_MODES:
            raise unknown_name(f"prompt mode {mode}", mode, TAGGED_MODES + PLAIN_MODES)
        return float(is_tagged(text, mode))


def is_tagged(text: str, tag: str) -> bool:
    """Whether a text is ``<tag>...</tag> <answer>...</answer>``, once each, filled, and nothing else."""
    once = all(text.count(mark) == 1 for name in (tag, "answer") for mark in (f"<{name}>", f"</{name}>"))
    blocks = re.fullmatch(rf"\s*<{tag}>(.*)</{tag}>\s*<answer>(.*)</answer>\s*", text, re.DOTALL)
    return once and blocks is not None and all(part.strip() for part in blocks.groups())
