"""Training texts: every question in the forms that evaluation and post-training will use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

PREFIX_HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
PREFIX_TAIL = "<|vision_end|>"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"

OFFICIAL_START = "These are frames of a video.\n"
OFFICIAL_LETTER = "\nAnswer with the option's letter from the given choices directly."
OFFICIAL_SHORT = "\nPlease answer the question using a single word or phrase."
VANILLA = "Please provide the short answer with one or two words or a number."
THINK = (
    "Please think step by step and enclose your thinking process in <think> </think> tags and then "
    "provide the short answer with one or two words or a number in <answer> </answer>."
)
OBSERVE = (
    "Please observe carefully and analyze what you see that helps you to solve the question in the video "
    "and enclose it in <observe> </observe> tag, and then provide the short answer with one or two words "
    "or a number in <answer> </answer>."
)
"""Wordings of VSI-Bench (arXiv 2412.14171) and of arXiv 2504.00883, section 3.2."""

FORMS = ("official", "vanilla", "words", "think", "observe")
"""official: the benchmark's wording; vanilla: the training wording, with options if there are any; words:
the training wording without options, answered in words; think, observe: the tagged modes."""


def texts(record: dict[str, Any], form: str) -> tuple[str, str]:
    """The user's text and the answer of a record in a form."""
    question, options = record["question"], record["options"]
    listed = "" if options is None else "\nOptions:\n" + "\n".join(options)
    answer = record["ground_truth"]
    if form == "official":
        ending = OFFICIAL_SHORT if options is None else OFFICIAL_LETTER
        return f"{OFFICIAL_START}{question}{listed}{ending}", answer
    if form == "vanilla":
        return f"{question}{listed}\n{VANILLA}", answer
    words = answer if options is None else options["ABCD".index(answer)][3:]
    if form == "words":
        return f"{question}\n{VANILLA}", words
    tag, wording = ("think", THINK) if form == "think" else ("observe", OBSERVE)
    return f"{question}{listed}\n{wording}", f"<{tag}>{words}</{tag}><answer>{answer}</answer>"


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
