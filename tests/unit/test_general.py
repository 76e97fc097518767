"""The benchmark of images of one's own: its file, its rule, and its table next to VSI-Bench's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from study_kit import QUIET, prepare_cells, small_study

from harness.cli.options import StudyOptions
from harness.cli.resolve import resolve_study
from harness.config.study import load_study
from harness.data.reader import Dataset
from harness.errors import UserError
from harness.study import matrix
from harness.study.asked import EvaluationManifest
from harness.study.cell import main
from harness.study.identity import question_digests
from harness.study.planning import make_plan
from reports.benchmarks.general import General, Question, normalised
from reports.benchmarks.vsibench import VSIBench
from reports.comparison import Comparison
from reports.statistics.contrast import Contrast
from reports.statistics.paired import compare

LINES: list[dict[str, Any]] = [
    {"id": 1, "image": "a.png", "question": "What animal is this?", "answer": ["cat", "kitten"], "category": "names"},
    {"id": 2, "image": "a.png", "question": "How many cats?", "answer": 2, "category": "numbers"},
    {
        "id": "x",
        "image": "b.png",
        "question": "Colour?",
        "options": ["red", "blue"],
        "answer": "B",
        "category": "names",
    },
    {"id": 4, "image": "b.png", "question": "Colour?", "options": ["red", "blue"], "answer": "Blue"},
]


def write_questions(folder: Path, lines: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (60, 90, 3)).astype(np.uint8)).save(folder / name)
    path = folder / "questions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


# ------------------------------------------------------------------ rule


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The two cats.", "2 cats"),
        ("1,000", "1,000"),
        ("3.5 m", "3.5 m"),
        ("A  dog!", "dog"),
        ("yes", "yes"),
        ("10.", "10"),
        ("", ""),
    ],
)
def test_normal_form(text: str, form: str) -> None:
    assert normalised(text) == form


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("B", 1),
        ("B.", 1),
        ("(B) blue", 1),
        ("blue", 1),
        ("The blue.", 1),
        ("A", 0),
        ("red", 0),
        ("Bluebell", 0),
        ("", 0),
        ("'B'", 1),
        ("The answer is B", 1),
        ("A or B", 0),
        ("B or A", 0),
        ("Both A and B", 0),
        ("B is wrong", 0),
    ],
)
def test_an_option_is_chosen_by_letter_or_words(answer: str, score: int) -> None:
    assert Question(**LINES[2]).score(answer) == Question(**LINES[3]).score(answer) == score


def test_the_article_of_an_answer_is_no_option() -> None:
    animal = Question(**{**LINES[2], "options": ["cat", "dog"], "answer": "A"})
    assert [animal.score(text) for text in ("A dog", "A dog is there", "A", "A cat", "cat")] == [0, 0, 1, 1, 1]


def test_letters_together_or_words_of_two_options_are_no_right_answer() -> None:
    with pytest.raises(ValueError, match="is not among the options"):
        Question(**{**LINES[2], "answer": "AB"})
    with pytest.raises(ValueError, match="two have the same words"):
        Question(**{**LINES[2], "options": ["red", "Red!"], "answer": "red"})


def test_an_open_answer_is_one_of_those_accepted() -> None:
    animal, count = Question(**LINES[0]), Question(**LINES[1])
    assert [animal.score(text) for text in ("A cat.", "Kitten", "dog", "cat dog")] == [1, 1, 0, 0]
    assert [count.score(text) for text in ("2", "two", "Two.", "12")] == [1, 1, 1, 0]


def test_words_ask_for_a_letter_or_for_a_word() -> None:
    assert Question(**LINES[2]).words.splitlines()[:4] == ["Colour?", "Options:", "A. red", "B. blue"]
    assert Question(**LINES[0]).words.endswith("a single word or phrase.")


# ------------------------------------------------------------------ file


def test_the_digest_covers_questions_and_images(tmp_path: Path) -> None:
    path = write_questions(tmp_path, LINES)

    def digest() -> str:
        return General(General.Config(file=path)).questions().digest

    first = digest()
    assert digest() == first
    Image.new("RGB", (60, 90)).save(tmp_path / "a.png")
    assert digest() != first


OWN = {"id": 5, "image": "a.png", "question": "?"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", "line 5: Expecting property name"),
        ({"id": 5, "image": "a.png", "question": "?"}, "line 5: answer: Field required"),
        ({"id": 1, "image": "a.png", "question": "?", "answer": "x"}, "line 5: the id 1 occurs twice"),
        ({"id": 5, "image": "c.png", "question": "?", "answer": "x"}, "c.png"),
        ({"id": 5, "image": "y" * 5000, "question": "?", "answer": "x"}, "line 5"),
        (
            {"id": 5, "image": "a.png", "question": "?", "options": ["p", "q"], "answer": "C"},
            "answer 'C' is not among the options A, B; give the right option's letter",
        ),
        ("[1]", "line 5"),
        (OWN | {"choices": ["p", "q"], "answer": "p"}, "it has `choices` and no `options`"),
        (OWN | {"A": "p", "B": "q", "answer": "B"}, "it has `A` and no `options`; give a list"),
        (OWN | {"mcq": ["p", "q"], "answer": "B"}, "it has `mcq` and no `options`; rename it"),
        (OWN | {"options": ["p", "q"], "answer": 1}, "answer 1 is not among the options A, B"),
        (OWN | {"options": ["p", "q"], "answer": ["p", "q"]}, "one option is right"),
        (OWN | {"options": ["p", "q", "P"], "answer": "q"}, "'p' occurs twice"),
        (OWN | {"answer": "A"}, "answer 'A' is empty without articles"),
        (OWN | {"answer": True}, "`answer` = True: text or a number is expected"),
        (OWN | {"answer": "\ud800"}, "answer"),
        (OWN | {"id": " ", "answer": "x"}, "id ' ' is empty"),
        (OWN | {"question": "Is <image> red?", "answer": "x"}, "contains '<image>'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: Any, words: str) -> None:
    path = write_questions(tmp_path, [*LINES, line])
    with pytest.raises(UserError) as error:
        General(General.Config(file=path)).questions()
    assert words in str(error.value) and "questions.jsonl" in str(error.value)


def test_options_with_letters_placeholders_and_other_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = OWN | {"question": "<image>\nColour?", "options": ["A. red", "B. blue"], "answer": "(b)", "source": "web"}
    path = write_questions(tmp_path, [line])
    asked = General(General.Config(file=path)).by_id["5"]
    assert asked.words.startswith("Colour?\nOptions:\nA. red\nB. blue\n") and asked.letter == "B"
    assert caplog.messages == [f"{path}: fields that are not read: `source` (1 records)"]


def test_what_is_asked_includes_a_benchmarks_words_and_image_sizes(
    small_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not its scorer: the raw answers stay what they are."""
    study = load_study("tiny", methods=["sft"])
    digests = [question_digests(study, small_dataset, "content")]
    assert digests == [{"vsibench": "content"}]
    monkeypatch.setattr(VSIBench, "score", None)
    assert question_digests(study, small_dataset, "content") == digests[0]
    for own in ("Is it {}", "Now, is it {}"):
        monkeypatch.setattr(VSIBench, "words", lambda self, record, own=own: own.format(record.question))
        digests.append(question_digests(study, small_dataset, "content"))
    monkeypatch.setattr(VSIBench, "pixels", lambda self: (28 * 28, 56 * 56))
    digests.append(question_digests(study, small_dataset, "content"))
    assert len({one["vsibench"] for one in digests}) == 4


def test_mistakes_of_the_command_line_say_what_to_write(tmp_path: Path, small_dataset: Dataset) -> None:
    for text, words in (
        ("general", "has questions of its own"),
        ("vsibench,genral=x.jsonl", "did you mean general"),
        ("vsibench=x.jsonl", "for example vsibench,general=FILE.jsonl"),
        ("vsibench,,", "for example vsibench,general=FILE.jsonl"),
        ("vsibench,vsibench", "name each benchmark once"),
        ("vsibench,general=x.jsonl,general=y.jsonl", "named twice"),
    ):
        with pytest.raises(UserError, match=words):
            resolve_study(StudyOptions(benchmarks=text))
    study = resolve_study(StudyOptions(benchmarks="vsibench, general"))
    with pytest.raises(UserError, match="which questions"):
        question_digests(study, small_dataset, "content")
    missing = resolve_study(StudyOptions(benchmarks=f"vsibench,general={tmp_path}/none.jsonl"))
    with pytest.raises(UserError, match=r"none\.jsonl`: no such file"):
        question_digests(missing, small_dataset, "content")
    with pytest.raises(UserError, match=r"general\.side`: no such key"):
        load_study("tiny", changes={"evaluation.more.general": {"side": 3}})


# ------------------------------------------------------------------ as an additional benchmark


def test_a_difference_over_clusters_of_one_has_the_interval_of_a_t_test() -> None:
    values = np.tile([0.0, 100.0, 100.0, 0.0, -100.0, 100.0], 4)

    def difference(times: int, clusters: Sequence[int], values: np.ndarray = values) -> Contrast:
        """Base answers half right, the method as much more or less as the values say."""
        score = {"base": np.full(len(values), 0.5), "sft": 0.5 + values / 200}
        frames = [
            pd.DataFrame({"question": [f"{n}/{i}" for i in range(24)], "cluster": [str(c) for c in clusters]}).assign(
                method=method, model="m", seed=0, type="all", score=score[method]
            )
            for method in score
            for n in range(times)
        ]
        return compare(pd.concat(frames), [("base", "sft")], benchmark=General(), resamples=0)[0]

    expected = stats.t.interval(0.95, 23, values.mean() / 2, values.std(ddof=1) / 2 / 24**0.5)
    once, twice = difference(1, range(24)), difference(2, range(24))
    assert (once.ci_low, once.ci_high) == pytest.approx(expected)
    assert (twice.ci_low, twice.ci_high) == pytest.approx(expected, rel=0.1)  # twice the same answers tell nothing new
    assert np.isnan(difference(1, [0] * 24).ci_low)


def test_every_checkpoint_is_evaluated_and_shown_and_not_mixed(tmp_path: Path) -> None:
    path = write_questions(tmp_path / "own", LINES)
    plain = small_study(tmp_path)
    run_dir = tmp_path / "run"
    _, cells = prepare_cells(plain, run_dir)
    for cell in cells.values():
        assert main([str(run_dir), cell.id]) == 0
    before = {
        p.name: p.read_bytes() for p in Comparison().write(run_dir, QUIET) if p.name.startswith(("scores", "pairs"))
    }
    answers = {p: p.stat().st_mtime_ns for p in run_dir.rglob("vsibench/*/samples.jsonl")}

    study = small_study(tmp_path, evaluation={"more": {"general": {"file": str(path), "max_pixels": 56 * 56}}})
    plan = make_plan(study, QUIET)
    works = matrix.remaining_work(run_dir, plan.cells)
    assert [(work.trained, work.evaluated) for work in works] == [
        (True, False)
    ] * 2  # trained cells are not trained again
    prepare_cells(study, run_dir)
    for cell in plan.cells:
        assert main([str(run_dir), cell.id]) == 0
    assert not [w for w in matrix.remaining_work(run_dir, plan.cells) if not w.complete]
    assert {p: p.stat().st_mtime_ns for p in run_dir.rglob("vsibench/*/samples.jsonl")} == answers

    paths = {p.name: p for p in Comparison().write(run_dir, QUIET)}
    said = before.pop("pairs.md").decode().splitlines(), paths["pairs.md"].read_text().splitlines()
    assert {name: paths[name].read_bytes() for name in before} == before  # not mixed into any other score
    verdicts = [[line for line in lines if line.startswith(("- ", "|"))] for lines in said]
    assert verdicts[0] == verdicts[1] and "evaluation.more.general" in paths["pairs.md"].read_text()
    trained = plan.cells[1].folder(run_dir) / "general"
    assert sorted(p.name for p in trained.iterdir()) == ["step-000001", "step-000002"]
    rows = [json.loads(line) for line in (trained / "step-000002" / "samples.jsonl").read_text().splitlines()]
    right = [Question(**line).score(row["answer"]) for line, row in zip(LINES, rows, strict=True)]
    table = json.loads(paths["additional-general.json"].read_text())
    found = {row["method"]: row for row in table["rows"]}
    assert found["sft"]["overall"] == pytest.approx(25 * sum(right))
    assert found["base"]["difference_to_base"] is None and found["sft"]["difference_to_base"] is not None
    assert {"names", "numbers", "all"} <= set(found["sft"]) and "p_holm" not in found["sft"]
    assert len(paths["additional-general-checkpoints.csv"].read_text().splitlines()) == 1 + 1 + 2
    page = paths["index.html"].read_text()
    assert "Scores on general" in page and "Descriptive only" in page and 'id="additional"' in page

    manifest = EvaluationManifest.read(trained / "step-000002")
    changed = manifest.model_copy(update={"identity": manifest.identity | {"frames": "others"}})
    changed.write(trained / "step-000002")
    with pytest.raises(UserError, match="answered the benchmark general differently"):
        Comparison().write(run_dir, QUIET)
