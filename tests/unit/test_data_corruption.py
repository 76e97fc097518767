"""Corrupted answers are of the same form as the right one, and wrong."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.data.corruption import corrupted_answer
from harness.errors import UserError
from harness.vsibench.records import Record


def record(question_type: str, truth: str, **fields: Any) -> Record:
    values = {"id": 5, "dataset": "world", "scene_name": "train_000001", "question": "What?", **fields}
    return Record(question_type=question_type, ground_truth=truth, **values)


def corrupted(of: Record, draws: int = 300) -> set[str]:
    rng = random.Random(0)
    return {corrupted_answer(of, rng) for _ in range(draws)}


def test_lettered_answers_become_every_other_letter() -> None:
    lettered = record("object_rel_direction_medium", "B", options=("A. left", "B. right", "C. back"))
    assert corrupted(lettered) == {"A", "C"}


def mean_relative_accuracy(answer: float, truth: float) -> float:
    """VSI-Bench's rule, written out."""
    thresholds = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    return sum(abs(answer - truth) / truth <= 1 - threshold for threshold in thresholds) / 10


@pytest.mark.parametrize("truth", ["1", "2", "3", "7", "113", "0.1", "0.3", "6.1", "47.90", "1e2"])
def test_numbers_score_zero_and_keep_their_decimals(truth: str) -> None:
    answers = corrupted(record("object_abs_distance", truth))
    decimals = len(truth.partition(".")[2])
    for answer in answers:
        assert float(answer) > 0
        assert mean_relative_accuracy(float(answer), float(truth)) == 0
        assert len(answer.partition(".")[2]) == decimals
    assert len(answers) > 1 or truth in ("0.1",)


@pytest.mark.parametrize(
    ("question_type", "truth", "wrong"),
    [
        ("object_rel_direction_easy", "left", {"right"}),
        ("object_rel_direction_medium", "Back", {"Left", "Right"}),
        ("object_rel_direction_hard", "front-left", {"front-right", "back-left", "back-right"}),
        ("route_planning", "Turn Left", {"Turn Right", "Turn Back"}),
        ("route_planning", "turn back", {"turn left", "turn right"}),
    ],
)
def test_words_become_other_words_of_the_type(question_type: str, truth: str, wrong: set[str]) -> None:
    assert corrupted(record(question_type, truth)) == wrong


def test_routes_keep_their_length() -> None:
    turns = ("Turn Left", "Turn Right", "Turn Back")
    every = {f"{one}, {two}" for one in turns for two in turns}
    assert corrupted(record("route_planning", "Turn Left, Turn Back")) == every - {"Turn Left, Turn Back"}


def test_objects_become_others_that_the_question_names() -> None:
    question = (
        "Measuring from the closest point of each object, which of these objects (chair, tv monitor, sink, bed) "
        "is the closest to the door?"
    )
    assert corrupted(record("object_rel_distance", "sink", question=question)) == {"chair", "tv monitor", "bed"}


def test_orders_become_other_orders() -> None:
    answers = corrupted(record("obj_appearance_order", "bed, sofa, lamp"))
    assert answers == {
        "bed, lamp, sofa",
        "sofa, bed, lamp",
        "sofa, lamp, bed",
        "lamp, bed, sofa",
        "lamp, sofa, bed",
    }


@pytest.mark.parametrize(
    "impossible",
    [
        record("object_rel_distance", "sink"),
        record("obj_appearance_order", "bed"),
        record("route_planning", "walk on"),
        record("object_rel_distance", "A", options=("A. sink",)),
        record("obj_appearance_order", "bed, Bed, BED"),
        record("object_abs_distance", "inf"),
        record("object_abs_distance", "nan"),
        record("object_abs_distance", "0"),
    ],
)
def test_no_other_answer_is_said(impossible: Record) -> None:
    with pytest.raises(UserError, match=r"record 5 \(world/train_000001\): no wrong answer"):
        corrupted_answer(impossible, random.Random(0))


@pytest.mark.parametrize("truth", ["0.01", "1e-2", "0.0001", "1e-05", "2.5e-07", "5e-324", "1e308", "1.7e308"])
def test_numbers_that_rounding_leaves_no_other_are_written_with_more_digits(truth: str) -> None:
    for answer in corrupted(record("object_abs_distance", truth), 20):
        assert 0 < float(answer) < float("inf")
        assert abs(float(answer) - float(truth)) > 0.5 * float(truth)


def test_the_names_of_a_long_list_are_found_in_time() -> None:
    question = f"{'a' * 300_000}. Which is nearest: the sink,, or a sofa, bed, or lamp?"
    assert corrupted(record("object_rel_distance", "bed", question=question), 30) == {"a sofa", "lamp"}


def test_the_same_seed_gives_the_same_answer() -> None:
    of = record("object_abs_distance", "6.1")
    assert corrupted_answer(of, random.Random(7)) == corrupted_answer(of, random.Random(7))
