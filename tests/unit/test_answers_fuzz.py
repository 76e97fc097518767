"""Properties of reading answers, on seeded variations."""

import json
import math
import random
import string
import time
from itertools import pairwise
from pathlib import Path

import pytest

from harness.vsibench.answers import parse_letter, parse_number
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.vsibench.types import NUMERIC_TYPES

OPTIONS = ("A. tv", "B. chair", "C. table", "D. sofa")
TARGETS = {"distance": "m", "size": "cm", "room": "m2", "count": None}
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "answers.json").read_text(encoding="utf-8"))["rows"]
SPECIAL = set("<>{}\\$\"'`*_#′″“”‘’\n")


def count(truth: str = "4") -> Record:
    return Record(id=1, dataset="d", scene_name="s", question_type=NUMERIC_TYPES[0], question="q", ground_truth=truth)


def read(answer: str, kind: str) -> float | str | None:
    return parse_letter(answer, OPTIONS) if kind == "choice" else parse_number(answer, TARGETS[kind])


MARKUP = (
    " {} ", "\n{}\n", "**{}**", "`{}`", "*{}*", "_{}_", '"{}"', "“{}”", "\\boxed{{{}}}", "$\\boxed{{\\text{{{}}}}}$",
    "<b>{}</b>", "Answer: {}", "The answer is: {}", "**Final answer:** {}", "# {}",
)  # fmt: skip
TAGS = (
    "{}", "<answer>{}</answer>", "<answer>{}", "{}</answer>", "<think>A or 7 m</think>{}", "{}<|im_end|>",
    "<think>A or 7 m</think>\n<answer>{}</answer>",
)  # fmt: skip


def test_what_wraps_an_answer_does_not_change_its_reading() -> None:
    rng, changed = random.Random(0), []
    for answer, kind, mode, person, read_too, *_ in GOLDEN:
        two_letters = person is not None and not read_too and kind == "choice"  # one of them is final after "answer is"
        plain = answer.strip() and not SPECIAL & set(answer) and "answer" not in answer
        if kind == "words" or mode != "official" or two_letters or not plain:
            continue
        for _ in range(4):
            wrapped = answer
            for wrapper in rng.sample(MARKUP, rng.randint(0, 3)):
                if "boxed" not in wrapped or "boxed" not in wrapper:
                    wrapped = wrapper.format(wrapped)
            wrapped = rng.choice(TAGS).format(wrapped)
            if read(wrapped, kind) != read(answer, kind):
                changed.append((wrapped, kind, read(answer, kind), read(wrapped, kind)))
    assert changed == []


def test_two_letters_are_no_answer() -> None:
    rng = random.Random(1)
    joins = (
        " or ",
        " and ",
        ", ",
        "/",
        " / ",
        ") or (",
        "; ",
        " & ",
        " ",
        ", or ",
        ", maybe ",
        " or maybe ",
        "\n",
        " - ",
    )
    frames = (
        "{}", "{}.", "({})", "**{}**", "Both {}", "Either {}", "Neither {}", "It is {}", "I think it is {}",
        "Options {}",
        "Answer: {}", "The answer is {}", "<answer>{}</answer>", "\\boxed{{{}}}", "Option {} is right", "{}, I guess",
    )  # fmt: skip
    for _ in range(2000):
        letters = rng.sample("ABCD", rng.choice((2, 2, 3)))
        answer = rng.choice(frames).format(rng.choice(joins).join(letters))
        assert parse_letter(answer, OPTIONS) is None, answer


def test_an_article_never_makes_a_letter() -> None:
    rng = random.Random(2)
    nouns = (
        "dog",
        "window",
        "bookshelf",
        "large door",
        "TV stand",
        "bed",
        "L-shaped desk",
        "lamp",
        "Persian rug",
        "40-inch screen",
    )
    tails = (
        "",
        ".",
        " is closest to it",
        " on the left",
        " next to the window",
        ", I think",
        " stands there",
        "!",
        "\nIt is near.",
    )
    starts = ("", "Answer: ", "The answer is ", "It is ", "I see ", "<answer>", "**", "Probably ", "Option: ", "- ")
    for _ in range(2000):
        said = rng.choice(nouns) + rng.choice(tails)
        start = rng.choice(starts)
        for article in ("A", "a", "An", "The"):
            answer = f"{start}{article} {said}"
            assert parse_letter(answer, OPTIONS) is parse_letter(start + said, OPTIONS) is None, answer


def digits_of(text: str, zero: str) -> str:
    return "".join(chr(ord(zero) + int(letter)) if letter.isascii() and letter.isdigit() else letter for letter in text)


def test_tolerant_reads_every_number_that_the_official_rule_reads() -> None:
    rng = random.Random(3)
    tails = (
        "",
        ".",
        "...",
        "\n",
        " ",
        " chairs",
        " chairs.",
        " in total",
        " (counted twice)",
        " of them",
        ", I think",
        "\nbecause",
    )
    read_by_official = 0
    for _ in range(4000):
        value = rng.choice((rng.randint(0, 30), rng.randint(0, 10**6), round(rng.uniform(0, 50), 2), rng.uniform(0, 1)))
        number = rng.choice(
            (
                repr(value),
                f"{value:e}",
                f"{value:.3f}",
                f"{value:_}",
                f"+{value}",
                f"-{value}",
                f"0{value}",
                f"{value:E}",
            )
        )
        number = number.lstrip("0") if rng.random() < 0.1 and number.startswith("0.") else number
        answer = digits_of(number, rng.choice("000０٠०๐𝟎")) + rng.choice(tails)
        official = SCORERS["official"].parse(answer, count())
        if official is not None:
            read_by_official += 1
            assert SCORERS["tolerant"].parse(answer, count()) == official, answer
    assert read_by_official > 2000


METRES = {
    "": None,
    " m": 1.0,
    "m": 1.0,
    " cm": 0.01,
    "cm": 0.01,
    " mm": 0.001,
    " ft": 0.3048,
    " inches": 0.0254,
    " yards": 0.9144,
}


@pytest.mark.parametrize(("kind", "metres"), [("distance", 1.0), ("size", 0.01), ("count", None)])
def test_no_number_is_read_that_the_text_does_not_give(kind: str, metres: float | None) -> None:
    """Every reading is one of the given lengths in the unit asked for, or the sum of two that follow each other."""
    rng, found = random.Random(4), 0
    between = (
        " chairs ", ", ", " or ", " and ", " - ", " to ", " by ", ". ", " near the ", " (", ") ", " x ", "; ", " = ",
        " of ",
        " about ", " not ", " more than ", " is ", " while the sofa is ", "\n", " / ", "–", "~", ": ",
    )  # fmt: skip
    for _ in range(6000):
        parts = [
            (rng.choice((rng.randint(1, 99), round(rng.uniform(0, 9), 1))), rng.choice(list(METRES)))
            for _ in range(rng.randint(1, 3))
        ]
        text = rng.choice(("", "There are ", "It is ", "The tv is ", "about "))
        text += rng.choice(between).join(f"{value}{unit}" for value, unit in parts) + rng.choice(
            ("", ".", " wide", " chairs")
        )
        given = [
            float(value) if METRES[unit] is None or metres is None else value * METRES[unit] / metres
            for value, unit in parts
        ]
        allowed = [*given, *(a + b for a, b in pairwise(given)), *(-value for value in given)]
        number = read(text, kind)
        if number is not None:
            found += 1
            assert any(math.isclose(number, value, rel_tol=1e-9) for value in allowed), (text, number)
    assert found > 1000


def test_nothing_that_is_written_breaks_the_reading() -> None:
    rng = random.Random(5)
    pieces = [
        *string.printable,
        *"½²٤４五′\u200b\ud83d",
        *["nan", "inf", "1e", " cm", "A ", "B. ", "twenty ", "hundred ", "point "],
    ]
    pieces += [
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "\\boxed{",
        "\\frac{1}{",
        " and a half",
        "9" * 50,
        "answer is ",
    ]
    for _ in range(1500):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 25)))
        for kind in TARGETS:
            number = read(text, kind)
            assert number is None or math.isfinite(number), text
        letter = parse_letter(text, OPTIONS)
        assert letter is None or letter in "ABCD", text
        for scorer in SCORERS.values():
            assert 0 <= scorer.score(text, count()).score <= 1, text


@pytest.mark.parametrize(
    "piece", ["twenty ", "1 ", "9", "1,", "<answer>", "A ", "1 m ", "'", "(", "\\boxed{", "and ", "5' ", "it is "]
)
def test_long_answers_are_read_in_linear_time(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    started = time.process_time()
    for kind in (*TARGETS, "choice"):
        read(text, kind)
    assert time.process_time() - started < 3
