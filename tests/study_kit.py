"""Small studies on the packaged tiny model and a data set of random videos, for tests of cells and reports."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from conftest import write_small_dataset

from harness.config.evaluation import DEVELOPMENT
from harness.config.study import StudyConfig
from harness.console import Console
from harness.errors import UserError
from harness.io import read_json, sha256_file, write_json, write_text
from harness.study import matrix
from harness.study.asked import EvaluationManifest
from harness.study.compare import describe_study
from harness.study.description import read_description
from harness.study.evaluation import score_evaluation
from harness.study.finished import write_finished
from harness.study.matrix import Cell
from harness.study.planning import Plan, make_plan
from harness.study.scored import Rules, benchmark_of
from harness.study.setup import read_development
from harness.study.status import State, Status, write_status
from harness.train.meter import Consumption

QUIET = Console(quiet=True)


def small_study(root: Path, **changes: Any) -> StudyConfig:
    """A study of a few steps; ``changes`` replace top-level sections or add to them."""
    if not (root / "data").is_dir():
        for split in ("train", "test"):
            write_small_dataset(root / "data", split=split)
    sections: dict[str, Any] = {
        "name": "small",
        "methods": ("sft",),
        "model": {"name": "tiny", "tuning": "full", "precision": "fp32"},
        "data": {
            "train": f"{root / 'data'}#train",
            "benchmark": f"{root / 'data'}#test",
            "frames": 4,
            "max_pixels": 56 * 56,
        },
        "rollout": {"max_new_tokens": 4},
        "budget": {"kind": "steps", "amount": 2},
        "train": {"prompts_per_step": 2, "checkpoints": 2},
        "evaluation": {"max_new_tokens": 4, "batch": 4},
        "runtime": {"threads": 1, "cache": root / "cache"},
        "method": {"grpo": {"group_size": 2}, "dpo": {"rollouts": 2}},
    }
    for key, value in changes.items():
        merges = isinstance(value, dict) and key != "reward"
        sections[key] = {**sections.get(key, {}), **value} if merges else value
    return StudyConfig(**sections)


def prepare_cells(study: StudyConfig, run_dir: Path) -> tuple[Plan, dict[str, Cell]]:
    """A run directory with its cells pending, as ``compare`` leaves it before the first process starts."""
    plan = make_plan(study, QUIET)
    matrix.write_matrix(
        run_dir, study, plan.cells, train_digest=plan.train.digest, benchmark_digest=plan.benchmark.digest
    )
    describe_study(study, run_dir, plan, QUIET)
    for cell in plan.cells:
        matrix.write_cell(run_dir, study, cell)
    return plan, {f"{cell.method}-{cell.seed}": cell for cell in plan.cells}


def rules_of(run_dir: Path, name: str) -> Rules:
    """A benchmark of a run directory's study, with its code."""
    study = StudyConfig(**read_json(run_dir / matrix.STUDY_FILE))
    told = read_description(run_dir, study)
    benchmark = benchmark_of(study, name)
    asked = read_development(study) if name == DEVELOPMENT else None
    records = (benchmark.questions() or asked or told.benchmark).records
    return Rules(name, benchmark, records, told.benchmarks[name].rules)


def finish_cell(
    run_dir: Path,
    cell: Cell,
    answers: dict[str, str],
    *,
    step: int = 0,
    prompt: str = "p",
    evaluated: str = "vsibench",
    sealed: bool = True,
    **identity: str,
) -> Path:
    """Give a cell the answers of one checkpoint, as if it had computed them, and unless more follow seal it."""
    folder = cell.folder(run_dir) / evaluated / f"step-{step:06d}"
    lines = [
        {"id": int(key), "answer": answer, "truncated": False, "tokens": 2, "prompt": f"{prompt}{key}"}
        for key, answer in answers.items()
    ]
    write_text(folder / "samples.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    full = {
        "weights": cell.id,
        "benchmark": "b" * 64,
        "prompts": "official/" + "c" * 64,
        "frames": "d" * 64,
        "decoding": "greedy",
        "engine": "e",
    } | identity
    manifest = {"identity": full, "n": len(lines), "complete": True, "samples": sha256_file(folder / "samples.jsonl")}
    EvaluationManifest(**manifest).write(folder)
    with suppress(UserError):  # answers that a test spoils on purpose cannot be scored
        score_evaluation(folder, rules_of(run_dir, evaluated), "official")
    write_status(cell.folder(run_dir), Status(state=State.DONE))
    if not cell.is_base:
        names = list(Consumption.__annotations__)
        write_json(cell.folder(run_dir) / "compute.json", dict.fromkeys(names, 4))
    if sealed:
        seal_cell(cell.folder(run_dir), cell.method, cell.seed)
    return folder


def seal_cell(folder: Path, method: str, seed: int) -> None:
    """Record what a cell's folder holds now as what it consists of."""
    found = sorted(one for one in folder.glob("*/step-*/manifest.json") if "checkpoints" not in one.parts)
    weights = {one.parent.name: read_json(one)["identity"]["weights"] for one in found}
    names = dict.fromkeys(one.parent.parent.name for one in found)
    write_finished(folder, method, seed, dict(sorted(weights.items())), names)
