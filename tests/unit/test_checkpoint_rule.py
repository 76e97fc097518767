"""Which checkpoint is reported: the last, the best on development records, or the mean of the last; never by test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import write_small_dataset
from study_kit import QUIET, finish_cell, prepare_cells, seal_cell, small_study

from harness.config.evaluation import EvaluationSection
from harness.config.study import StudyConfig, load_study
from harness.errors import UserError
from harness.io import read_json
from harness.study import matrix, sources
from harness.study.matrix import Cell
from harness.study.planning import make_plan
from harness.study.tune import tuning_study
from reports.collect import collect
from reports.comparison import Comparison
from reports.page import fairness_card, methods_section
from reports.results import results_of
from reports.tables import build_tables

TRUTH = dict(zip(map(str, range(9)), ["4", "B", "23.5"] * 3, strict=True))
STEPS = (1, 2, 3)


@pytest.fixture(autouse=True)
def _no_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "warn_of_lookalikes", lambda *_: [])  # its processes take seconds to start


def answers(right: int) -> dict[str, str]:
    """Nine answers, the first so many right and the others of no score."""
    return {key: truth if int(key) < right else "none" for key, truth in TRUTH.items()}


def study_with(root: Path, **evaluation: Any) -> StudyConfig:
    for split in ("train", "test", "dev"):
        write_small_dataset(root / "data", split=split)
    if "development" in evaluation:
        evaluation["development"] = f"{root / 'data'}#{evaluation['development']}"
    return small_study(
        root, seeds=2, budget={"amount": 3}, train={"prompts_per_step": 2, "checkpoints": 3}, evaluation=evaluation
    )


def finish(run_dir: Path, cells: dict[str, Cell], right: dict[str, list[tuple[int, int]]]) -> None:
    """Give runs their answers: by run, the number right of the benchmark and of the development records, by step."""
    for name, cell in cells.items():
        for step, (test, development) in zip(STEPS, right.get(name, ()), strict=False):
            step = 0 if cell.is_base else step
            finish_cell(run_dir, cell, answers(test), step=step, sealed=False)
            if "development" in cell.evaluation:
                finish_cell(run_dir, cell, answers(development), step=step, evaluated="development", sealed=False)
        if name in right:
            seal_cell(cell.folder(run_dir), cell.method, cell.seed)


BEST_IS_NOT_LAST = {"base-0": [(3, 9)], "sft-0": [(9, 3), (3, 6), (6, 3)], "sft-1": [(9, 6), (3, 6), (6, 0)]}
"""By run and step, the questions right of test and dev. Chosen by dev: step 2, and of two equals the later, 2 again."""


def test_the_best_on_the_development_records_is_reported_and_of_equals_the_later(tmp_path: Path) -> None:
    study = study_with(tmp_path, checkpoint="best", development="dev")
    _, cells = prepare_cells(study, tmp_path / "run")
    finish(tmp_path / "run", cells, BEST_IS_NOT_LAST)
    collected = collect(tmp_path / "run")
    assert {c.cell: c.reported for c in collected.cells} == {c.id: (0,) if c.is_base else (2,) for c in cells.values()}
    reported = collected.headline.reported
    assert reported.groupby(["method", "seed"])["score"].sum().to_dict() == {
        ("base", 0): 3,
        ("sft", 0): 3,
        ("sft", 1): 3,
    }
    found = results_of(collected)
    assert found.points["sft", 0]["official"] == collected.headline.points["sft", 0, 2]["official"]
    assert "best on" in build_tables(found).scores.caption
    card = fairness_card(collected).to_markdown()
    assert "Checkpoints chosen" in card and "of equals, the later" in card
    row = next(line for line in card.splitlines() if line.startswith(f"| {cells['sft-0'].id}") and "33.33" in line)
    assert [cell.strip() for cell in row.split("|")[2:6]] == ["2", "66.67", "3", "33.33"]
    Comparison().write(tmp_path / "run", QUIET)
    curve = pd.read_csv(tmp_path / "run" / "report" / "development-checkpoints.csv")
    chosen = curve[curve["reported"] & (curve["method"] == "sft")]
    assert chosen[["seed", "step"]].to_numpy().tolist() == [[0, 2], [1, 2]]


def test_the_benchmark_s_answers_do_not_move_the_choice(tmp_path: Path) -> None:
    study = study_with(tmp_path, checkpoint="best", development="dev")
    chosen = []
    for name, right in (("a", [(9, 3), (3, 6), (6, 3)]), ("b", [(0, 3), (0, 6), (9, 3)])):
        _, cells = prepare_cells(study, tmp_path / name)
        finish(tmp_path / name, cells, {**BEST_IS_NOT_LAST, "sft-0": right})
        chosen.append([cell.reported for cell in collect(tmp_path / name).cells])
    assert chosen[0] == chosen[1]


def test_the_mean_is_of_the_last_checkpoints_by_question_and_run(tmp_path: Path) -> None:
    study = study_with(tmp_path, checkpoint="mean", last=2)
    _, cells = prepare_cells(study, tmp_path / "run")
    finish(tmp_path / "run", cells, {"base-0": [(3, 0)], "sft-0": [(9, 0), (3, 0), (6, 0)], "sft-1": [(0, 0)] * 3})
    collected = collect(tmp_path / "run")
    reported = collected.headline.reported
    mine = reported[(reported["method"] == "sft") & (reported["seed"] == 0)].set_index("question")["score"]
    assert mine.loc[[str(i) for i in range(9)]].tolist() == [1.0] * 3 + [0.5] * 3 + [0.0] * 3
    assert len(reported) == 3 * 9 and set(reported.columns) == set(collected.headline.shown.columns)
    points = results_of(collected).points["sft", 0]["official"]
    by_step = [collected.headline.points["sft", 0, step]["official"].overall for step in (2, 3)]
    assert points.overall == pytest.approx(sum(by_step) / 2) and 0 < points.unparsable < 100
    assert {cell.reported for cell in collected.cells if cell.method == "sft"} == {(2, 3)}
    assert "the mean of the last 2 checkpoints of each run" in methods_section(collected, []).to_markdown()
    assert set(collected.headline.shown["score"]) <= {0, 1}  # what the browser shows is one checkpoint's


def test_a_run_with_too_few_checkpoints_is_named(tmp_path: Path) -> None:
    study = study_with(tmp_path, checkpoint="mean")
    assert study.evaluation.last == 3
    _, cells = prepare_cells(study, tmp_path / "run")
    finish(tmp_path / "run", cells, {"sft-0": [(1, 0)] * 3, "sft-1": [(1, 0)] * 2})
    with pytest.raises(UserError, match=rf"{cells['sft-1'].id}.*mean of the last 3 checkpoints.* has 2"):
        collect(tmp_path / "run")


def test_checkpoints_that_were_not_asked_are_named(tmp_path: Path) -> None:
    study = study_with(tmp_path, checkpoint="best", development="dev")
    _, cells = prepare_cells(study, tmp_path / "run")
    for cell in cells.values():
        finish_cell(tmp_path / "run", cell, answers(3), step=0 if cell.is_base else 3)
    with pytest.raises(UserError, match=r"have not answered .*data#dev"):
        collect(tmp_path / "run")


def test_another_rule_asks_only_what_is_missing_and_trains_nothing(tmp_path: Path) -> None:
    study = study_with(tmp_path)
    _, cells = prepare_cells(study, tmp_path / "run")
    finish(tmp_path / "run", cells, BEST_IS_NOT_LAST)
    chosen = study_with(tmp_path, checkpoint="best", development="dev")
    plan = make_plan(chosen, QUIET)
    assert [cell.id for cell in plan.cells] == [cell.id for cell in cells.values()]
    works = matrix.remaining_work(tmp_path / "run", plan.cells)
    assert all(work.trained and not work.evaluated for work in works)
    assert [set(cell.evaluation) for cell in plan.cells] == [{"vsibench", "development"}] * 3
    mean = make_plan(study_with(tmp_path, checkpoint="mean", last=2), QUIET)
    assert all(work.complete for work in matrix.remaining_work(tmp_path / "run", mean.cells))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["evaluation.checkpoint=best"], "needs records to choose by"),
        (["evaluation.development=world:dev"], "no effect"),
        (["evaluation.last=2"], "no effect"),
        (["evaluation.checkpoint=mean", "evaluation.last=1"], "evaluation.last"),
        (["evaluation.checkpoint=mean"], "needs 3 checkpoints of each run, and a run of sft has 2"),
        (["evaluation.checkpoint=mean", "evaluation.last=2", "budget.amount=16"], "sft has 1"),
        (
            ["evaluation.checkpoint=best", "evaluation.development=world:dev", "train.checkpoints=1"],
            "needs 2 checkpoints",
        ),
        (
            ["evaluation.checkpoint=mean", "evaluation.last=2", "grpo.train.checkpoints=5"],
            r"different numbers of checkpoints.*\(sft 2, dpo 2, grpo 5\)",
        ),
        (["evaluation.checkpoint=first"], "evaluation.checkpoint"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused_before_anything_is_computed(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_study("tiny", overrides=settings)


@pytest.mark.parametrize(
    ("development", "message"),
    [
        ("test", "rooms of the benchmark"),
        ("train", "rooms that are trained on"),
    ],
)
def test_records_to_choose_by_share_no_room_with_test_or_training(
    tmp_path: Path, development: str, message: str
) -> None:
    study = study_with(tmp_path, checkpoint="best", development=development)
    with pytest.raises(UserError, match=rf"`evaluation\.development` = .*{message}"):
        make_plan(study, QUIET)


@pytest.mark.parametrize("split", ["test", "test@5", "test_free", "train", "train@3"])
def test_the_world_s_own_splits_are_refused_by_name(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "build_source", lambda *_: pytest.fail("the names say enough"))
    chosen = f"world:{split}"
    study = load_study("tiny", changes={"evaluation.checkpoint": "best", "evaluation.development": chosen})
    with pytest.raises(UserError, match=r"is the benchmark|is trained on"):
        sources.check_development(study, sources.DEVELOPMENT_KEY, chosen, QUIET, build=True)


def test_trials_of_a_tuning_are_compared_by_their_last_checkpoint(tmp_path: Path) -> None:
    study = load_study("tiny", changes={"evaluation.checkpoint": "best", "evaluation.development": "world:dev"})
    assert tuning_study(study).evaluation == EvaluationSection(**load_study("tiny").evaluation.model_dump())


def test_the_rule_survives_its_document(tmp_path: Path) -> None:
    study = study_with(tmp_path, checkpoint="mean")
    prepare_cells(study, tmp_path / "run")
    assert StudyConfig(**read_json(tmp_path / "run" / "study.json")) == study
