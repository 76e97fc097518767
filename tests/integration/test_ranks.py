"""Two processes that train together compute what one computes, through the cell's own entry point."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from study_kit import prepare_cells, small_study

from harness.plugins import registry
from harness.study.launch import run_cells
from harness.study.status import State, read_status
from harness.train.ranks import Ranks

pytestmark = pytest.mark.slow

SECTIONS: dict[str, Any] = {
    # 9 records and 5 prompts a step: shares are unequal, and the second step crosses into the next epoch.
    "budget": {"kind": "steps", "amount": 2},
    "train": {"prompts_per_step": 5, "checkpoints": 1, "learning_rate": 1e-4, "micro_batch": 4, "warmup_steps": 0},
    # Some group of each step has unequal rewards; the gradient of the KL penalty alone is mostly rounding.
    "method": {"grpo": {"group_size": 8}},
}


def trained(root: Path, method: str, processes: int, **train: Any) -> Path:
    """Run a study's cells of one method; its cell's folder."""
    sections = SECTIONS | {"train": SECTIONS["train"] | {"processes": processes} | train}
    study = small_study(root, methods=(method,), **sections)
    run = root / f"{method}-{processes}"
    _, cells = prepare_cells(study, run)
    states = run_cells(run, [cells[f"{method}-0"]], workers=1, threads=1)
    folder = cells[f"{method}-0"].folder(run)
    assert set(states.values()) == {State.DONE}, (folder / "log.txt").read_text()
    return folder


def steps(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["sft", "reinforce-pp"])
def test_two_processes_train_what_one_trains(method: str, tmp_path: Path) -> None:
    """The second method looks across all groups of a step, which no process holds alone."""
    one, two = trained(tmp_path, method, 1), trained(tmp_path, method, 2)
    for a, b in zip(steps(one), steps(two), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds"}:
            # The second step begins from weights that differ by AdamW's rounding (see below), and the KL measures how
            # far the first one moved them.
            later = 1e-2 if name == "kl" else 2e-3
            assert b[name] == pytest.approx(a[name], rel=later if a["step"] > 1 else 1e-5, abs=1e-6), name
    consumed = [json.loads((folder / "compute.json").read_text()) for folder in (one, two)]
    for name in ("steps", "examples", "updates", "tokens_sampled", "tokens_trained"):
        assert consumed[0][name] == consumed[1][name], name
    weights = [load_file(next((folder / "checkpoints").glob("*/model.safetensors"))) for folder in (one, two)]
    for name, value in weights[0].items():
        # AdamW's first steps move a weight by the learning rate whatever its gradient, so tiny gradients may differ.
        torch.testing.assert_close(weights[1][name].float(), value.float(), atol=2.5e-4, rtol=0)
        assert float((weights[1][name] - value).abs().mean()) < 1e-5, name
    assert read_status(two).state is State.DONE


DYING = """
import os
from algorithms.sft import SFT

class Dying(SFT):
    def loss(self, batch):
        if os.environ["RANK"] == "1":
            os._exit(3)
        return super().loss(batch)
"""


def test_a_process_that_dies_fails_the_cell_with_a_reason(tmp_path: Path) -> None:
    """The first one waits for its share of the gradient, which never comes."""
    (tmp_path / "dying.py").write_text(DYING)
    sections = SECTIONS | {
        "train": SECTIONS["train"] | {"processes": 2},
        "runtime": {"plugins": [tmp_path / "dying.py"]},
    }
    registry.add_file(tmp_path / "dying.py")
    study = small_study(tmp_path, methods=("dying",), **sections)
    _, cells = prepare_cells(study, tmp_path / "run")
    cell = cells["dying-0"]
    states = run_cells(tmp_path / "run", [cell], workers=1, threads=1)
    assert states[cell.id] is State.FAILED
    assert read_status(cell.folder(tmp_path / "run")).reason == (
        "one of its 2 processes ended with exit code 3; see the log"
    )


def test_shares_cover_everything_once_and_come_back_in_order() -> None:
    items = list(range(7))
    shares = [Ranks(rank, 3).share(items) for rank in range(3)]
    assert sorted(itertools.chain(*shares)) == items
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert Ranks().gather(items) == items
