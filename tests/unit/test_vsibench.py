import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.api.benchmark import Figures, check_ids
from harness.errors import UserError
from harness.plugins import registry
from harness.vsibench.records import Record
from harness.vsibench.scoring import (
    overall_of_types,
    task_means,
    task_scores,
    task_weights,
)
from harness.vsibench.types import QUESTION_TYPES
from reports.answerfiles import RawAnswer, read_answers
from reports.benchmarks.vsibench import VSIBench
from reports.samples import score_file


def record(key: int | str, kind: str = "object_counting", truth: str = "4") -> Record:
    return Record(id=key, dataset="d", scene_name="s", question_type=kind, question="q", ground_truth=truth)


def test_weights_make_the_overall_score() -> None:
    rng = np.random.default_rng(0)
    for kinds in (QUESTION_TYPES, QUESTION_TYPES[:4], QUESTION_TYPES[5:7], QUESTION_TYPES[3:6], QUESTION_TYPES[:1]):
        types = [str(kind) for kind in rng.choice(kinds, 200)]
        scores = rng.random(200)
        by_type = pd.Series(scores).groupby(types).mean()
        tasks, weights = task_weights(list(by_type.index))
        figures = VSIBench().figures(types, scores.tolist())
        assert weights.sum(axis=1) == pytest.approx(1)
        assert 100 * weights @ by_type.to_numpy() == pytest.approx([figures.overall, *figures.tasks.values()])
        assert tasks == list(figures.tasks)


def test_every_form_of_the_overall_score_agrees() -> None:
    rng = np.random.default_rng(2)
    for kinds in (QUESTION_TYPES, QUESTION_TYPES[5:7], QUESTION_TYPES[2:6]):
        by_type = {kind: float(rng.random()) for kind in kinds}
        tasks, weights = task_weights(list(by_type))
        values = weights @ list(by_type.values())
        assert overall_of_types(by_type) == pytest.approx(values[0])
        assert task_means(by_type) == pytest.approx(dict(zip(tasks, values[1:], strict=True)))
        assert task_scores(kinds, list(by_type.values())) == pytest.approx(
            {task: 100 * value for task, value in task_means(by_type).items()}
        )


def test_weights_of_the_full_benchmark() -> None:
    tasks, weights = task_weights(QUESTION_TYPES)
    overall = dict(zip(QUESTION_TYPES, weights[0], strict=True))
    assert len(tasks) == 8 and weights.shape == (9, 10)
    assert overall["object_counting"] == overall["route_planning"] == pytest.approx(1 / 8)
    assert overall["object_rel_direction_easy"] == overall["object_rel_direction_hard"] == pytest.approx(1 / 24)


def test_subset_is_the_mean_of_what_is_there() -> None:
    types = ["object_rel_direction_easy", "object_rel_direction_hard", "route_planning"]
    figures = VSIBench().figures(types, [1.0, 0.0, 0.25])
    assert figures.tasks == pytest.approx({"object_rel_direction": 50.0, "route_planning": 25.0})
    assert figures.overall == figures.means["choice_mean"] == figures.means["without_counting"] == 37.5
    assert math.isnan(figures.means["numeric_mean"])


def test_order_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"question_type": rng.choice(QUESTION_TYPES, 500), "score": rng.integers(0, 11, 500) / 10})

    def figures(rows: pd.DataFrame) -> Figures:
        return VSIBench().figures(rows["question_type"].tolist(), rows["score"].tolist())

    for seed in range(5):
        assert figures(frame.sample(frac=1, random_state=seed)) == figures(frame)


def test_unknown_types_and_empty_tables_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean object_counting"):
        VSIBench().weights({"object_countin": 1})
    with pytest.raises(UserError, match="did you mean route_planning"):
        VSIBench().figures(["route_plan"], [1.0])
    with pytest.raises(UserError, match="no scored questions"):
        VSIBench().figures([], [])


def test_found_by_name() -> None:
    assert isinstance(registry.create("benchmarks", "vsibench"), VSIBench)


def test_answers_must_fit_the_benchmark(tmp_path: Path) -> None:
    records = [record(1), record("b")]
    scored = VSIBench().question_scores(records, {"1": "4", "b": "3"}, "official")
    assert [one.score for one in scored] == pytest.approx([1.0, 0.6])
    with pytest.raises(UserError, match=r"2 answers are for ids .*: 2, x;"):
        check_ids(records, {"1": "4", "x": "1", "2": "3"})
    with pytest.raises(UserError, match=r"1 ids occur more than once in the benchmark: 1"):
        check_ids([record(1), record("1")], {"1": "4"})
    with pytest.raises(UserError, match="did you mean tolerant"):
        VSIBench().scorer_named("tolerent")


def test_no_answers_is_all_zero() -> None:
    scored = VSIBench().question_scores([record(1), record(2)], {}, "official")
    assert all(one.score == 0 and not one.parsed for one in scored)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "answer": "4"', r"answers.jsonl:2: not valid JSON"),
        ('{"id": 1}', r"answers.jsonl:2: `id` or `answer` is missing"),
        ("[1, 2]", r"answers.jsonl:2: a JSON object is expected, not list"),
        ('{"id": 1, "answer": null}', r"answers.jsonl:2: `answer` must be text, is None"),
        ('{"id": true, "answer": "4"}', r"answers.jsonl:2: `id` must be a whole number or text"),
        ('{"id": 1.5, "answer": "4"}', r"answers.jsonl:2: `id` must be a whole number"),
        ('{"id": 0.0, "answer": "4"}', r"answers.jsonl:2: id 0 was answered already in line 1"),
        ('{"id": 1, "answer": NaN}', r"answers.jsonl:2: `answer` must be text, is nan"),
        ('{"id": "0", "answer": "4"}', r"answers.jsonl:2: id 0 was answered already in line 1"),
    ],
)
def test_bad_lines_are_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": 0, "answer": "4"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_answers(path, [])


def test_reading_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(UserError, match="no such file"):
        read_answers(path, [])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_answers(path, [])
    lines = [{"id": 1, "answer": "a\u2028b"}, {"id": "x", "answer": 4, "more": [1]}]
    path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    assert read_answers(path, []) == {"1": RawAnswer("a\u2028b"), "x": RawAnswer("4")}
    assert score_file(path, [record(1), record("x")], VSIBench(), ["official"])["official"] == {
        "overall": 50.0,
        "tasks": {"object_counting": 50.0},
        "n": 2,
        "of": 2,
        "unparsable": 1,
    }
