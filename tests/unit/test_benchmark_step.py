"""The step benchmark runs, at a size that says nothing about speed: its JSON, and that every contender takes a step."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

pytest.importorskip("trl")
pytest.importorskip("datasets")

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "step.py"
SMALL = ("--model", "tiny", "--device", "cpu", "--prompt", "64", "--completion", "3", "--group", "2", "--repeats", "1")


@pytest.fixture(scope="module")
def finished() -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), *SMALL, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def report(finished):
    return json.loads(finished.stdout.splitlines()[-1])


def test_the_last_line_holds_ratios_settings_and_machine(report):
    for key in ("trl_over_engine", "naive_over_engine", "memory_trl_over_engine", "memory_naive_over_engine"):
        assert report["ratio"][key] > 0
    seconds = {name: row["seconds"]["step"] for name, row in report["contenders"].items()}
    assert report["ratio"]["trl_over_engine"] == pytest.approx(seconds["trl"] / seconds["engine"])
    assert report["settings"]["repeats"] == 1 and report["cell"] == {"prompt": 64, "completion": 3, "group": 2}
    assert not report["machine"]["gpu"] and report["machine"]["teraflops"] > 0
    assert 0 < report["floor"]["step"] < seconds["engine"]


@pytest.mark.parametrize("name", ["trl", "naive", "engine"])
def test_every_contender_takes_the_same_real_step(report, name):
    row = report["contenders"][name]
    assert row["parameters_changed"] and all(one["parameters_changed"] for one in row["tried"].values())
    assert row["tokens"] == 2 * 3 and all(one["tokens"] == 2 * 3 for one in row["tried"].values())
    assert set(row["tried"]) == ({"2"} if name == "engine" else {"1", "2"})
    assert all(row["seconds"][phase] > 0 for phase in ("sampling", "reference", "update"))
    assert sum(row["seconds"][phase] for phase in ("sampling", "reference", "update")) == pytest.approx(
        row["seconds"]["step"]
    )
    assert row["held_bytes_whole_group"] >= row["held_bytes"] > 0


def test_a_group_at_once_keeps_its_prompt_once(report):
    """Half the prompts are kept, so less than what the plain way keeps; and that is about twice one completion's."""
    kept = {name: row["held_bytes_whole_group"] for name, row in report["contenders"].items()}
    one = report["contenders"]["naive"]["tried"]["1"]["held_bytes"]
    assert kept["engine"] < 0.75 * kept["naive"]
    assert kept["naive"] == pytest.approx(2 * one, rel=0.05)


def test_it_prints_a_table_and_says_that_there_is_no_gpu(finished):
    assert "| engine | 2 |" in finished.stdout
    assert "no GPU" in finished.stderr
    assert "64/3/2: trl " in finished.stderr, "a line for each cell, as soon as it is measured"


class Layers(nn.Module):
    """Each of three layers keeps what its tanh gives, unless the last two are computed again."""

    def __init__(self, checkpointed):
        super().__init__()
        self.first, self.rest = (nn.Sequential(*[nn.Linear(8, 8), nn.Tanh()] * count) for count in (1, 2))
        self.checkpointed = checkpointed

    def forward(self, inputs):
        hidden = self.first(inputs)
        return checkpoint(self.rest, hidden, use_reentrant=False) if self.checkpointed else self.rest(hidden)


@pytest.mark.parametrize(("checkpointed", "kept"), [(False, 3), (True, 1)])
def test_what_waits_for_a_backward_pass_is_counted(monkeypatch, checkpointed, kept):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    meters = importlib.import_module("meters")
    model = Layers(checkpointed)
    memory, inputs, stock = meters.HeldMemory(model, model), torch.randn(10, 8), torch.autograd.backward
    with memory.watch():
        for _ in range(2):  # the second finds the gradients of the first
            with torch.no_grad():
                model(inputs)
            model(inputs).sum().backward()
    one, loss = 10 * 8 * 4, 4
    assert memory.held == kept * one + loss
    assert memory.peak > memory.held
    assert torch.autograd.backward is stock


def test_the_large_shape_is_refused_without_a_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    step = importlib.import_module("step")
    monkeypatch.setattr(step.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["step.py", "--model", "qwen2-vl-2b"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        step.main()
