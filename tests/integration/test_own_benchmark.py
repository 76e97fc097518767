"""A benchmark of one's own as the headline: every number of a report is by its rule, none by VSI-Bench's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from study_kit import QUIET, finish_cell, prepare_cells, small_study

from harness.config.study import StudyConfig, load_study
from harness.errors import UserError
from harness.plugins import registry
from harness.study.asked import rules_and_questions
from harness.study.cell import main
from harness.study.status import read_status
from reports.comparison import Comparison

PLUGIN = '''
from harness.api import Benchmark, ItemScore, ScoringRule


class Lengths(Benchmark):
    """How close an answer's length is to four characters."""

    summary = "answers of four characters"
    scorers = {"four": ScoringRule("one quarter less for each character too few or too many"), "short": ScoringRule("")}
    average = "the mean closeness"
    cluster = "scene"

    def score(self, answer, record, scorer):
        close = max(0.0, 1 - abs(len(answer) - 4) / 4) if scorer == "four" else float(len(answer) < 4)
        return ItemScore(close, parsed=answer != "")
'''

ANSWERS = {
    "base": ["", "four", "a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg"],
    "sft": ["four", "four", "bb", "ccc", "ccc", "dddd", "eeee", "fffff", "gg"],
}
TYPES = ["object_counting", "object_rel_distance", "room_size_estimation"] * 3


def closeness(answers: list[str]) -> np.ndarray:
    return np.array([max(0.0, 1 - abs(len(answer) - 4) / 4) for answer in answers])


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyConfig:
    monkeypatch.setattr(registry, "_files", {})
    (tmp_path / "lengths.py").write_text(PLUGIN)
    registry.add_file(tmp_path / "lengths.py")
    return small_study(
        tmp_path, evaluation={"benchmark": "lengths"}, runtime={"plugins": (str(tmp_path / "lengths.py"),)}
    )


def test_every_number_of_a_report_is_by_the_benchmarks_own_rule(study: StudyConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, cells = prepare_cells(study, run)
    for name, cell in cells.items():
        given = ANSWERS[name.split("-")[0]]
        finish_cell(run, cell, {str(i): answer for i, answer in enumerate(given)}, evaluated="lengths")
    paths = {path.name: path for path in Comparison().write(run, QUIET, with_published=True)}
    base, sft = (100 * closeness(ANSWERS[method]) for method in ("base", "sft"))

    rows = {row["method"]: row for row in json.loads(paths["scores.json"].read_text())["rows"]}
    assert set(rows) == {"base", "sft"}  # no baseline and no published row of VSI-Bench
    for name, values in (("base", base), ("sft", sft)):
        assert rows[name]["overall"] == pytest.approx(values.mean())
        for kind in TYPES[:3]:
            assert rows[name][kind] == pytest.approx(values[np.array(TYPES) == kind].mean())
        assert "numeric_mean" not in rows[name]
    assert rows["base"]["unparsable"] == pytest.approx(100 / 9)

    pairs = {pair["task"]: pair for pair in json.loads(paths["pairs.json"].read_text())}
    assert set(pairs) == {"overall", *TYPES}
    assert pairs["overall"]["difference"] == pytest.approx((sft - base).mean())
    scenes = np.arange(9) // 3
    design = np.stack([np.array(TYPES) == kind for kind in TYPES[:3]], axis=1).astype(float)
    fit = sm.OLS(sft - base, design).fit(cov_type="cluster", cov_kwds={"groups": scenes}, use_t=True)
    error = float(fit.t_test(np.full(3, 1 / 3)).sd.item())
    assert pairs["overall"]["standard_error"] == pytest.approx(error)
    assert (pairs["overall"]["n_questions"], pairs["overall"]["n_rooms"]) == (9, 3)

    sensitivity = {row["method"]: row for row in json.loads(paths["sensitivity.json"].read_text())["rows"]}
    assert sensitivity["sft"]["overall_four"] == pytest.approx(sft.mean())
    assert sensitivity["sft"]["overall_short"] == pytest.approx(100 * np.mean([len(a) < 4 for a in ANSWERS["sft"]]))
    curve = pd.read_csv(paths["checkpoints.csv"]).set_index("method")
    assert curve.loc["sft", "overall"] == pytest.approx(sft.mean())

    page = paths["index.html"].read_text()
    samples = json.loads(re.search(r'id="sample-data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert samples["runs"][1]["scores"] == pytest.approx(closeness(ANSWERS["sft"]))
    assert "Scores on Lengths" in page and "9 questions about 3 scenes" in page and "scorer “four”" in page
    for path in paths.values():
        if path.suffix in (".md", ".html", ".csv", ".json"):
            text = re.sub(r'id="sample-data">.*?</script>', "", path.read_text(), flags=re.DOTALL)  # the questions
            assert not re.search(r"VSI-Bench|scorer “official|\brooms?\b(?!\\)", text), path.name


def test_the_status_of_a_cell_shows_the_same_score(study: StudyConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, cells = prepare_cells(study, run)
    assert main([str(run), cells["base-0"].id]) == 0
    folder = cells["base-0"].folder(run)
    samples = folder / "lengths" / "step-000000" / "samples.jsonl"
    mean = 100 * closeness([json.loads(line)["answer"] for line in samples.read_text().splitlines()]).mean()
    assert read_status(folder).numbers["overall"] == pytest.approx(mean)
    # So does `harness score`, which knows from the manifest what was asked and whose rules score it.
    rules, questions = rules_and_questions([samples], None, None, None)
    result = Comparison().score(samples, questions, rules, ())
    assert list(result) == ["four", "short"] and result["four"]["overall"] == pytest.approx(mean)
    page = Comparison().write_samples(QUIET, [f"a={samples}"], questions, rules, tmp_path / "report")[0].read_text()
    assert "Scores on Lengths" in page and "VSI-Bench" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_a_scorer_that_the_headline_does_not_have_is_refused(study: StudyConfig) -> None:
    with pytest.raises(UserError, match=r"evaluation\.scorer = official.*Known: four, short"):
        load_study("tiny", changes={"evaluation.benchmark": "lengths", "evaluation.scorer": "official"})
