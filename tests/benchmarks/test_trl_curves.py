"""Fifty steps of each pair, ours and TRL's own trainer, on the tiny model with five seeds: are the curves the same?

SFT and DPO take the same rows in the same order, so their curves must agree step by step. GRPO samples with other
random numbers on either side, so the curves can only agree in distribution: the mean over the steps is compared over
seeds, paired since both see the same prompts. Run it by hand; it takes about a quarter of an hour of one core::

    python -m pytest -m study tests/benchmarks/test_trl_curves.py -s
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.table import Table
from scipy import stats

from harness.console import Console

pytest.importorskip("trl", minversion="1.16.0")
pytest.importorskip("datasets")

from harness.config.study import load_study
from harness.models.loading import model_digest
from harness.study.setup import prepare
from harness.study.work import train_cell

STEPS, SEEDS, LEVEL = 50, 5, 0.01
PAIRS = {
    "sft": ("loss", "grad_norm"),
    "dpo": ("loss", "grad_norm", "margin"),
    "grpo": ("reward", "length", "kl", "grad_norm", "zero_variance"),
}
STEP_BY_STEP = ("sft", "dpo")
SETTINGS: dict[str, Any] = {
    "data.train": "world:train@40",
    "data.benchmark": "world:test@2",
    "data.frames": 4,
    "budget.kind": "steps",
    "budget.amount": STEPS,
    "train.prompts_per_step": 4,
    "train.checkpoints": 1,
    "method": {
        "sft": {"train": {"learning_rate": 5e-5}},
        "dpo": {"rollouts": 4, "train": {"learning_rate": 5e-5}},
        "grpo": {"group_size": 4, "beta": 0.01, "train": {"learning_rate": 5e-5}},
    },
    "runtime.threads": 1,
    "report.pairs": None,
}

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]


def curve(method: str, seed: int, folder: Path, cache: Path) -> dict[str, np.ndarray]:
    """What each step of one run logged, by name."""
    study = load_study("tiny", methods=[method], changes=SETTINGS | {"runtime.cache": str(cache)}).for_method(method)
    train_cell(prepare(study, seed=seed), method, folder, seed, model_digest(study.model.name))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS
    return {name: np.array([line.get(name, np.nan) for line in lines], dtype=float) for name in lines[-1]}


def test_curves_of_both_trainers(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    table = Table(title=f"{STEPS} steps, {SEEDS} seeds, mean over the steps (standard deviation over seeds)")
    for head in ("Pair", "Number", "Ours", "TRL", "Difference [95%]", "p", "Largest gap in a step"):
        table.add_column(head)
    tests: list[float] = []
    for method, names in PAIRS.items():
        runs = {
            who: [curve(who, seed, tmp_path / f"{who}-{seed}", cache) for seed in range(SEEDS)]
            for who in (method, f"trl-{method}")
        }
        for name in names:
            ours, theirs = (np.stack([run[name] for run in runs[who]]) for who in runs)
            gap = float(np.nanmax(np.abs(ours - theirs)) / np.nanmax(np.abs(ours)))
            one, other = np.nanmean(ours, axis=1), np.nanmean(theirs, axis=1)
            found = stats.ttest_rel(other, one)
            low, high = found.confidence_interval(0.95)
            shown = [f"{values.mean():.4g} ({values.std(ddof=1):.2g})" for values in (one, other)]
            difference = f"{(other - one).mean():+.2g} [{low:+.2g}, {high:+.2g}]"
            exact = method in STEP_BY_STEP
            p = "-" if exact else f"{found.pvalue:.2f}"
            table.add_row(method, name, *shown, difference, p, f"{gap:.1e} of the largest value")
            if exact:
                assert gap < 1e-3, (method, name, gap)
            else:
                tests.append(float(found.pvalue))
    Console(width=160).print(table)
    assert min(tests) > LEVEL / len(tests), "a number of GRPO's curves differs between the trainers, corrected"
