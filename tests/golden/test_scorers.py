import json
import math
from pathlib import Path

import pytest

from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS

OPTIONS = ("A. chair", "B. table", "C. lamp", "D. sofa")
RULES = json.loads(Path(__file__).with_name("scorer_rules.json").read_text(encoding="utf-8"))


def numeric(truth: str | float, kind: str = "object_counting") -> Record:
    return Record(id=1, dataset="d", scene_name="s", question_type=kind, question="q", ground_truth=truth)


def lettered(truth: str) -> Record:
    return Record(
        id=1, dataset="d", scene_name="s", question_type="route_planning", question="q", options=OPTIONS,
        ground_truth=truth,
    )  # fmt: skip


# Answer, question type, and what each rule reads (None: nothing it can use).
NUMERIC_CASES = [
    ("4", "object_counting", 4, 4, 4),
    ("4.", "object_counting", 4, 4, 4),
    ("three", "object_counting", None, 3, 3),
    ("Three chairs.", "object_counting", None, 3, 3),
    ("There are 3 chairs", "object_counting", None, 3, 3),
    ("about 7.2 meters", "object_abs_distance", None, 7.2, 7.2),
    ("2m", "object_abs_distance", None, 2, 2),
    ("150cm", "object_abs_distance", None, 150, 1.5),
    ("150cm", "object_size_estimation", None, 150, 150),
    ("2 meters away", "object_abs_distance", 2, 2, 2),
    ("**4**", "object_counting", None, 4, 4),
    ("4\nbecause", "object_counting", None, 4, 4),
    ("  4", "object_counting", None, 4, 4),
    ("4 ", "object_counting", 4, 4, 4),
    ("4\n", "object_counting", 4, 4, 4),
    ("-3", "object_counting", -3, -3, -3),
    (".5", "object_abs_distance", 0.5, 5, 0.5),
    ("1e2", "object_size_estimation", 100, 1, 100),
    ("1,200", "object_size_estimation", None, 1, 1200),
    ("nan", "object_counting", None, None, None),
    ("inf", "object_counting", None, None, None),
    ("-inf", "object_counting", None, None, None),
    ("<think>2 sofas</think><answer>5</answer>", "object_counting", None, 5, 5),
    ("3-4", "object_counting", None, 3, None),
    ("2 to 3", "object_counting", 2, 2, None),
    ("one apple, room 2", "object_counting", None, 1, 1),
    ("twenty-one", "object_counting", None, 21, 21),
    ("three hundred and twenty-one", "object_counting", None, 321, 321),
    ("two, three", "object_counting", None, 5, None),
    ("", "object_counting", None, None, None),
    ("a few", "object_counting", None, None, None),
]


@pytest.mark.parametrize(("answer", "kind", "official", "lmms", "tolerant"), NUMERIC_CASES)
def test_what_each_rule_reads_as_a_number(
    answer: str, kind: str, official: float | None, lmms: float | None, tolerant: float | None
) -> None:
    for name, value in (("official", official), ("lmms-eval", lmms), ("tolerant", tolerant)):
        scored = SCORERS[name].score(answer, numeric(4, kind))
        assert scored.parsed is (value is not None), name
        if value is None:
            assert scored.score == 0.0, name
            continue
        assert SCORERS[name].parse(answer, numeric(4, kind)) == pytest.approx(value), name
        # Positive readings score 1 where they are the truth.
        if value > 0:
            assert SCORERS[name].score(answer, numeric(value, kind)).score == 1.0, name
        else:
            assert scored.score == 0.0, name


@pytest.mark.parametrize(
    ("answer", "official", "lmms", "tolerant"),
    [
        ("A", 1, 1, 1),
        ("a", 1, 1, 1),
        ("A.", 1, 1, 1),
        ("A...", 1, 1, 1),
        ("A. chair", 1, 1, 1),
        ("A chair", 1, 1, 1),
        ("A\n", 1, 1, 1),
        ("A.\n", 0, 1, 1),
        ("(A)", 0, 0, 1),
        ("A)", 0, 0, 1),
        ("A:", 0, 0, 1),
        ("A, because", 0, 0, 1),
        ("**A**", 0, 0, 1),
        (" A", 0, 1, 1),
        ("The answer is A", 0, 0, 1),
        ("<answer>A</answer>", 0, 0, 1),
        ("<think>B</think><answer>A</answer>", 0, 0, 1),
        ("chair", 0, 0, 1),
        ("B", 0, 0, 0),
        ("E", 0, 0, 0),
        ("", 0, 0, 0),
        ("no idea", 0, 0, 0),
    ],
)
def test_letters(answer: str, official: int, lmms: int, tolerant: int) -> None:
    assert SCORERS["official"].score(answer, lettered("A")).score == official
    assert SCORERS["lmms-eval"].score(answer, lettered("A")).score == lmms
    assert SCORERS["tolerant"].score(answer, lettered("A")).score == tolerant


@pytest.mark.parametrize(
    ("answer", "official", "tolerant"),
    [("B", True, True), ("E", False, False), ("(B)", False, True), ("", False, False), ("I cannot see", False, False)],
)
def test_readable_letters(answer: str, official: bool, tolerant: bool) -> None:
    assert SCORERS["official"].score(answer, lettered("A")).parsed is official
    assert SCORERS["lmms-eval"].score(answer, lettered("A")).parsed is official
    assert SCORERS["tolerant"].score(answer, lettered("A")).parsed is tolerant


@pytest.mark.parametrize(
    ("answer", "truth", "expected"), [("2", 4, 0.1), ("3", 4, 0.6), ("0", 4, 0.0), ("nan", 4, 0.0), ("inf", 4, 0.0)]
)
def test_boundaries_of_mean_relative_accuracy(answer: str, truth: float, expected: float) -> None:
    for scorer in SCORERS.values():
        assert scorer.score(answer, numeric(truth)).score == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("row", RULES["rows"], ids=range(len(RULES["rows"])))
def test_equal_to_the_sources(row: list) -> None:
    answer, number, letter, official, lmms, official_choice, lmms_choice = row
    assert SCORERS["official"].score(answer, numeric(number)).score == pytest.approx(official, abs=1e-12)
    assert SCORERS["lmms-eval"].score(answer, numeric(number)).score == pytest.approx(lmms, abs=1e-12)
    assert SCORERS["official"].score(answer, lettered(letter)).score == official_choice
    assert SCORERS["lmms-eval"].score(answer, lettered(letter)).score == lmms_choice


def test_free_words() -> None:
    free = Record(
        id=1, dataset="d", scene_name="s", question_type="object_rel_direction_hard", question="q",
        ground_truth="front-left",
    )  # fmt: skip
    assert SCORERS["official"].score("Front-left.", free) == (1.0, True)
    assert SCORERS["official"].score("front left", free) == (0.0, True)
    assert SCORERS["tolerant"].score("The answer is front left", free) == (1.0, True)
    assert SCORERS["tolerant"].score("", free) == (0.0, False)


def test_scores_are_shares_and_names_agree() -> None:
    assert list(SCORERS) == ["official", "lmms-eval", "tolerant"]
    for name, scorer in SCORERS.items():
        assert scorer.name == name and scorer.version and scorer.summary
        for answer in ("4", "9" * 400, "1e999", "\x00", "<answer>" * 50, "twenty " * 200):
            score = scorer.score(answer, numeric(4)).score
            assert 0 <= score <= 1 and math.isfinite(score)
