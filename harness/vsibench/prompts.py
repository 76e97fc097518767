"""The words of every prompt: the benchmark's official wording and the paper's three training wordings.

Official: VSI-Bench section 4.1 and its evaluation code; cot: its chain of thought (arXiv 2412.14171), whose answer a
second turn asks for (the second turn's words are not published; ours). Vanilla, think and observe: arXiv 2504.00883
section 3.2, word for word. A change of any wording must change :data:`PROMPTS_VERSION`.
"""

from __future__ import annotations

import hashlib
import json
import re

from harness.errors import unknown_name
from harness.vsibench.records import Record

PROMPTS_VERSION = "1"
"""Part of every prompt's id, so that answers to other words are never mixed."""

MODES: tuple[str, ...] = ("official", "vanilla", "think", "observe", "cot")
"""Ways to put a question."""

MODE_LETTER: dict[str, str] = {"official": "V", "vanilla": "V", "think": "T", "observe": "O", "cot": "T"}
"""The mode in the paper's "Eval mode" column; the official wording asks for the bare answer, as vanilla."""

SYSTEM = "You are a helpful assistant."
"""Qwen2-VL's system message."""

_PREFIX = "These are frames of a video.\n"
_OPTIONS = "Options:\n"
_OFFICIAL_CHOICE = "Answer with the option's letter from the given choices directly."
_OFFICIAL_WORDS = "Please answer the question using a single word or phrase."
_COT = "Let's think step by step."
_SECOND_TURN = "Give the final answer to the question from what you wrote above.\n"
_TRAINING: dict[str, str] = {
    "vanilla": "Please provide the short answer with one or two words or a number.",
    "think": "Please think step by step and enclose your thinking process in <think> </think> tags and then "
    "provide the short answer with one or two words or a number in <answer> </answer>.",
    "observe": "Please observe carefully and analyze what you see that helps you to solve the question in the "
    "video and enclose it in <observe> </observe> tag, and then provide the short answer with one or two "
    "words or a number in <answer> </answer>.",
}
_TAGGED_ANSWER = "<answer>{}</answer>"
_IN_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def prompt_text(record: Record, mode: str) -> str:
    """The user's words after the video.

    Raises:
        UserError: The mode is unknown.
    """
    _check(mode)
    options = "" if record.options is None else _OPTIONS + "\n".join(record.options) + "\n"
    if mode in _TRAINING:
        return f"{record.question}\n{options}{_TRAINING[mode]}"
    return f"{_PREFIX}{record.question}\n{options}{_COT if mode == 'cot' else _official_ask(record)}"


def second_turn_text(record: Record) -> str:
    """The user's words after a chain of thought: the answer alone, in the form that the benchmark asks for."""
    return _SECOND_TURN + _official_ask(record)


def _official_ask(record: Record) -> str:
    return _OFFICIAL_WORDS if record.options is None else _OFFICIAL_CHOICE


def answer_text(words: str, mode: str) -> str:
    """The supervised answer: bare, or inside answer tags where the mode asks for tags.

    Data sets have no reasoning to imitate, so a think or observe block is never invented.

    Raises:
        UserError: The mode is unknown.
    """
    _check(mode)
    return _TAGGED_ANSWER.format(words) if mode in ("think", "observe") else words


def answer_in(text: str, mode: str) -> str:
    """What a model answered: in think and observe mode the content of its last answer tag, else all that it wrote.

    A text without a whole answer tag is returned as it is, so that what breaks the form is scored as it stands.

    Raises:
        UserError: The mode is unknown.
    """
    _check(mode)
    found = _IN_TAGS.findall(text) if mode in ("think", "observe") else []
    return found[-1].strip() if found else text


def prompts_digest() -> str:
    """SHA-256 over every wording, for the fairness card and for comparisons between runs."""
    wordings = [
        PROMPTS_VERSION,
        SYSTEM,
        _PREFIX,
        _OPTIONS,
        _OFFICIAL_CHOICE,
        _OFFICIAL_WORDS,
        _COT,
        _SECOND_TURN,
        _TRAINING,
        _TAGGED_ANSWER,
    ]
    return hashlib.sha256(json.dumps(wordings, sort_keys=True).encode()).hexdigest()


def _check(mode: str) -> None:
    if mode not in MODES:
        raise unknown_name(f"prompt mode {mode}", mode, MODES)
