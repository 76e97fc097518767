"""Score against compute: the Pareto front, scores on the line between checkpoints, costs that are not known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import write_small_dataset
from page_kit import fabricate_run

from harness.config.study import BASE
from harness.io import read_json, write_json, write_sealed
from harness.study.finished import FINISHED, Finished, write_finished
from reports.collect import Collected, collect
from reports.comparison import table_files, tables_of
from reports.results import results_of
from reports.statistics import EqualCost, equal_costs, learning_curves, score_intervals
from reports.statistics.compute import pareto_front
from reports.tables import Tables


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods with three seeds and checkpoints each; SFT costs least."""
    root = tmp_path_factory.mktemp("compute")
    train, test = (write_small_dataset(root / name, scenes=4, split=name) for name in ("train", "test"))
    return fabricate_run(root / "run", train=f"{train}#train", benchmark=f"{test}#test", cache=root)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy to write into."""
    yield Path(shutil.copytree(made, tmp_path / "run"))


def equal(run: Path, cost: str = "seconds") -> EqualCost:
    pairs = [("sft", "grpo"), ("sft", "dpo")]
    return next(one for one in equal_costs(collect(run), pairs, 0.05) if one.cost == cost)


def tables(run: Path) -> Tables:
    collected = collect(run)
    return tables_of(collected, results_of(collected))


def cells(run: Path, method: str) -> list[Path]:
    return sorted(run.glob(f"cells/{method}-*"))


def seal_again(folder: Path) -> None:
    """After a change of what a cell recorded."""
    said = Finished(**{k: v for k, v in read_json(folder / FINISHED).items() if k in Finished.model_fields})
    write_finished(folder, said.method, said.seed, said.weights, said.answers)


def spend(folder: Path, step: int, **changes: float | None) -> None:
    """Change what a checkpoint had consumed; None: its folder was deleted."""
    place = folder / "checkpoints" / f"step-{step:06d}"
    if None in changes.values():
        shutil.rmtree(place)
        return
    manifest = read_json(place / "manifest.json")
    consumed = manifest["consumed"] | changes
    write_sealed(place / "manifest.json", {"digest": manifest["digest"], "consumed": consumed})
    if step == 60:
        write_json(folder / "compute.json", consumed)
        seal_again(folder)


def on_the_line(collected: Collected, method: str, cost: str, at: float) -> float:
    """The mean over runs of the line through a run's overall scores."""
    lines, _ = learning_curves(collected)
    start = lines[lines["method"] == BASE]
    found = []
    for _, path in lines[lines["method"] == method].groupby("seed"):
        xs, ys = ([*start[key], *path[key]] for key in (cost, "score"))
        assert xs == sorted(xs)
        found.append(np.interp(at, xs, ys))
    return float(np.mean(found))


def test_the_pareto_front_by_hand() -> None:
    points = {BASE: (0.0, 50.0), "cheap": (1.0, 60.0), "dear": (3.0, 60.0), "best": (4.0, 70.0), "worse": (1.0, 40.0)}
    assert list(pareto_front(points)) == [BASE, "cheap", "best"]
    assert list(pareto_front({BASE: (0.0, 50.0), "harmful": (2.0, 50.0)})) == [BASE]
    assert set(pareto_front({"twin": (1.0, 5.0), "other": (1.0, 5.0)})) == {"twin", "other"}


@pytest.mark.parametrize(("cost", "at"), [("seconds", 130.0), ("forward_passes", 360.0), ("tokens", 3600.0)])
def test_scores_at_equal_cost_lie_on_the_lines(made: Path, cost: str, at: float) -> None:
    found, collected = equal(made, cost), collect(made)
    assert found.at == at and not found.left_out
    expected = {method: on_the_line(collected, method, cost, at) for method in ("sft", "dpo", "grpo")}
    assert {m: c.difference for m, c in found.scores.items()} == pytest.approx(expected)
    differences = {(c.a, c.b): c.difference for c in found.differences}
    assert differences == pytest.approx({("sft", b): expected[b] - expected["sft"] for b in ("grpo", "dpo")})
    assert {c.claim for c in (*found.scores.values(), *found.differences)} == {"methods"}
    # The method that cost least is where it was reported, and its interval has the runs besides the rooms.
    reported = collected.headline.reported
    alone = score_intervals(reported[reported["method"] == "sft"], collected.headline.benchmark).loc["overall"]
    assert found.scores["sft"].difference == pytest.approx(alone["score"])
    assert found.scores["sft"].ci_high - found.scores["sft"].ci_low > alone["high"] - alone["low"]


def test_runs_of_unequal_cost_meet_where_the_shortest_ends(run: Path) -> None:
    """As with a budget in seconds: nothing is extrapolated, also not the other runs of the cheapest method."""
    spend(cells(run, "grpo")[1], 60, seconds=270.0)
    spend(cells(run, "sft")[0], 60, seconds=101.5)
    found = equal(run)
    assert found.at == 101.5 and found.used["sft"] == pytest.approx((101.5 + 130 + 130) / 3)
    for method, c in found.scores.items():
        assert c.difference == pytest.approx(on_the_line(collect(run), method, "seconds", 101.5))


def test_a_checkpoint_whose_cost_is_not_known_is_no_corner(run: Path) -> None:
    for folder in cells(run, "grpo"):
        for step in (20, 40, 60):  # the cell's own record still tells what the last one cost
            spend(folder, step, seconds=None)
    found, collected = equal(run), collect(run)
    lines, _ = learning_curves(collected)
    start = float(lines.loc[lines["method"] == BASE, "score"].iloc[0])
    end = lines[(lines["method"] == "grpo") & (lines["order"] == 3)]["score"].mean()
    assert found.scores["grpo"].difference == pytest.approx(start + 130 / 403 * (end - start))


def test_a_method_whose_cost_is_not_known_is_named(run: Path) -> None:
    shutil.rmtree(cells(run, "dpo")[0] / "checkpoints")
    (cells(run, "dpo")[0] / "compute.json").unlink()
    seal_again(cells(run, "dpo")[0])
    found = tables(run).compute
    assert found is not None and {tuple(one.left_out) for one in found.equal} == {("dpo",)}
    text = found.tables[0].to_markdown()
    assert "Not placed at equal device seconds: DPO, whose cost is not recorded" in text
    assert [c.b for c in found.equal[0].differences] == ["grpo"]


def test_without_the_base_model_nothing_is_known_before_the_first_checkpoint(run: Path) -> None:
    write_json(cells(run, "base")[0] / "status.json", {"state": "failed", "reason": "out of memory"})
    assert equal(run).left_out == [] and equal(run, "tokens").left_out == ["dpo", "grpo"]


def test_the_files_hold_every_number(made: Path, tmp_path: Path) -> None:
    whole = tables(made)
    files = table_files(whole)
    text, records = files["compute.md"].decode(), json.loads(files["compute.json"])
    assert "| + SFT " in text and "**130**" in text and "| GRPO − DPO " in text and "Exploratory" in text
    assert "nan" not in text and "NaN" not in files["compute.json"].decode()
    assert len(records) == 3 * (3 + 3) == len(files["compute.csv"].decode().splitlines()) - 1
    grpo = next(one for one in records if (one["cost"], one["b"], one["a"]) == ("tokens", "grpo", "sft"))
    assert (grpo["used_b"], grpo["used_a"], grpo["at"], grpo["runs_a"]) == (12600, 3600, 3600, 3)
    ratio = whole.compute.tables[1].to_frame()  # type: ignore[union-attr]
    assert ratio[(ratio["b"] == "grpo") & (ratio["a"] == "sft")]["seconds_ratio"].item() == pytest.approx(3.1)


def test_one_method_has_a_cost_and_no_differences(made: Path, tmp_path: Path) -> None:
    root = made.parent
    sources = {"train": f"{root / 'train'}#train", "benchmark": f"{root / 'test'}#test"}
    one = fabricate_run(tmp_path / "one", cache=root, methods=("sft",), seeds=1, checkpoints=1, **sources)
    found = tables(one).compute
    assert found is not None and len(found.tables) == 1 and found.equal[0].scores["sft"].claim == "checkpoints"
    failed = {("sft", 0): "out of memory"}
    none = fabricate_run(tmp_path / "none", cache=root, methods=("sft",), seeds=1, failed=failed, **sources)
    assert tables(none).compute is None
