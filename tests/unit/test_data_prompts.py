"""The words of every prompt, literally."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import UserError
from harness.vsibench import prompts
from harness.vsibench.prompts import (
    MODES,
    answer_in,
    answer_text,
    prompt_text,
    prompts_digest,
    second_turn_text,
)
from harness.vsibench.records import Record

LETTERED = Record(
    id=1,
    dataset="scannet",
    scene_name="scene0001_00",
    question_type="object_rel_distance",
    question="Which is the closest to the sink?",
    options=("A. chair", "B. table"),
    ground_truth="B",
)
NUMERIC = LETTERED.model_copy(
    update={"question_type": "object_counting", "question": "How many?", "options": None, "ground_truth": "4"}
)
FREE = LETTERED.model_copy(update={"options": None, "ground_truth": "table"})

VANILLA = "Please provide the short answer with one or two words or a number."
THINK = (
    "Please think step by step and enclose your thinking process in <think> </think> tags and then provide "
    "the short answer with one or two words or a number in <answer> </answer>."
)
OBSERVE = (
    "Please observe carefully and analyze what you see that helps you to solve the question in the video and "
    "enclose it in <observe> </observe> tag, and then provide the short answer with one or two words or a "
    "number in <answer> </answer>."
)


def test_the_official_wording_is_the_benchmarks() -> None:
    assert prompt_text(LETTERED, "official") == (
        "These are frames of a video.\nWhich is the closest to the sink?\nOptions:\nA. chair\nB. table\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert prompt_text(NUMERIC, "official") == (
        "These are frames of a video.\nHow many?\nPlease answer the question using a single word or phrase."
    )
    assert prompt_text(FREE, "official").endswith("sink?\nPlease answer the question using a single word or phrase.")


@pytest.mark.parametrize(("mode", "wording"), [("vanilla", VANILLA), ("think", THINK), ("observe", OBSERVE)])
def test_the_training_wordings_are_the_papers(mode: str, wording: str) -> None:
    assert prompt_text(FREE, mode) == "Which is the closest to the sink?\n" + wording
    assert prompt_text(LETTERED, mode) == (
        "Which is the closest to the sink?\nOptions:\nA. chair\nB. table\n" + wording
    )


def test_a_chain_of_thought_is_asked_for_first_and_then_the_answer_alone() -> None:
    assert prompt_text(LETTERED, "cot") == (
        "These are frames of a video.\nWhich is the closest to the sink?\nOptions:\nA. chair\nB. table\n"
        "Let's think step by step."
    )
    assert second_turn_text(LETTERED).endswith(
        "above.\nAnswer with the option's letter from the given choices directly."
    )
    assert second_turn_text(NUMERIC).endswith("above.\nPlease answer the question using a single word or phrase.")


def test_gold_answers_are_tagged_where_the_mode_asks_for_tags() -> None:
    assert [answer_text("4", mode) for mode in MODES] == ["4", "4", "<answer>4</answer>", "<answer>4</answer>", "4"]


def test_modes_have_the_papers_letters() -> None:
    assert [mode.letter for mode in MODES.values()] == ["V", "V", "T", "O", "T"]


def test_an_unknown_mode_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean think"):
        prompt_text(FREE, "thinks")
    with pytest.raises(UserError, match="did you mean official"):
        answer_text("4", "oficial")


def test_the_digest_changes_with_any_word(monkeypatch: pytest.MonkeyPatch) -> None:
    before = prompts_digest()
    assert before == prompts_digest()
    assert len(before) == 64
    monkeypatch.setitem(prompts.MODES, "think", replace(prompts.MODES["think"], instruction=THINK + " "))
    assert prompts_digest() != before


@pytest.mark.parametrize(
    ("text", "mode", "answer"),
    [
        ("<think>5</think><answer> 3 </answer>", "think", "3"),
        ("<observe>a\nb</observe>\n<answer>B. sofa</answer>", "observe", "B. sofa"),
        ("<answer>1</answer> or <answer>2</answer>", "think", "2"),
        ("<think>5</think><answer>3", "think", "<think>5</think><answer>3"),
        ("<think>I put it in <answer> tags: 5</think><answer>3</answer>", "think", "3"),
        ("<answer><answer>3</answer></answer>", "think", "3"),
        ("4", "think", "4"),
        ("<answer>3</answer>", "official", "<answer>3</answer>"),
    ],
)
def test_the_answer_is_read_from_its_tag_where_tags_are_asked_for(text, mode, answer):
    assert answer_in(text, mode) == answer
    assert answer_in(answer_text("7.5", mode), mode) == "7.5"
