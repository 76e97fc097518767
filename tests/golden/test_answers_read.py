"""What a careful person reads in 922 answers, what the two published rules read, and what ours read."""

import json
import math
from pathlib import Path

import pytest

from harness.api.reward import Reading, WeightedRewards
from harness.vsibench.answers import parse_answer
from harness.vsibench.prompts import answer_in
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from rewards.choice import Choice
from rewards.distance import Distance
from rewards.mra import MRA
from rewards.relative import RelativeError

TABLE = json.loads(Path(__file__).with_name("answers.json").read_text(encoding="utf-8"))
TYPES = {
    "count": "object_counting",
    "distance": "object_abs_distance",
    "size": "object_size_estimation",
    "room": "room_size_estimation",
    "choice": "object_rel_distance",
    "words": "object_rel_direction_hard",
}
Found = float | str | None


def record(kind: str, truth: str) -> Record:
    return Record(
        id=1, dataset="d", scene_name="s", question_type=TYPES[kind], question="q", ground_truth=truth,
        options=TABLE["options"] if kind == "choice" else None,
    )  # fmt: skip


def same(found: Found, expected: Found) -> bool:
    if isinstance(expected, int | float):
        return isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-6)
    if isinstance(found, float) and not math.isfinite(found):
        found = None  # both rules score it 0
    return found == expected


def rows(*kinds: str) -> list[list]:
    return [row for row in TABLE["rows"] if row[1] in (kinds or TYPES)]


def test_the_table_is_large_and_has_every_type_and_mode() -> None:
    assert len(TABLE["rows"]) == len({tuple(row[:3]) for row in TABLE["rows"]}) >= 300
    assert {row[1] for row in rows()} == set(TYPES) and {row[2] for row in rows()} == {"official", "think"}


@pytest.mark.parametrize("kind", TYPES)
def test_the_tolerant_scorer_reads_what_a_person_reads_or_nothing(kind: str) -> None:
    wrong = []
    for answer, _, mode, person, read, *_ in rows(kind):
        found = SCORERS["tolerant"].parse(answer_in(answer, mode), record(kind, "B" if kind == "choice" else "4"))
        if not same(found, person if read else None):
            wrong.append((answer, person, found))
    assert wrong == []


@pytest.mark.parametrize("column", ["official", "lmms-eval"])
def test_the_published_rules_read_what_their_own_code_reads(column: str) -> None:
    at, wrong = TABLE["columns"].index(column), []
    for row in rows("count", "distance", "size", "room", "choice"):
        answer, kind, mode = row[:3]
        found = SCORERS[column].parse(answer_in(answer, mode), record(kind, "B" if kind == "choice" else "4"))
        if not same(found, row[at]):
            wrong.append((answer, row[at], found))
    assert wrong == []


REWARDS = {"choice": Choice(), "mra": MRA(), "distance": Distance(), "relative": RelativeError()}


def paid(reading: Reading, answer: str, asked: Record, mode: str) -> dict[str, float]:
    return WeightedRewards(REWARDS, dict.fromkeys(REWARDS, 1.0), reading).score(answer, asked, mode).parts


def test_tolerant_rewards_pay_what_a_person_reads() -> None:
    for answer, kind, mode, person, read, *_ in rows():
        _check_paid(Reading(tolerant=True), answer, kind, mode, person if read else None)


@pytest.mark.parametrize("column", ["official", "lmms-eval"])
def test_rewards_pay_what_the_scorer_s_own_code_reads(column: str) -> None:
    at = TABLE["columns"].index(column)
    for row in rows("count", "distance", "size", "room", "choice"):
        found = row[at] if not isinstance(row[at], float) or math.isfinite(row[at]) else None
        _check_paid(Reading(SCORERS[column].read), *row[:3], found)


def _check_paid(reading: Reading, answer: str, kind: str, mode: str, read: Found) -> None:
    """What an answer in which ``read`` is read is paid, against these truths."""
    if kind == "choice":
        given = [paid(reading, answer, record(kind, letter), mode)["choice"] for letter in "ABCD"]
        assert given == [float(letter == read) for letter in "ABCD"], answer
    elif kind == "words":
        given = paid(reading, answer, record(kind, "front-left"), mode)["choice"]
        assert given == float(read == "front left"), answer
    elif isinstance(read, int | float) and read > 0:
        right, larger = (paid(reading, answer, record(kind, repr(k * read)), mode) for k in (1.0, 1.75))
        assert right == pytest.approx({"mra": 1, "distance": 1, "relative": 1}), answer
        # An error of 3/7 of the truth: within .5 and .45 (thresholds .50 and .55) only.
        assert larger == pytest.approx({"mra": 0.2, "distance": 1 / 4, "relative": 4 / 7}), answer
    else:
        given = paid(reading, answer, record(kind, "4"), mode)
        assert given == {"mra": 0, "distance": 0, "relative": 0}, answer


def test_tolerant_reward_and_tolerant_scorer_read_alike() -> None:
    for answer, kind, mode, *_ in rows():
        asked = record(kind, "B" if kind == "choice" else "4")
        assert parse_answer(answer, asked) == SCORERS["tolerant"].parse(answer_in(answer, mode), asked), answer
