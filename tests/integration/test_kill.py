"""Kill -9 and Ctrl-C at random moments: the same command goes on, and the tables are the same bytes.

``tests/benchmarks/kill.py`` is the whole campaign.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kill_kit import differences, left_after, leftovers, log_of, progress, start, states, write_study

pytestmark = pytest.mark.slow

STEPS, KILLS, SEED = 8, 2, 2024


def finish(study: Path, run_dir: Path) -> None:
    process = start(study, run_dir)
    assert process.wait(200) == 0, log_of(run_dir).read_text()


def wait_until(process: subprocess.Popen[bytes], run_dir: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while progress(run_dir) < lines:
        assert process.poll() is None, f"ended before {lines} lines: {log_of(run_dir).read_text()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(600)
def test_a_killed_comparison_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    study = write_study(tmp_path / "kill.toml", ["grpo"], tmp_path / "cache", steps=STEPS, checkpoints=4)
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
            assert "interrupted" in states(parts).values() and "running" not in states(parts).values()
            assert "Interrupted. Run the same command to resume" in log_of(parts).read_text()
        assert not left_after(parts, 5)
        done = progress(parts)
        assert not (parts / "report").exists()
    finish(study, parts)

    assert not differences(parts, whole)
    assert set(states(parts).values()) == {"done"}
    assert not leftovers(parts)
