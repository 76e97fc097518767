"""Prompt modes: the benchmark's own wordings and the three training wordings of arXiv 2504.00883.

Official: VSI-Bench section 4.1 and its evaluation code; cot: its chain of thought (arXiv 2412.14171), where a second
turn asks for the answer (the second turn's wording is not published; ours). Vanilla, think and observe: arXiv
2504.00883 section 3.2, word for word. A change of any wording must change :data:`PROMPTS_VERSION`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import unknown_name
from harness.vsibench.letters import option_words
from harness.vsibench.records import Record
from harness.vsibench.types import LETTERS

PROMPTS_VERSION = "1"
"""Part of every prompt's id, so that answers to different wordings are never mixed."""

SYSTEM = "You are a helpful assistant."
"""Qwen2-VL's system message."""

_COT = "Let's think step by step."
_SECOND_TURN = "Give the final answer to the question from what you wrote above.\n"
_TAGGED_ANSWER = "<answer>{}</answer>"
_IN_TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Wording:
    """A benchmark's own words around a question, in the modes official and cot.

    Attributes:
        prefix: Before the question.
        options: Before the list of options.
        option: An option in the list, of its ``letter`` and ``text``.
        choice: After the options.
        number: After a question whose answer is a number.
        words: After one whose answer is words.
    """

    prefix: str = "These are frames of a video.\n"
    options: str = "Options:\n"
    option: str = "{letter}. {text}"
    choice: str = "Answer with the option's letter from the given choices directly."
    number: str = "Please answer the question using a single word or phrase."
    words: str = "Please answer the question using a single word or phrase."

    def listed(self, record: Record) -> str:
        """The options of a question, a line each; empty without any."""
        if record.options is None:
            return ""
        shown: Iterable[str] = record.options  # as records have them
        if self.option != OFFICIAL.option:
            texts = zip(LETTERS, map(option_words, record.options), strict=False)
            shown = (self.option.replace("{letter}", letter).replace("{text}", text) for letter, text in texts)
        return self.options + "\n".join(shown) + "\n"

    def ask(self, record: Record) -> str:
        """What asks for the answer alone."""
        if record.options is not None:
            return self.choice
        return self.number if record.is_numeric else self.words


OFFICIAL = Wording()
"""VSI-Bench's own wording."""


@dataclass(frozen=True)
class PromptMode:
    """One way to ask a question.

    Attributes:
        name: As in study files, variants and prompt ids.
        letter: The mode in the "Eval mode" column of arXiv 2504.00883; official asks for the bare answer, as vanilla.
        instruction: The last sentence of a training wording; None for the benchmark's wordings, which have a frame
            sentence and ask by the kind of question.
        tag: The tag that encloses the reasoning, before an ``<answer>`` tag; None where no tags are asked for.
        reasons: Whether the model writes its reasoning, and so more than a bare answer.
        training: Whether the mode can be trained on; every mode can be evaluated.
    """

    name: str
    letter: str
    instruction: str | None = None
    tag: str | None = None
    reasons: bool = False
    training: bool = True


MODES: dict[str, PromptMode] = {
    mode.name: mode
    for mode in (
        PromptMode("official", "V"),
        PromptMode("vanilla", "V", "Please provide the short answer with one or two words or a number."),
        PromptMode(
            "think",
            "T",
            "Please think step by step and enclose your thinking process in <think> </think> tags and then "
            "provide the short answer with one or two words or a number in <answer> </answer>.",
            tag="think",
            reasons=True,
        ),
        PromptMode(
            "observe",
            "O",
            "Please observe carefully and analyze what you see that helps you to solve the question in the "
            "video and enclose it in <observe> </observe> tag, and then provide the short answer with one or two "
            "words or a number in <answer> </answer>.",
            tag="observe",
            reasons=True,
        ),
        PromptMode("cot", "T", reasons=True, training=False),
    )
}
"""All modes by name; the one place that lists them."""

TRAINING_MODES: tuple[str, ...] = tuple(mode.name for mode in MODES.values() if mode.training)
"""Names of the modes that prompts can be trained in."""


def mode_named(name: str) -> PromptMode:
    """The mode of a name.

    Raises:
        UserError: The mode is unknown.
    """
    if name not in MODES:
        raise unknown_name(f"prompt mode {name}", name, MODES)
    return MODES[name]


def prompt_text(record: Record, mode: str, wording: Wording = OFFICIAL) -> str:
    """The user's text after the video.

    Args:
        record: The question.
        mode: The prompt mode.
        wording: The benchmark's own words, which the modes official and cot use.

    Raises:
        UserError: The mode is unknown.
    """
    asked = mode_named(mode)
    if asked.instruction is not None:
        return f"{record.question}\n{OFFICIAL.listed(record)}{asked.instruction}"
    last = _COT if asked.reasons else wording.ask(record)
    return f"{wording.prefix}{record.question}\n{wording.listed(record)}{last}"


def second_turn_text(record: Record, wording: Wording = OFFICIAL) -> str:
    """The user's text after a chain of thought: it asks for the answer alone, in the benchmark's form."""
    return _SECOND_TURN + wording.ask(record)


def answer_text(words: str, mode: str) -> str:
    """The supervised answer: bare, or inside answer tags where the mode asks for tags.

    Data sets have no reasoning to imitate, so a think or observe block is never invented.

    Raises:
        UserError: The mode is unknown.
    """
    return _TAGGED_ANSWER.format(words) if mode_named(mode).tag else words


def answer_in(text: str, mode: str) -> str:
    """What a model answered: where the mode asks for tags the content of the last answer tag, else the whole text.

    A text without a complete answer tag is returned unchanged, so that a completion that breaks the form is scored
    as it was written.

    Raises:
        UserError: The mode is unknown.
    """
    found = _IN_TAGS.findall(text) if mode_named(mode).tag else []
    return found[-1].strip() if found else text


def prompts_digest() -> str:
    """SHA-256 over every wording, for the fairness card and for comparisons between runs."""
    wordings = [
        PROMPTS_VERSION,
        SYSTEM,
        OFFICIAL.prefix,
        OFFICIAL.options,
        OFFICIAL.choice,
        OFFICIAL.words,
        _COT,
        _SECOND_TURN,
        {mode.name: mode.instruction for mode in MODES.values() if mode.instruction is not None},
        _TAGGED_ANSWER,
    ]
    return hashlib.sha256(json.dumps(wordings, sort_keys=True).encode()).hexdigest()
