"""The whole comparison on the embedded world at a very small size, through the command line."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from harness.cli.app import app
from harness.io import read_json
from harness.study import compare as compare_module

pytestmark = pytest.mark.slow

STUDY = """
name = "small"
methods = ["sft", "grpo"]

[model]
name = "tiny"
tuning = "full"
precision = "fp32"

[data]
train = "world:train@2"
benchmark = "world:test@2"
frames = 4
max_pixels = 3136

[rollout]
max_new_tokens = 4

[budget]
kind = "steps"
amount = 2

[train]
learning_rate = 1e-3
prompts_per_step = 2
checkpoints = 2

[evaluation]
max_new_tokens = 4

[runtime]
workers = 2
threads = 1
cache = "CACHE"

[method.grpo]
group_size = 2
"""


class Place:
    """A study file and its run directory."""

    def __init__(self, root: Path) -> None:
        self.study, self.run = root / "small.toml", root / "run"
        self.cache = root / "cache"
        self.study.write_text(STUDY.replace("CACHE", str(self.cache)))

    def compare(self, *more: str) -> Result:
        return harness("compare", "--study", str(self.study), "--out", str(self.run), *more)

    def cell(self, method: str) -> Path:
        (found,) = (self.run / "cells").glob(f"{method}-*")
        return found

    def files(self, folder: str) -> dict[str, tuple[int, bytes]]:
        """Content and time of writing of every file below a part of the run directory."""
        paths = [path for path in (self.run / folder).rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A finished comparison of two methods."""
    place = Place(tmp_path_factory.mktemp("compare"))
    result = place.compare()
    assert result.exit_code == 0, result.output
    assert "scores.md" in result.output and "GRPO" in result.output
    yield place


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {line["method"]: line for line in lines}


def test_the_report_is_whole_and_its_numbers_are_those_of_the_answers(place: Place) -> None:
    report = place.run / "report"
    names = {path.name for path in report.iterdir()}
    assert names >= {f"{table}.{form}" for table in ("scores", "pairs") for form in ("md", "tex", "csv", "json")}
    assert names >= {"fairness.md", "checkpoints.csv"}
    scores = rows(report / "scores.csv")
    assert set(scores) >= {"base", "sft", "grpo"} and len(scores) == 5
    for method in ("base", "sft", "grpo"):
        answers = max((place.cell(method) / "vsibench").glob("step-*")) / "samples.jsonl"
        result = harness(
            "score",
            str(answers),
            "--benchmark",
            "world:test@2",
            "--cache",
            str(place.cache),
            "--scorer",
            "official",
            "--json",
        )
        expected = json.loads(result.output)["official"]
        assert float(scores[method]["overall"]) == pytest.approx(expected["overall"], abs=0.051)
    assert "\\toprule" in (report / "scores.tex").read_text()
    pairs = {(line["a"], line["b"]) for line in read_json(report / "pairs.json")}
    assert pairs >= {("base", "sft"), ("base", "grpo")}
    assert "checkpoints" in (report / "scores.md").read_text()  # one seed compares checkpoints, not methods


def test_every_method_had_the_same(place: Place) -> None:
    consumed = [read_json(place.cell(method) / "compute.json") for method in ("sft", "grpo")]
    assert [(one["steps"], one["examples"]) for one in consumed] == [(2, 4), (2, 4)]
    identities = [
        read_json(max((place.cell(method) / "vsibench").glob("step-*")) / "manifest.json")["identity"]
        for method in ("base", "sft", "grpo")
    ]
    assert len({one.pop("weights") for one in identities}) == 3
    assert identities[0] == identities[1] == identities[2]


def test_a_second_run_computes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, report = place.files("cells"), place.files("report")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a cell was started")

    with monkeypatch.context() as patch:
        patch.setattr(compare_module, "run_cells", never)
        result = place.compare()
    assert result.exit_code == 0 and "Nothing to compute" in result.output
    assert place.files("cells") == cells
    after = place.files("report")
    assert {name: untimed(content) for name, (_, content) in after.items() if ".harness.lock" not in name} == {
        name: untimed(content) for name, (_, content) in report.items() if ".harness.lock" not in name
    }


def untimed(content: bytes) -> bytes:
    """A file without the minute at which the page says it was written, and without the page's digest."""
    content = re.sub(rb'("index.html", "sha256": )"[0-9a-f]+"', rb"\1", content)
    return re.sub(rb"Written on [0-9-]+ [0-9:]+ UTC", b"Written", content)


def test_a_method_that_fails_stops_nobody_and_the_table_says_why(place: Place) -> None:
    before = {name: place.files(f"cells/{place.cell(name).name}/vsibench") for name in ("base", "sft")}
    result = place.compare("--methods", "sft,rloo", "-s", "rloo.train.learning_rate=1e30", "-s", "rloo.group_size=2")
    assert result.exit_code == 1
    status = read_json(place.cell("rloo") / "status.json")
    assert status["state"] == "failed" and "TrainingError" in status["reason"] and "step 2" in status["reason"]
    assert status["reason"] in result.output.replace("\n", " ")
    table = (place.run / "report" / "scores.md").read_text()
    assert status["reason"].split(":")[0] in table and "failed" in table
    scores = rows(place.run / "report" / "scores.csv")
    assert scores["sft"]["overall"] and not scores["rloo"]["overall"]
    for name, files in before.items():
        assert place.files(f"cells/{place.cell(name).name}/vsibench") == files
    assert len(list((place.cell("rloo") / "checkpoints").glob("step-*"))) == 1


def test_a_run_directory_that_is_held_is_not_touched(place: Place) -> None:
    import os

    from harness.locks import hold

    before = place.files("cells")
    with hold(place.run, "run directory"):
        result = place.compare()
    assert result.exit_code != 0 and f"process {os.getpid()}" in str(result.exception)
    assert place.files("cells") == before


REWARD = """
from harness.api.reward import Reward


class Length(Reward):
    def score(self, text, record, mode):
        return 1.0 * len(text)
"""


def test_a_changed_reward_is_computed_again_and_a_remark_is_not(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "length.py"
    asked = ["--study", str(place.study), "--methods", "sft", "--plugin", str(file), "--out", str(tmp_path / "run")]
    asked += ["-s", "reward.weights={length=1.0}", "-s", "budget.amount=1", "-s", "train.checkpoints=1"]

    def compare(text: str) -> str:
        file.write_text(text)
        command = [sys.executable, "-m", "harness", "compare", *asked]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "Nothing to compute" not in compare(REWARD)
    assert "Nothing to compute" in compare(REWARD.replace("class", "# longer is better\n\nclass"))
    assert "sft seed 0: done" in compare(REWARD.replace("1.0 * len", "-1.0 * len"))
    assert len(list((tmp_path / "run" / "cells").glob("sft-*"))) == 2
