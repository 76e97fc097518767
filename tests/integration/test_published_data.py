"""From published files to a report: VSI-100k with ScanNet and VSI-Bench in small, through the command line."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datasets_kit import write_scannet, write_vsi_100k, write_vsi_bench

from harness.cli import app as cli
from harness.config.study import load_study
from harness.data.contents import content_digest
from harness.io import read_json
from harness.models.loading import model_config
from harness.study.cell import main as run_cell
from harness.study.matrix import write_cell
from harness.study.planning import make_plan
from harness.study.setup import frame_cache, load_data

Cli = Callable[..., tuple[int, str, str]]

STUDY = """
extends = "tiny"
name = "published"
methods = ["sft", "dpo:pairs=corrupted", "grpo"]

[model]
tuning = "lora"

[data]
train = "vsi-100k"
benchmark = "vsi-bench"
split = "debiased"
benchmark_limit = 30
frames = 4
max_pixels = 7056

[rollout]
max_new_tokens = 4

[budget]
kind = "steps"
amount = 1

[train]
prompts_per_step = 2
checkpoints = 1

[evaluation]
max_new_tokens = 4

[runtime]
cache = "cache"

[method.grpo]
group_size = 2
"""


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def handler_kept() -> Iterator[None]:
    """A cell takes SIGTERM over, which the test process wants back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def copies(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has after the downloads."""
    cache = tmp_path_factory.getbasetemp() / "world-cache"
    write_vsi_bench(tmp_path / "download" / "bench", cache)
    write_vsi_100k(tmp_path / "download" / "train", cache)
    write_scannet(tmp_path / "download" / "scannet", cache, stills=True)
    return tmp_path


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_prepare_train_evaluate_report(harness: Cli, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.video.predecode.MIN_UNDECODED_BYTES", 1)  # the real videos are larger than these
    code, out, _ = harness("data", "prepare", "vsibench", "--from", "download/bench", "--out", "vsi-bench", "--part")
    full, pruned = (len(lines(copies / "download" / "bench" / name)) for name in ("test.jsonl", "pruned_ids.txt"))
    assert code == 0 and f"{full} questions on 6 scenes, 6 videos decoded" in out
    assert f"splits: full {full}, debiased {full - pruned}, pruned {pruned}" in out
    scannet = ("--scannet", "download/scannet")
    code, out, _ = harness("data", "prepare", "vsi-100k", "--from", "download/train", *scannet, "--out", "vsi-100k")
    assert code == 0 and "note: VSI-100k measures the absolute distance between the centres" in out
    (copies / "study.toml").write_text(STUDY)
    code, out, error = harness("compare", "--study", "study.toml", "--out", "run")
    assert code == 0, out + error
    assert re.search(r"\d+ videos decoded by \d+ process", out)
    run_dir = copies / "run"
    cells = {folder.name.split("-")[0]: folder for folder in (run_dir / "cells").iterdir()}
    assert sorted(cells) == ["base", "dpo", "grpo", "sft"]
    for method in ("sft", "dpo", "grpo"):
        consumed = read_json(cells[method] / "compute.json")
        assert consumed["steps"] == 1 and consumed["tokens_trained"] > 0
    answered = (cells["grpo"] / "vsibench" / "step-000001" / "samples.jsonl").read_text().splitlines()
    assert 18 < len(answered) <= 30
    scores = (run_dir / "report" / "scores.csv").read_text()
    assert all(name in scores for name in ("base", "sft", "dpo:pairs=corrupted", "grpo"))
    card = (run_dir / "report" / "fairness.md").read_text()
    assert "centres of two objects" in card and "free text without options" in card
    study = load_study("study.toml")
    train, benchmark = load_data(study)
    assert train is not None and train.notes and len(benchmark.records) == len(answered)
    evaluated = read_json(cells["base"] / "vsibench" / "step-000000" / "manifest.json")
    shown = content_digest(benchmark, frame_cache(study, model_config(study.model.name)))
    assert evaluated["identity"]["benchmark"] == shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("vsibench", "--from", "download/bench"), " instead of 565; object_abs_distance "),
        (("vsibench", "--from", "nowhere"), "`--from nowhere`: no such folder"),
        (("vsibench", "--from", "nyu-visionx/VSI-Bench"), "offline mode is on"),
        (("vsi-100k", "--from", "download/bench"), "no JSON file is named after a question type"),
        (("vsi-100k", "--from", "download/train", "--field", "answer"), "write OURS=THEIRS"),
        (("vsi-100k", "--from", "download/train", "--field", "answer=x"), "data.fields.answer`: no such name"),
        (("vsi-100k", "--from", "download/train", "--scannet", "download/bench"), "no video of 6 of 6 scenes"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(
    harness: Cli, copies: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, _, error = harness("data", "prepare", *arguments, "--out", "made")
    assert code == 2
    assert words in error and "Traceback" not in error


def test_prepared_without_scannet_says_what_is_missing(harness: Cli, copies: Path) -> None:
    code, out, _ = harness("data", "prepare", "vsi-100k", "--from", "download/train", "--out", "made")
    assert code == 0 and "No videos are linked. VSI-100k ships no videos. Get ScanNet v2" in out
    harness("data", "prepare", "vsibench", "--from", "download/bench", "--out", "bench", "--part")
    code, _, error = harness("compare", "--data", "made", "--benchmark-data", "bench", "--dry-run")
    assert code == 2 and re.search(r"scene\d{4}_\d\d\.mp4 is missing; VSI-100k ships no videos", error)


def test_too_many_frames_for_a_video_are_refused_by_name(harness: Cli, copies: Path) -> None:
    harness("data", "prepare", "vsibench", "--from", "download/bench", "--out", "vsi-bench", "--part")
    manifest = read_json(copies / "vsi-bench" / "manifest.json")
    (copies / "study.toml").write_text(STUDY.replace("frames = 4", f"frames = {manifest['shortest_video'] + 2}"))
    study = load_study("study.toml", changes={"data.train": "world:train@1"})
    from harness.console import Console

    plan = make_plan(study, Console(quiet=True))
    write_cell(copies / "run", study, plan.cells[0])
    assert run_cell([str(copies / "run"), plan.cells[0].id]) == 1
    reason = read_json(plan.cells[0].folder(copies / "run") / "status.json")["reason"]
    assert "frames and" in reason and "Lower `frames`" in reason and ".mp4" in reason
