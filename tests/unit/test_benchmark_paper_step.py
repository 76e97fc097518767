"""The benchmark of the paper's methods runs, at a size that says nothing about speed."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "paper_step.py"
SMALL = (
    *("--shape", "tiny", "--answers", "4", "--repeats", "1", "--json", "-s", "train.prompts_per_step=2"),
    *("-s", "grpo.group_size=4", "-s", "data.frames=4", "-s", "data.max_pixels=50176"),
)
# Neither a video decoder nor TRL is there where the benchmark runs.
WITHOUT = "import sys, runpy; sys.modules['av'] = sys.modules['trl'] = None; sys.argv = sys.argv[1:]; "


@pytest.fixture(scope="module")
def finished() -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = f"sys.path.insert(0, {str(SCRIPT.parent)!r}); runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-c", WITHOUT + run, str(SCRIPT), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


def test_every_method_takes_real_steps_with_the_shared_engine(finished):
    rows = json.loads(finished.stdout.splitlines()[-1])["rows"]
    assert [(row["method"], row["answers"]) for row in rows] == [
        ("sft", None),
        ("dpo:pairs=corrupted", None),
        ("dpo", 4),
        ("grpo", 4),
    ]
    for row in rows:
        assert row["weights_changed"] and row["engine"] == "shared" and len(row["every_step"]) == 2
        seconds = row["seconds"]
        assert sum(seconds[phase] for phase in ("sampling", "reference", "update")) == pytest.approx(seconds["step"])
        assert (seconds["sampling"] > 0) == (row["answers"] is not None)
        assert row["projected_hours"] == pytest.approx(116_900 / row["prompts_per_step"] * seconds["step"] / 3600)
        assert row["estimated_bytes"] == pytest.approx(row["measured_bytes"], rel=0.25), row["method"]
    assert rows[-1]["tokens_trained_per_second"] == pytest.approx(
        (2 * rows[-1]["prompt"] + 2 * 4 * 4) / rows[-1]["seconds"]["step"], rel=0.05
    )


def test_the_table_sets_the_paper_beside_it(finished):
    assert "| grpo | 4 |" in finished.stdout and "the paper reports 120 GPU hours" in finished.stdout
    assert "CPU: seconds say nothing about a GPU" in finished.stdout


def test_the_true_shape_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    benchmark = importlib.import_module("paper_step")
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["paper_step.py"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        benchmark.main()
