"""Training texts: every question in the forms that evaluation and post-training will use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from harness.vsibench.prompts import SYSTEM, prompt_text
from harness.vsibench.records import Record

PREFIX_HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
PREFIX_TAIL = "<|vision_end|>"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"

FORMS = ("official", "vanilla", "words", "think", "observe")
"""official: the benchmark's wording; vanilla: the training wording, with options if there are any; words:
the training wording without options, answered in words; think, observe: the tagged modes."""


def texts(record: dict[str, Any], form: str) -> tuple[str, str]:
    """The user's text and the answer of a record in a form."""
    asked = Record(**record)
    words, answer = asked.answer_words, asked.ground_truth
    if form == "words":
        return prompt_text(asked.model_copy(update={"options": None}), "vanilla"), words
    if form in ("think", "observe"):
        return prompt_text(asked, form), f"<{form}>{words}</{form}><answer>{answer}</answer>"
    return prompt_text(asked, form), answer


def encode_forms(
    record: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> dict[str, tuple[NDArray[np.int16], int]]:
    """Token ids after the video and the index of the first answer token, for every form of a record."""
    forms = {}
    for form in FORMS:
        if form == "words" and record["options"] is None:
            continue
        text, answer = texts(record, form)
        prompt = tokenizer.encode(text + TURN)
        forms[form] = (np.array(prompt + tokenizer.encode(answer + END), np.int16), len(prompt))
    return forms


def prefix_ids(tokenizer: PreTrainedTokenizerBase, video_tokens: int) -> list[int]:
    """Token ids from the system turn to the end of the video."""
    return tokenizer.encode(PREFIX_HEAD + "<|video_pad|>" * video_tokens + PREFIX_TAIL)
