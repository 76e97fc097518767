"""The pre-training recipe: stops, resumes, refuses another run's folder, and writes a loadable model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText

from harness.errors import UserError
from harness.io import sha256_file
from harness.locks import hold
from harness.world.build import SPLITS
from harness.world.pretrain import stages
from harness.world.pretrain.stages import Run, pretrain, shard_seeds


def test_seeds_stay_in_the_pretraining_split() -> None:
    seeds = SPLITS["pretrain"].seeds
    for index in (-1, 0, 899):
        assert shard_seeds(index)[0] in seeds
        assert shard_seeds(index)[-1] in seeds
    assert shard_seeds(-1).start >= shard_seeds(899).stop
    others = [split.seeds for name, split in SPLITS.items() if name != "pretrain"]
    assert all(other.stop <= seeds.start or other.start >= seeds.stop for other in others)


def test_folders_with_other_files_are_refused_before_any_work(tmp_path: Path) -> None:
    run = Run(0, tmp_path / "model", tmp_path / "work", shards=1, scale=0.002, shard_scenes=4, ceiling=True)
    for name in ("model/config.json", "model-ceiling/model.safetensors", "work/notes.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=name if name.startswith("model") else "work`: it holds other files"):
            pretrain(run, pytest.fail)
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    (tmp_path / "work" / "shards").symlink_to(tmp_path / "model")
    with pytest.raises(UserError, match="work`: it holds other files"):
        pretrain(run, pytest.fail)
    with hold(tmp_path / "work", "folder"), pytest.raises(UserError, match="in use by process"):
        pretrain(run, pytest.fail)


@pytest.mark.slow
def test_a_stopped_run_resumes_and_ends_with_a_model(tmp_path: Path) -> None:
    points: list[dict[str, Any]] = []
    run = Run(0, tmp_path / "model", tmp_path / "work", shards=1, scale=0.002, minutes=0.0, shard_scenes=4)
    assert not pretrain(run, points.append)
    stopped_at = len(points)
    assert pretrain(replace(run, minutes=None), points.append)
    seen = [point["stage"] for point in points]
    assert list(dict.fromkeys(seen)) == ["render", "vision", "look-ups", "questions", "letters"]
    points = [point for point in points if point["stage"] != "render"]
    assert stopped_at < len(points)
    curves = (tmp_path / "work" / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curves] == [point["step"] for point in points]
    seconds = [json.loads(line)["seconds"] for line in curves]
    assert seconds == sorted(seconds)  # they go on where the stopped run was
    recipe = json.loads((tmp_path / "model" / "recipe.json").read_text())
    assert recipe["weights_sha256"] == sha256_file(tmp_path / "model" / "model.safetensors")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "model", local_files_only=True)
    assert pretrain(replace(run, minutes=None, out=tmp_path / "again"), points.append)  # complete: only written
    assert sha256_file(tmp_path / "again" / "model.safetensors") == recipe["weights_sha256"]
    assert recipe["ended_at_steps"] == [4, 1, 1, 1]
    with pytest.raises(UserError, match="no such device"):
        pretrain(replace(run, device="cuda:99"), points.append)
    with pytest.raises(UserError, match="another seed"):
        pretrain(replace(run, seed=1), points.append)


@pytest.mark.slow
def test_a_stage_ends_when_it_is_skilled_enough_and_the_ceiling_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision, look, _, letters = (replace(stage, steps=2, scenes=2) for stage in stages.RECIPE)
    monkeypatch.setattr(stages, "RECIPE", (vision, look, replace(letters, steps=9, until=0.0)))
    monkeypatch.setattr(stages, "CEILING", (replace(stages.CEILING[0], steps=2, scenes=2),))
    monkeypatch.setattr(stages, "SKILL_STEPS", 3)
    points: list[dict[str, Any]] = []
    run = Run(0, tmp_path / "model", tmp_path / "work", shards=1, shard_scenes=4)
    assert pretrain(run, points.append)
    base = sha256_file(tmp_path / "model" / "model.safetensors")
    last = points[-1]
    scores: dict[str, list[float]] = {}
    for key, (value, _) in last["answers"].items():
        if key.endswith("/official"):  # here the curve's 80 scenes and all held-out scenes are the same
            scores.setdefault("direction" if "direction" in key else key, []).append(value)
    assert last["skill"] == pytest.approx(sum(sum(v) / len(v) for v in scores.values()) / len(scores))
    assert (last["stage"], last["step"]) == ("letters", 3)
    assert pretrain(replace(run, ceiling=True), points.append)
    recipe = json.loads((tmp_path / "model-ceiling" / "recipe.json").read_text())
    assert recipe["ended_at_steps"] == [2, 2, 3, 2]
    assert recipe["weights_sha256"] != base
    assert pretrain(replace(run, out=tmp_path / "again"), points.append)  # the base itself is still there to write
    assert sha256_file(tmp_path / "again" / "model.safetensors") == base


@pytest.mark.slow
def test_a_shard_that_the_run_does_not_name_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "RECIPE", (replace(stages.RECIPE[0], steps=3, scenes=4),))
    digests = []
    for name in ("alone", "beside"):
        work = tmp_path / name
        run = Run(0, tmp_path / f"{name}-model", work, shards=1, shard_scenes=4)
        assert not pretrain(replace(run, minutes=0.0), lambda point: None)  # the folder is now this run's
        if name == "beside":
            stages.render_shards(replace(run, shards=2), lambda point: None)
            assert run.shard(1).exists()
        assert pretrain(run, lambda point: None)
        recipe = json.loads((run.out / "recipe.json").read_text())
        digests.append((recipe["data"]["sha256"], recipe["weights_sha256"]))
    assert digests[0] == digests[1]
