"""A title comes from what is asked: VSI-Bench or a part of it, the embedded world, or the user's own questions."""

from __future__ import annotations

from typing import Any

import pytest
from datasets_kit import whole_vsi_bench

from harness.vsibench import questions
from harness.vsibench.questions import part_of_vsi_bench
from harness.vsibench.records import Record
from harness.world.build import SPLITS
from harness.world.questions import free_form
from reports.benchmarks import VSIBench

GENUINE = [
    Record(
        id=key,
        dataset=dataset,
        scene_name=scene,
        question_type=kind,
        question=question,
        options=options,
        ground_truth=truth,
    )
    for key, dataset, scene, kind, question, options, truth in (
        (0, "arkitscenes", "41069025", "object_counting", "How many table(s) are in this room?", None, "4"),
        (1, "arkitscenes", "41069025", "object_counting", "How many chair(s) are in this room?", None, "2"),
        (
            1243,
            "arkitscenes",
            "41159525",
            "object_rel_direction_easy",
            "If I am standing by the stove and facing the table, is the refrigerator to the left or the right of the "
            "table?",
            ["A. left", "B. right"],
            "B",
        ),
        (
            537,
            "arkitscenes",
            "41159504",
            "room_size_estimation",
            "What is the size of this room (in square meters)? \nIf multiple rooms are shown, estimate the size of "
            "the combined space.",
            None,
            "19.7",
        ),
    )
]
"""As nyu-visionx/VSI-Bench has them."""


def title(records: list[Record], source: str = "data/vsi-bench") -> str:
    return VSIBench().title(records, source)


def test_genuine_questions_are_named_by_their_number_whatever_their_folder() -> None:
    assert title(GENUINE, "my_data#dev") == "VSI-Bench (4 of its 5,130 questions)"
    assert title(GENUINE, "") == title(GENUINE, "hub:me/copy#test") == "VSI-Bench (4 of its 5,130 questions)"
    assert title(GENUINE, "D#debiased") == "VSI-Bench, split debiased (4 of its 5,130 questions)"
    respelled = [
        one.model_copy(update={"id": f"q{one.id}", "dataset": "scans", "question": " ".join(one.question.split())})
        for one in GENUINE
    ]
    assert title(respelled) == title(GENUINE)


@pytest.mark.parametrize(
    "change", [{"ground_truth": "3"}, {"question": "How many beds are here?"}, {"scene_name": "41069043"}]
)
def test_changed_questions_are_not_vsi_bench_s(change: dict[str, Any]) -> None:
    assert part_of_vsi_bench([one.model_copy(update=change) for one in GENUINE[:1]]) is None
    assert title([*GENUINE[1:], GENUINE[0].model_copy(update=change)], "D/mine.jsonl") == "mine"


def test_the_packaged_digests_are_of_5130_questions() -> None:
    part = part_of_vsi_bench(GENUINE)
    assert part is not None and part.total == 5130 and not part.is_whole
    with pytest.MonkeyPatch.context() as patch:
        whole = [Record(**line) for line in whole_vsi_bench()]
        assert title(whole, "vsi-bench").startswith(
            "questions about arkit"
        )  # the right rooms, counts and folder; other questions
        patch.setattr(questions, "_published", lambda: frozenset(map(questions.question_digest, whole)))
        assert title(whole, "anything") == "VSI-Bench"
        changed = [*whole[:-2], *(one.model_copy(update={"ground_truth": "A"}) for one in whole[-2:])]
        assert title(changed) == "VSI-Bench (2 questions changed)"
        assert title(changed[-400:]) == "VSI-Bench (400 of its 5,130 questions, 2 questions changed)"
        assert title(changed[-30:], "vsi-bench").startswith("questions about ")


def test_own_questions_are_called_by_their_source() -> None:
    own = [Record(**{**GENUINE[0].model_dump(), "dataset": "flat", "scene_name": "kitchen"})]
    names = {
        "data/flat": "flat",
        "data/flat#dev": "flat (dev)",
        "data/flat/rooms.jsonl": "rooms",
        "rooms.parquet": "rooms",
        "hub:me/flat#test": "flat (test)",
        "data/vsi-bench": "questions about flat",
        "VSI-Bench#debiased": "questions about flat (debiased)",
        "hub:me/my_VSIBench.v2": "questions about flat",
        "": "questions about flat",
    }
    assert {source: title(own, source) for source in names} == names


def test_the_embedded_world_is_known_by_its_questions() -> None:
    test = SPLITS["test"]
    raw = [one for index in (0, 3, 7) for one in test.questions(index)]
    asked = [Record(**one) for one in raw]
    assert title(asked, "world:test@8") == "the embedded world (world:test@8)"
    assert title([Record(**free_form(one)) for one in raw], "copy#test_free") == "the embedded world (test_free)"
    assert title(asked, "") == "the embedded world"
    assert title([*asked[:-1], asked[-1].model_copy(update={"ground_truth": "77"})], "copy") == "copy"
    kitchen = asked[0].model_copy(update={"scene_name": "kitchen"})
    assert title([kitchen], "world") == title([*asked, kitchen], "world") == "world"
    assert title([asked[0].model_copy(update={"scene_name": "test_999999"})], "world") == "world"
