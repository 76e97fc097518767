"""The report on several studies: blocks judged on their own, like combined with like, nothing counted twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import write_small_dataset
from safetensors.torch import load_file, save_file
from statsmodels.stats.meta_analysis import combine_effects
from study_kit import QUIET, finish_cell, prepare_cells, small_study
from typer.testing import CliRunner

from harness.cli.app import app
from harness.config.study import StudyConfig
from harness.errors import UserError
from harness.io import read_as
from harness.models.loading import locate
from harness.study import matrix
from harness.study.compare import describe_study
from harness.study.planning import make_plan
from reports.comparison import Comparison
from reports.several import pooled, read_studies
from reports.statistics.combined import Estimate, combine_estimates, covariance

SCENES = 12
TRUTH = {str(i): ["4", "B", "23.5"][i % 3] for i in range(3 * SCENES)}
RIGHT = {"base": 0.3, "sft": 0.5, "dpo": 0.6}
MODELS = ("tiny", "second", "third")


def plant(root: Path, model: str, *, gain: float = 0.0, **changes: Any) -> Path:
    """A finished study of a model, in which the trained methods answer the more rightly the larger the gain."""
    name = changes.pop("name", model)
    drawn = changes.pop("answers_of", name)
    chosen = model if model == "tiny" else str(root / "models" / model)
    study = small_study(root, name=name, seeds=3, methods=("sft", "dpo"), model={"name": chosen}, **changes)
    _, cells = prepare_cells(study, root / name)
    for cell in cells.values():
        rng = np.random.default_rng([*drawn.encode(), *cell.algorithm.encode(), cell.seed])
        rooms = np.random.default_rng(list(cell.algorithm.encode())).normal(0, 0.2, SCENES).repeat(3)
        likely = RIGHT[cell.algorithm] + (0 if cell.is_base else gain) + rooms
        right = rng.random(3 * SCENES) < likely
        answers = {key: truth if right[int(key)] else "none" for key, truth in TRUTH.items()}
        finish_cell(root / name, cell, answers, step=0 if cell.is_base else 2, weights=f"{cell.id} of {name}")
    return root / name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies that differ in the model alone, and others that differ in more."""
    root = tmp_path_factory.mktemp("several")
    for split in ("train", "test", "other"):
        write_small_dataset(root / "data", scenes=SCENES, split=split)
    for factor, name in enumerate(MODELS[1:], 2):
        folder = Path(shutil.copytree(locate("tiny"), root / "models" / name))
        weights = load_file(folder / "model.safetensors")
        first = next(iter(weights))
        save_file({**weights, first: weights[first] * (1 + factor / 100)}, folder / "model.safetensors")
    for name, gain in zip(MODELS, (0.0, 0.1, 0.2), strict=True):
        plant(root, name, gain=gain)
    return root


def test_models_are_blocks_of_one_table_and_each_is_judged_as_alone(root: Path, tmp_path: Path) -> None:
    paths = Comparison().write_several([root / name for name in MODELS], QUIET, out=tmp_path / "out")
    assert paths[0].name == "index.html"
    kinds = {
        f"{name}.{kind}" for name in ("scores", "pairs", "combined", "studies") for kind in ("md", "tex", "csv", "json")
    }
    assert {path.name for path in paths} == {"index.html", *kinds}
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert scores["group"].drop_duplicates().tolist() == list(MODELS)
    assert scores["method"].tolist() == ["base", "sft", "dpo"] * 3
    assert "second (base)" not in (tmp_path / "out" / "scores.md").read_text()  # the block names the model
    joint = pd.read_csv(tmp_path / "out" / "pairs.csv").set_index("group")
    for name in MODELS:
        Comparison().write(root / name, QUIET, out=tmp_path / name)
        alone = pd.read_csv(tmp_path / name / "pairs.csv")
        alone = alone[alone["task"] == "overall"]
        assert joint.loc[name, "p_holm"].tolist() == pytest.approx(alone["p_holm"].tolist())
        assert joint.loc[name, "verdict"].tolist() == alone["verdict"].tolist()


def test_every_pair_is_combined_with_its_heterogeneity_and_never_averaged(root: Path) -> None:
    studies = read_studies([root / name for name in MODELS])
    found = pooled(studies, 0.05)
    assert [(one.a, one.b, one.over) for one in found] == [
        ("base", "sft", "models"),
        ("base", "dpo", "models"),
        ("sft", "dpo", "models"),
    ]
    for one in found:
        assert one.found and one.found.df == 2 and one.found.studies == MODELS and one.found.claim == "methods"
        assert min(c.difference for c in one.contrasts.values()) <= one.found.difference
        assert one.found.ci_low < one.found.difference < one.found.ci_high
        assert one.p_holm >= one.found.p
    assert found[0].found and found[0].found.correlation > 0.1  # the base's and the method's rooms are the same ones


def test_what_was_amended_with_results_known_stands_in_the_joint_report(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "second", tmp_path / "amended")
    study = read_as(StudyConfig, tmp_path / "amended" / "study.json", "")
    report = study.report.model_copy(update={"alpha": 0.1})
    prepared = study.model_copy(update={"report": report})
    plan = make_plan(prepared, QUIET)
    matrix.write_matrix(
        tmp_path / "amended",
        prepared,
        plan.cells,
        train_digest=plan.train.digest,
        benchmark_digest=plan.benchmark.digest,
    )
    describe_study(prepared, tmp_path / "amended", plan, QUIET)
    Comparison().write_several([root / "tiny", tmp_path / "amended"], QUIET, out=tmp_path / "out")
    assert (
        "second: Not as declared: with results known, report.alpha was amended."
        in (tmp_path / "out" / "pairs.md").read_text()
    )
    assert "amended with results known: report.alpha" in (tmp_path / "out" / "studies.md").read_text()
    assert "[CI]" in (tmp_path / "out" / "scores.md").read_text()  # the levels differ, and no head names one of them


def test_two_studies_say_how_little_they_say(root: Path, tmp_path: Path) -> None:
    Comparison().write_several([root / name for name in MODELS[:2]], QUIET, out=tmp_path)
    text = (tmp_path / "combined.md").read_text()
    assert "With two studies there is one degree of freedom" in text and "exploratory" in text
    assert "Two models say very little about others" in (tmp_path / "index.html").read_text()


def test_the_same_run_is_refused_however_it_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named twice"):
        read_studies([root / "tiny", root / "second", root / "." / "tiny"])
    shutil.copytree(root / "tiny", tmp_path / "copy")
    with pytest.raises(UserError, match=r"copy.*hold the same run \(sft-tiny-s0-.*count twice"):
        read_studies([root / "tiny", root / "second", tmp_path / "copy"])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"budget": {"amount": 3}}, "the studies differ in budget"),
        ({"data": {"max_pixels": 84 * 84}}, "frames"),
        ({"evaluation": {"max_new_tokens": 5}}, "answers"),
        ({"evaluation": {"scorer": "tolerant"}}, "scorer"),
        ({"method": {"dpo": {"rollouts": 2, "beta": 0.3}}}, "the settings of dpo differ"),
    ],
)
def test_only_like_is_combined_with_like_and_the_difference_is_named(
    root: Path, changes: dict[str, Any], why: str
) -> None:
    name = "second-" + "-".join(f"{a}.{b}" for a, of in changes.items() for b in of)
    studies = read_studies([root / "tiny", plant(root, "second", name=name, **changes)])
    found = pooled(studies, 0.05)
    unlike = [one for one in found if why in one.why]
    assert unlike and all(one.found is None for one in unlike)
    if "settings" in why:  # the other method's settings are equal, and it is combined with the base model
        assert [one.b for one in found if one.found] == ["sft"]
    else:
        assert len(unlike) == len(found) == 3


def test_models_that_answer_alike_word_for_word_are_not_two(root: Path) -> None:
    double = plant(root, "third", name="double", answers_of="tiny")
    found = pooled(read_studies([root / "tiny", double]), 0.05)
    assert found and all(one.found is None and "the same answers, word for word" in one.why for one in found)


def test_learning_rates_may_differ_between_models(root: Path) -> None:
    other = plant(root, "second", name="second-rate", method={"dpo": {"rollouts": 2, "train": {"learning_rate": 1e-3}}})
    assert all(one.found for one in pooled(read_studies([root / "tiny", other]), 0.05))


def test_one_model_on_two_benchmarks_is_combined_over_benchmarks(root: Path) -> None:
    other = plant(root, "tiny", name="tiny-other", data={"benchmark": f"{root / 'data'}#other"})
    studies = read_studies([root / "tiny", other])
    assert len({one.label for one in studies}) == 2
    found = pooled(studies, 0.05)
    assert {one.over for one in found} == {"benchmarks"} and all(one.found for one in found)


def test_two_studies_of_one_model_on_one_benchmark_are_not_two_models(root: Path) -> None:
    again = plant(root, "second", name="second-again", first_seed=7)
    found = pooled(read_studies([root / name for name in ("tiny", "second")] + [again]), 0.05)
    assert found and all(one.found is None and "of the same model" in one.why for one in found)


def test_the_command_takes_several_run_directories(root: Path, tmp_path: Path) -> None:
    folders = [str(root / name) for name in MODELS]
    result = CliRunner().invoke(app, ["report", *folders, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Differences over several studies" in result.output
    rows = json.loads((tmp_path / "out" / "combined.json").read_text())["rows"]
    assert [(row["b"], row["studies"]) for row in rows] == [("sft", 3), ("dpo", 3), ("dpo", 3)]
    refused = CliRunner().invoke(app, ["report", *folders[:2], "--with-published"])
    assert isinstance(refused.exception, UserError) and "--with-published" in str(refused.exception)


def independent(effects: list[float], variances: list[float], shared: float = 0.0) -> list[Estimate]:
    """Estimates whose errors share a part of this variance."""
    rooms = pd.Series([np.sqrt(shared / 2), -np.sqrt(shared / 2)], index=["a", "b"])
    pairs = enumerate(zip(effects, variances, strict=True))
    return [Estimate(str(i), d, v, "methods", rooms, pd.Series(dtype=float)) for i, (d, v) in pairs]


def test_without_anything_shared_it_is_dersimonian_and_laird_s() -> None:
    effects, variances = [1.0, 2.5, 6.0, 3.0, 8.0], [0.5, 1.0, 0.7, 2.0, 1.5]
    found = combine_estimates(independent(effects, variances), 0.05)
    expected = combine_effects(np.array(effects), np.array(variances), method_re="dl", use_t=True)
    assert found and found.difference == pytest.approx(expected.mean_effect_re)
    assert found.tau**2 == pytest.approx(expected.tau2)
    assert found.q == pytest.approx(expected.q) and found.i2 == pytest.approx(100 * expected.i2)
    assert found.standard_error == pytest.approx(expected.sd_eff_w_re)
    assert found.q_p == pytest.approx(expected.test_homogeneity().pvalue)


def test_what_is_shared_lengthens_the_interval_and_sharpens_heterogeneity() -> None:
    effects, variances = [1.0, 3.0, 4.0], [1.0, 1.0, 1.0]
    apart, together = (combine_estimates(independent(effects, variances, shared), 0.05) for shared in (0.0, 0.8))
    assert apart and together
    assert covariance(independent(effects, variances, 0.8))[0, 1] == pytest.approx(0.8)
    # By hand for equal variances v and covariance c: Q = S/(v - c), tau^2 = s^2 - (v - c), the mean's error
    # (tau^2 + v - c)/3 + c, where S is the sum of squares about the mean and s^2 = S/2.
    squares = float(np.var(effects) * 3)
    assert together.q == pytest.approx(squares / 0.2) and together.correlation == pytest.approx(0.8)
    assert together.tau**2 == pytest.approx(squares / 2 - 0.2)
    assert together.standard_error**2 == pytest.approx(squares / 2 / 3 + 0.8)
    assert together.q_p < apart.q_p and together.standard_error > apart.standard_error


def test_an_estimate_without_an_error_is_not_combined() -> None:
    assert combine_estimates(independent([1.0, 2.0], [0.0, 1.0]), 0.05) is None
    assert combine_estimates(independent([1.0, 2.0], [np.nan, 1.0]), 0.05) is None
