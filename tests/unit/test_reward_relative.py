"""One minus the relative error, by hand."""

from __future__ import annotations

import pytest

from harness.plugins import registry
from harness.vsibench.records import Record


def record(kind: str, truth: str, options: tuple[str, ...] | None = None) -> Record:
    return Record(
        id=0, dataset="d", scene_name="s", question_type=kind, question="?", options=options, ground_truth=truth
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("4", 1.0), ("3", 0.75), ("5", 0.75), ("8", 0.0), ("40", 0.0), ("0", 0.0), ("none", 0.0), ("2 of them", 0.5)],
)
def test_one_minus_the_relative_error(answer: str, expected: float) -> None:
    reward = registry.create("rewards", "relative")
    assert reward.score(answer, record("object_counting", "4"), "vanilla") == expected


def test_other_questions_are_not_its_business() -> None:
    reward = registry.create("rewards", "relative")
    choice = record("object_rel_distance", "A", ("A. chair", "B. table"))
    assert reward.score("A", choice, "vanilla") is None
