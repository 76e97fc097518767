"""Planning a study, reporting on a run directory and on answers made elsewhere, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_kit import Cli
from conftest import QUESTIONS, write_small_dataset
from page_kit import fabricate_run
from study_kit import seal_cell

from harness.io import sha256_file, write_json
from harness.study.status import State, Status, write_status

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def harness(harness: Cli, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty folder; gives the exit code and all that was said, in one line."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str]:
        ended = harness(*arguments)
        return ended.code, " ".join((ended.out + ended.err).split())

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report-data")
    write_small_dataset(root, scenes=8, split="test")
    return write_small_dataset(root, scenes=2, seed=1, split="train")


@pytest.fixture(scope="module")
def run_dir(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    return fabricate_run(
        runs / "demo",
        train=f"{data}#train",
        benchmark=f"{data}#test",
        cache=runs / "cache",
        methods=("sft", "grpo"),
        failed={("sft", 2): "loss is not finite"},
    )


def answers(path: Path, right: float) -> Path:
    lines = []
    for i in range(8 * len(QUESTIONS)):
        truth = QUESTIONS[i % len(QUESTIONS)][3]
        lines.append(json.dumps({"id": i, "answer": truth if i % 10 < 10 * right else "9"}))
    path.write_text("\n".join(lines) + "\n")
    return path


def lmms_log(path: Path) -> Path:
    lines = []
    for i in range(8 * len(QUESTIONS)):
        kind, question, _, truth = QUESTIONS[i % len(QUESTIONS)]
        lines.append({"doc_id": i, "target": truth, "filtered_resps": [truth], "input": f"Frames.\n{question}"})
        lines[-1]["vsibench_score"] = {"id": i, "question_type": kind}
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def test_a_run_directory_with_a_missing_seed_is_reported(harness: Run, run_dir: Path) -> None:
    code, said = harness("report", str(run_dir), "--with-published")
    assert code == 0, said
    assert (
        "2 of 3" in said
        and said.count("Checkpoints are compared, not methods, in the comparisons with SFT, because") == 1
    )
    report = run_dir / "report"
    scores = (report / "scores.md").read_text()
    assert "seed 2 failed: loss is not finite" in scores and "Published elsewhere" in scores
    caveat = "not on the questions of the other rows"
    for name in ("scores.md", "scores.tex", "scores.json", "index.html"):
        assert caveat in (report / name).read_text(), name
    assert caveat in said
    pairs = json.loads((report / "pairs.json").read_text())
    claims = {(c["a"], c["b"]): (c["claim"], c["seeds"]) for c in pairs if c["task"] == "overall"}
    assert claims == {
        ("base", "sft"): ("checkpoints", 2),
        ("base", "grpo"): ("methods", 3),
        ("sft", "grpo"): ("checkpoints", 2),
    }


def test_answers_made_elsewhere_get_the_whole_report(harness: Run, data: Path, tmp_path: Path) -> None:
    sources = [f"new@{seed}={answers(tmp_path / f'new{seed}.jsonl', 0.6 + 0.1 * seed)}" for seed in range(3)]
    sources += [str(lmms_log(tmp_path / "other.jsonl")), f"start={answers(tmp_path / 's.jsonl', 0.3)}"]
    arguments = [part for source in sources for part in ("--samples", source)]
    code, said = harness("report", *arguments, "--benchmark", str(data), "--base", "start", "--out", "rep")
    assert code == 0, said
    written = {path.name for path in (tmp_path / "rep").iterdir()}
    assert {"index.html", "scores.md", "scores.tex", "pairs.md", "pairs.json", "sensitivity.csv"} <= written
    table = " ".join((tmp_path / "rep" / "scores.md").read_text().split())
    assert "| other | 1 | **100.0** |" in table and "start (base)" in table
    pairs = json.loads((tmp_path / "rep" / "pairs.json").read_text())
    assert {(c["a"], c["b"]) for c in pairs} == {("base", "new"), ("base", "other"), ("new", "other")}
    methods = (tmp_path / "rep" / "methods.md").read_text()
    assert (
        "generated elsewhere" in methods and "harness report --samples new@0=" in methods and "9,999 draws" in methods
    )
    assert sha256_file(tmp_path / "new1.jsonl")[:16] in methods and "scipy" in methods
    assert "Ready to paste" in (tmp_path / "rep" / "index.html").read_text()
    code, said = harness("score", "other.jsonl", "--benchmark", str(data), "--json")
    assert code == 0 and json.loads(said)["official"]["overall"] == 100


def test_a_reader_that_leaves_costs_no_file_and_no_traceback(data: Path, tmp_path: Path) -> None:
    """As in `harness report ... | head -1`: the pipe is closed before anything is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    command = ["report", "--samples", str(answers(tmp_path / "a.jsonl", 0.5)), "--benchmark", str(data)]
    ended = subprocess.run(
        [sys.executable, "-m", "harness", *command, "--out", str(tmp_path / "report")],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {"index.html", "scores.md", "scores.csv"} <= {path.name for path in (tmp_path / "report").iterdir()}


def test_mistakes_with_samples_are_reported(harness: Run, data: Path, run_dir: Path, tmp_path: Path) -> None:
    first, second = answers(tmp_path / "a.jsonl", 0.5), answers(tmp_path / "b.jsonl", 0.5)
    both = ["--samples", str(first), "--samples", str(second)]
    bench = ["--benchmark", str(data)]
    (tmp_path / "file").touch()
    for arguments, message in (
        ([], "name a run directory"),
        ([*both], "--benchmark"),
        ([str(run_dir), *both, *bench], "not both"),
        ([str(run_dir), *bench], "only with --samples"),
        ([*both, *bench, "--base", "c"], "--base c"),
        ([*both, *bench, "--margin", "0"], "--margin 0"),
        ([*both, *bench, "--out", "file"], "is a file"),
        ([*both, *bench, "--scorer", "offical"], "did you mean official"),
    ):
        code, said = harness("report", *arguments)
        assert code == 2 and message in said and "Traceback" not in said, said
    second.write_text("".join(second.read_text().splitlines(keepends=True)[:-2]))
    code, said = harness("report", *both, *bench)
    assert code == 2 and "only" in said and "answers 2: 22, 23" in said


def test_a_plan_needs_no_data_no_model_and_no_pilot(harness: Run, tmp_path: Path) -> None:
    code, said = harness("plan", "--study", "2b", "--methods", "sft,grpo", "--seeds", "3")
    assert code == 0, said
    assert "data/vsi-bench" in said and "3.6 [4.9]" in said and "5,130 questions about 288 rooms" in said
    assert "One more seed per method lowers that to" in said and "an unknown time" in said
    # By hand: 6 runs, 4 checkpoints each, 5,130 x 25 answers. 18,464,768 adapter weights x 4 bytes = 74 MB a
    # checkpoint; 24 of them and 6 states of twice that are 2.7 GB.
    assert "Work: 6 training runs of 10000 examples each" in said and "(14 by GRPO)" in said
    assert "5,130 questions answered by 24 checkpoints and the base model, 128,250 answers" in said
    assert "Disk: about 2.7 GB of checkpoints, 74 MB each" in said
    assert not list(tmp_path.iterdir())


def test_a_plan_without_the_benchmark_says_that_its_limit_is_not_counted(harness: Run) -> None:
    code, said = harness("plan", "--study", "2b", "--limit", "5")
    assert code == 0 and "Planned for the full VSI-Bench, not for 5 of its questions, because" in said, said


def test_a_plan_from_a_pilot_and_measured_cells(harness: Run, run_dir: Path, data: Path) -> None:
    options = ["--methods", "grpo", "--data", f"{data}#train", "--benchmark-data", f"{data}#test"]
    code, said = harness("plan", *options, "--pilot", str(run_dir), "-s", "report.alpha=0.1")
    assert code == 0, said
    assert "24 questions about 8 rooms" in said and "the pilot" in said and "level 0.1" in said
    # By hand: training 3 s, evaluation 0.1 s an answer, 3 checkpoints: (3 + 0.1 x 24 x 3) + 0.1 x 24 for the base.
    for cell in (run_dir / "cells").iterdir():
        method = cell.name.split("-")[0]
        if method == "sft":
            continue
        if method == "grpo":
            write_json(cell / "compute.json", {"examples": 960})
        write_json(cell / "timing.json", {"train": 3.0, "evaluate": 2.4 if method == "base" else 7.2})
        write_json(cell / "config.json", {"method": method, "study": {"method": {}, "train": {"checkpoints": 3}}})
        write_status(cell, Status(state=State.DONE, numbers={"of": 24}))
        holds = json.loads((cell / "finished.json").read_text())
        seal_cell(cell, holds["method"], holds["seed"])
    more = ["-s", "budget.amount=960", "-s", "train.checkpoints=3", "-s", "runtime.workers=1"]
    code, said = harness("plan", *options, *more, "--pilot", str(run_dir))
    assert code == 0 and "The whole study takes about 13s and" in said and "not measured" not in said, said
    code, said = harness("plan", *options, "--pilot", "nowhere")
    assert code == 2 and "nowhere" in said


def test_the_margin_and_pairs_are_the_studys(harness: Run) -> None:
    for setting, message in (
        ("report.margin=0", "report.margin"),
        ("report.alpha=1.5", "report.alpha"),
        ('report.pairs=[["sft","gpro"]]', "report.pairs: gpro"),
        ('report.pairs=[["sft","sft"]]', "two different methods"),
        ('report.pairs=[["sft","grpo"],["grpo","sft"]]', "each pair once"),
        ("report.marginn=1", "did you mean margin"),
    ):
        code, said = harness("plan", "--methods", "sft,grpo", "-s", setting)
        assert code == 2 and message in said, said
    code, said = harness("plan", "--study", "2b", "--seeds", "3", "-s", 'report.pairs=[["sft","grpo"]]')
    assert code == 0 and "over 1 pair" in said
