"""No input without an end: pipes and devices are refused, and long answers are read in time."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import io
from harness.errors import UserError
from harness.io import read_lines, read_text, sha256_file, whole_lines
from harness.vsibench.answers import parse_answer, without_reasoning
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from rewards.format import is_tagged

READERS: list[Callable[[Path], object]] = [read_text, read_lines, whole_lines, sha256_file]


@pytest.fixture(autouse=True)
def _in_a_minute() -> Iterator[None]:
    """A read that waits for ever fails its test instead."""

    def fail(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("read", READERS)
def test_pipes_and_devices_are_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to(pipe)
    for path in (pipe, tmp_path / "link.jsonl", Path("/dev/zero")):
        with pytest.raises(UserError, match=r"a pipe or a device.*save"):
            read(path)


def test_a_text_beyond_the_bound_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"sparse.json`: its 1,099,511,627,776 bytes are more than .*split"):
        read_text(tmp_path / "sparse.json")
    monkeypatch.setattr(io, "_MOST_BYTES", 3)
    (tmp_path / "small").write_text("abc")
    assert read_text(tmp_path / "small") == "abc"


def record(question_type: str, truth: str, options: tuple[str, ...] | None = None) -> Record:
    values = {"id": 1, "dataset": "d", "scene_name": "s", "question": "?", "options": options}
    return Record(question_type=question_type, ground_truth=truth, **values)


PARTS = [
    *("{", "}", " *", "#### ", "\n", " ", "\t\n", "<think>", "<think></observe>", "</think>", "<answer>", "hundred "),
    *("thousand ", "one ", "\\boxed{", "\\text{", "1 or ", "1 ", "1,", "A ", "A or ", "_", "9", "1 m ", "'"),
]


@pytest.mark.parametrize("part", PARTS, ids=[str(number) for number in range(len(PARTS))])
def test_long_answers_are_read_in_time(part: str) -> None:
    """Patterns that try every way to part a run take minutes for 60,000 characters; seconds are allowed here."""
    answer = "1 " + part * (60_000 // len(part)) + "!"
    signal.alarm(30)
    for one in (record("object_abs_distance", "2.5"), record("route_planning", "A", ("A. Left", "B. Right"))):
        assert all(0 <= scorer.score(answer, one).score <= 1 for scorer in SCORERS.values())
    assert is_tagged(f"<think>{answer}</think><answer>{answer}</answer>", "think") in (True, False)


def test_blocks_of_reasoning_are_those_of_the_pattern() -> None:
    pattern = re.compile(r"<(think|observe)>.*?</\1>", re.IGNORECASE | re.DOTALL)
    parts = ["<think>", "</think>", "<observe>", "</observe>", "<THINK>", "</Think>", "a", "\n", "<answer>", "<think"]
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices(parts, k=draw.randrange(10)))
        assert without_reasoning(text) == pattern.sub(" ", text)


def test_a_space_of_any_length_is_a_space() -> None:
    one = record("object_abs_distance", "2.5")
    assert parse_answer("about" + " " * 500 + "2.5 m", one) == parse_answer("about 2.5 m", one) == 2.5
    assert parse_answer("250" + "\n" * 500 + "cm", one) == parse_answer("250\ncm", one)


def test_a_sum_of_number_words_beyond_floats_is_no_number() -> None:
    score = SCORERS["lmms-eval"].score("hundred " * 500, record("object_counting", "2"))
    assert score == (0.0, False)
