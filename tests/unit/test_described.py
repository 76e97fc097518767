"""Benchmarks as tables: what a description says is what is asked, read, scored and averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.benchmarks.built_in import MMSI_VIDEO_BENCH, OSI_BENCH, REVSI, STI_BENCH, VSI_BENCH
from harness.benchmarks.description import Description, read_description
from harness.benchmarks.readings import READINGS
from harness.data.truths import type_named
from harness.errors import UserError
from harness.plugins import registry
from harness.plugins.source import source_digest
from harness.vsibench.answers import TARGET_UNITS
from harness.vsibench.prompts import prompt_text
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.vsibench.types import NUMERIC_TYPES, QUESTION_TYPES, TASK_TYPES
from reports.benchmarks import Described, VSIBench
from reports.benchmarks.published import MMSIVideoBench, OSIBench, ReVSI, STIBench

MINE = """
name = "mine"
title = "My rooms"
summary = "Two types about rooms"
cluster = "flat"
average = "tasks"

[types.far]
metric = "mra"
thresholds = [0.5, 0.9]

[types.near]
metric = "chance"

[types.name]
metric = "exact"
"""


def record(kind: str, truth: str, options: tuple[str, ...] | None = None, question: str = "Which?") -> Record:
    return Record(
        id=1, dataset="d", scene_name="s", question_type=kind, question=question, options=options, ground_truth=truth
    )


FOUR = ("A. chair", "B. table", "C. tv", "D. sofa")


def test_the_description_of_vsi_bench_says_what_the_rest_of_the_package_knows() -> None:
    assert VSI_BENCH.members == TASK_TYPES and set(VSI_BENCH.types) == set(QUESTION_TYPES)
    numeric = {kind for kind, one in VSI_BENCH.types.items() if one.metric == "mra"}
    assert numeric == set(NUMERIC_TYPES)
    assert {kind: one.unit for kind, one in VSI_BENCH.types.items() if one.unit} == TARGET_UNITS


@pytest.mark.parametrize("scorer", SCORERS)
def test_vsi_bench_is_scored_by_its_description_as_by_its_scorers(scorer: str) -> None:
    answers = [
        "4",
        "4.",
        "four",
        "about 3",
        "3 chairs",
        "B",
        "b.",
        "B. table",
        "table",
        "",
        " 4",
        "nan",
        "<answer>4</answer>",
    ]
    asked = [record("object_counting", "4"), record("object_rel_distance", "B", FOUR), record("route_planning", "left")]
    for one in (*asked, record("room_size_estimation", "20.5")):
        for answer in answers:
            assert VSIBench().score(answer, one, scorer) == SCORERS[scorer].score(answer, one)
            assert VSIBench().read(answer, one, scorer) == SCORERS[scorer].read(answer, one)


def osi_rule(predicted: float, truth: float, zero: float | None) -> float:
    """lmms-eval's and VLMEvalKit's, anew: numpy's ten thresholds; a truth of 0 by what counts as 0."""
    if truth == 0 and zero is None:
        return float(predicted == 0)
    if truth == 0 and predicted < zero:
        return 1.0
    truth = zero if truth == 0 else truth
    return float(np.mean(abs(predicted - truth) / abs(truth) <= 1 - np.linspace(0.5, 0.95, 10)))


def test_osi_bench_has_truths_of_zero() -> None:
    rng = np.random.default_rng(0)
    for kind, zero in (("absolute_speed", 0.3), ("trajectory_length", 2.0), ("depth_aware_counting", None)):
        for truth in ("0", "0.0", "3", "12.5"):
            for predicted in np.round(rng.uniform(0, 8, 40), 2):
                score = OSIBench().score(f"It moves 7 m, so {predicted}", record(kind, truth), "official").score
                assert score == pytest.approx(osi_rule(predicted, float(truth), zero))
    assert OSIBench().score("-0.5", record("absolute_speed", "0"), "official").score == 1
    assert OSIBench().score("0.2", record("absolute_distance", "0"), "official").score == 0


def test_revsi_is_the_mean_of_seven_tasks_each_the_mean_of_its_types() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"type": rng.choice(list(REVSI.types), 300), "score": rng.random(300)})
    found = ReVSI().figures(frame["type"].tolist(), frame["score"].tolist())
    by_type = 100 * frame.groupby("type")["score"].mean()
    for name, start in (("object_rel_direction", "object_rel_direction_"), ("object_counting", "object_counting_")):
        assert found.tasks[name] == pytest.approx(by_type[by_type.index.str.startswith(start)].mean())
    assert len(found.tasks) == 7 and found.overall == pytest.approx(np.mean(list(found.tasks.values())))
    counts = frame["type"].value_counts().to_dict()
    tasks, weights = ReVSI().weights(counts)
    assert tasks == list(found.tasks) and weights @ by_type[list(counts)] == pytest.approx(
        [found.overall, *found.tasks.values()]
    )


def test_others_are_plain_means_over_questions() -> None:
    types = ["planning", "camera_motion", "camera_motion", "instance_motion"]
    found = MMSIVideoBench().figures(types, [1, 0, 1, 1])
    assert (found.overall, dict(found.tasks)) == (
        75,
        {"motion_understanding": pytest.approx(200 / 3), "planning": 100},
    )
    _, weights = MMSIVideoBench().weights({"planning": 1, "camera_motion": 2, "instance_motion": 1})
    assert weights[0] == pytest.approx([0.25, 0.5, 0.25])


@pytest.mark.parametrize(
    ("benchmark", "asked", "wording"),
    [
        (
            ReVSI,
            record("object_counting_single", "4", question="How many?"),
            "These are frames of a video.\nHow many?\nAnswer the question using a single integer or decimal number.",
        ),
        (
            ReVSI,
            record("route_planning", "B", ("A. left", "B. right")),
            "These are frames of a video.\nWhich?\nOptions:\nA. left\nB. right\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (
            STIBench,
            record("pose_estimation", "B", ("A. left", "B. right")),
            "Which?\n(A) left\n(B) right\nPlease output only the option letter!",
        ),
        (
            OSIBench,
            record("trajectory_description", "B", ("A. left", "B. right")),
            "Question: Which?\nA. left\nB. right\n\nYour answer must be only the single letter (e.g., A, B, C, or D) "
            "of the correct option.\nThe answer is:",
        ),
    ],
)
def test_questions_are_put_in_the_benchmarks_own_words(benchmark: type[Described], asked: Record, wording: str) -> None:
    assert prompt_text(asked, "official", benchmark().wording(asked)) == wording
    assert prompt_text(asked, "vanilla", benchmark().wording(asked)) == prompt_text(asked, "vanilla")


ANSWERS = {
    "first-token": {" B. because": "B", "b": "B", "(B)": None, "The B": None},
    "last-number": {"B": "B", "The answer is (C).": "C", "Because": "B", "A or B": "A", "[D]": "D", "": None},
    "mmsi-video": {
        "B. the table": "B",
        "\\boxed{C}": "C",
        "So the answer is D, since": "D",
        "Answer: A": "A",
        "b": None,
    },
    "sti": {
        "(C)": "C",
        "Answer: b": "B",
        "Option D": "D",
        "B is correct": "B",
        "A.": "A",
        "it must be B": "B",
        "be": None,
    },
}


@pytest.mark.parametrize("rule", ANSWERS)
def test_letters_are_read_as_the_published_evaluations_read_them(rule: str) -> None:
    asked = record("choice", "B", FOUR)
    assert {answer: READINGS[rule].read(answer, asked) for answer in ANSWERS[rule]} == ANSWERS[rule]


def test_published_names_of_types_are_found() -> None:
    assert type_named("(Motion Understanding) Camera Motion", MMSI_VIDEO_BENCH.types) == "camera_motion"
    assert type_named("(Cross-Video) Memoery Update", MMSI_VIDEO_BENCH.types) == "memory_update"
    assert type_named("Displacement & Path Length", STI_BENCH.types) == "displacement_path_length"


def test_an_own_benchmark_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "my.toml").write_text(MINE)
    registry.add_file(tmp_path / "my.toml")
    mine = registry.create("benchmarks", "mine")
    assert mine.cluster == "flat" and mine.default_scorer == "official"
    assert mine.score("10.4", record("far", "10"), "official").score == 1
    assert mine.score("14", record("far", "10"), "official").score == 0.5  # within 50%, not within 10%
    near = record("near", "B", FOUR)
    assert [mine.score(answer, near, "official").score for answer in ("B", "A")] == pytest.approx([1, -1 / 3])
    assert mine.score("7", record("name", "7"), "official").score == 1
    assert mine.score("blue chair", record("name", "Blue chair."), "tolerant").score == 1
    before = source_digest(type(mine))
    (tmp_path / "my.toml").write_text(MINE.replace("0.9", "0.8"))
    assert source_digest(type(mine)) != before


FAR, NEAR = "[types.far]\nmetric = 'mra'\n", "[types.near]\nmetric = 'choice'\n"
BAD = {
    "[types.far]": "`types.far.metric`: the type has no metric; name one of mra, choice, exact, chance",
    "[types.far]\nmetric = 'mre'": "`types.far.metric`: Input should be 'mra', 'choice', 'exact' or 'chance'",
    FAR + "thresholds = 'vsi'": "thresholds = 'vsi': no such name; did you mean vsi-bench?",
    FAR + "thresholds = [1.5]": "thresholds: name numbers from 0 to below 1",
    NEAR + "zero = 1.0": "thresholds and zero belong to the metric mra, not to choice",
    "[[tasks]]\nname = 'all'\ntypes = ['fat']\n" + FAR: "types.fat: a task has this type, and it has no metric",
    "[[tasks]]\nname = 'far'\n" + FAR + NEAR: "tasks: each type belongs to one task, but not near",
    "scorers = {official = 'offical'}\n" + FAR: "scorers.official = 'offical': no such rule; did you mean official?",
    "prompt = {prefx = ''}\n" + FAR: "prompt.prefx: no such key; did you mean prefix?",
    "budget = '16'\n" + FAR: "budget: write {frames} once",
    "colour = 1\n" + FAR: "`colour`: no such key",
    "[types.overall]\nmetric = 'mra'": "types.overall: the headline score is called so",
    "[types.far\n": "not valid TOML",
}


@pytest.mark.parametrize("text", BAD)
def test_a_wrong_description_is_refused_by_file_and_key(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f"name = 'bad'\ntitle = 'Bad'\nsummary = ''\n{text}\n")
    with pytest.raises(UserError) as caught:
        read_description(path)
    assert BAD[text] in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("told", [VSI_BENCH, REVSI, MMSI_VIDEO_BENCH, OSI_BENCH, STI_BENCH])
def test_built_in_descriptions_have_sources_and_a_class_each(told: Description) -> None:
    found = registry.load("benchmarks", told.name)
    assert issubclass(found, Described) and found.description is told and told.sources
    assert [task.name for task in found.tasks] == list(told.members)
