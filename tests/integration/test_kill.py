"""Kill -9 and Ctrl-C at random moments: the same command goes on, and the tables are the same bytes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

TABLES = [f"{table}.{form}" for table in ("scores", "pairs") for form in ("md", "tex", "csv", "json")]
STEPS, KILLS, SEED = 8, 3, 2024

STUDY = f"""
name = "kill"
methods = ["grpo"]

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
amount = {STEPS}

[train]
learning_rate = 1e-3
prompts_per_step = 2
checkpoints = 4

[evaluation]
max_new_tokens = 4
batch = 4

[runtime]
workers = 2
threads = 1
cache = "CACHE"

[method.grpo]
group_size = 2
"""


def start(study: Path, run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness", "compare", "--study", str(study), "--out", str(run_dir)]
    with run_dir.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def finish(study: Path, run_dir: Path) -> None:
    process = start(study, run_dir)
    assert process.wait(200) == 0, run_dir.with_suffix(".log").read_text()


def progress(run_dir: Path) -> int:
    """Lines of training steps and answers so far, over all cells."""
    files = [*run_dir.glob("cells/*/metrics.jsonl"), *run_dir.glob("cells/*/vsibench/*/samples.jsonl")]
    return sum(file.read_bytes().count(b"\n") for file in files)


def wait_until(process: subprocess.Popen[bytes], run_dir: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while progress(run_dir) < lines:
        assert process.poll() is None, f"ended before {lines} lines: {run_dir.with_suffix('.log').read_text()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(run_dir: Path) -> list[str]:
    """Command lines of processes that work on a run directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(run_dir) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(words))
    return found


def ended(run_dir: Path) -> bool:
    deadline = time.monotonic() + 10
    while alive(run_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(run_dir)


def states(run_dir: Path) -> set[str]:
    return {json.loads(path.read_text())["state"] for path in run_dir.glob("cells/*/status.json")}


@pytest.mark.timeout(600)
def test_a_killed_comparison_ends_in_the_same_bytes(tmp_path: Path) -> None:
    study, whole, parts = tmp_path / "kill.toml", tmp_path / "whole", tmp_path / "parts"
    study.write_text(STUDY.replace("CACHE", str(tmp_path / "cache")))
    finish(study, whole)
    total = progress(whole)

    rng = random.Random(SEED)
    targets = [rng.randrange(1, STEPS), *sorted(rng.sample(range(STEPS, total), KILLS))]  # the first is in training
    done = 0
    for number, target in enumerate(targets):
        process = start(study, parts)
        wait_until(process, parts, max(target, done + 1))
        time.sleep(rng.uniform(0, 0.2))
        if number < KILLS:
            process.kill()  # the parent alone: its cells must end by themselves
            assert process.wait(10) == -signal.SIGKILL
        else:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert "interrupted" in states(parts) and "running" not in states(parts)
            assert "Interrupted. Run the same command to resume" in parts.with_suffix(".log").read_text()
        assert ended(parts), alive(parts)
        done = progress(parts)
        assert not (parts / "report").exists()
    finish(study, parts)

    for name in TABLES:
        assert (parts / "report" / name).read_bytes() == (whole / "report" / name).read_bytes(), name
    for path in whole.glob("cells/*/vsibench/*/samples.jsonl"):
        assert (parts / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert states(parts) == {"done"}
    assert not list(parts.glob("cells/*/checkpoints/.step-*"))
