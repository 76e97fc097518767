"""Studies to be killed: tiny ones, all their processes, and whether a run ended as an untouched one does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from harness.errors import UserError
from harness.io import read_json

MARK = "HARNESS_TEST_RUN"
"""A variable in the environment of every process of a run, its grandchildren included: the run directory."""

STUDY = """
name = "kill"
methods = {methods}
first_seed = {seed}

[model]
name = "tiny"
tuning = "full"
precision = "fp32"

[data]
train = "world:train@{scenes}"
benchmark = "world:test@2"
frames = 4
max_pixels = 3136

[rollout]
max_new_tokens = 4

[budget]
kind = "steps"
amount = {steps}

[train]
learning_rate = 1e-3
prompts_per_step = 2
checkpoints = {checkpoints}

[evaluation]
max_new_tokens = 4
batch = 4

[runtime]
workers = 2
threads = 1
cache = "{cache}"

[method.grpo]
group_size = 2
"""

_BEGIN = "--- begin\n"
_NOT_COMPARED = ("fairness.", "methods.", "compute.")
"""Tables that tell seconds, memory and paths."""
_COST = re.compile(rb"Per training run, .*")
"""The last sentence of a verdict."""
_COSTS = ("seconds", "peak_memory", "forward_passes")
"""What a machine spends; a resumed run sees its videos again."""


def write_study(
    path: Path, methods: Sequence[str], cache: Path, *, steps: int, checkpoints: int, seed: int = 0, scenes: int = 2
) -> Path:
    """Write a study that takes seconds; of eight scenes on, worker processes make its data."""
    words = {"methods": json.dumps(list(methods)), "cache": cache, "seed": seed, "steps": steps}
    path.write_text(STUDY.format(**words, checkpoints=checkpoints, scenes=scenes))
    return path


def start(study: Path, run_dir: Path, code: Path | None = None) -> subprocess.Popen[bytes]:
    """``harness compare`` as the leader of a session of its own; its output goes to a log beside the run directory.

    ``code`` is the root of the checkout to run, by default the present one.
    """
    environment = os.environ | {MARK: str(run_dir)}
    if code is not None:
        environment["PYTHONPATH"] = str(code)
    command = [sys.executable, "-m", "harness", "compare", "--study", str(study), "--out", str(run_dir)]
    with log_of(run_dir).open("ab") as log:
        log.write(_BEGIN.encode())
        log.flush()
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment, cwd=code)


def log_of(run_dir: Path) -> Path:
    """What a run's commands printed."""
    return run_dir.with_suffix(".log")


def alive(run_dir: Path) -> list[psutil.Process]:
    """All processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(run_dir) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def left_after(run_dir: Path, seconds: float) -> list[psutil.Process]:
    """The processes of a run that are still there after so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := alive(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def progress(run_dir: Path) -> int:
    """Lines of training steps and answers so far, over all cells."""
    files = [*run_dir.glob("cells/*/metrics.jsonl"), *answers(run_dir)]
    return sum(file.read_bytes().count(b"\n") for file in files)


def answers(folder: Path) -> list[Path]:
    """The files of answers of a run directory or a cell."""
    return sorted(path for path in folder.rglob("samples.jsonl") if ".old" not in path.parent.name)


def states(run_dir: Path) -> dict[str, str]:
    """The state of each cell, as recorded."""
    return {path.parent.name: read_json(path)["state"] for path in run_dir.glob("cells/*/status.json")}


def leftovers(*roots: Path) -> list[str]:
    """Temporary files and folders."""
    return sorted(str(path) for root in roots for path in root.rglob(".*.tmp"))


def differences(run_dir: Path, whole: Path) -> list[str]:
    """In what a run differs from an untouched one: tables, answers, weights, optimiser, numbers of steps, states."""
    found = []
    tables = [path for path in whole.glob("report/*.*") if path.suffix in (".md", ".tex", ".csv", ".json")]
    exact = [path for path in tables if not path.name.startswith(_NOT_COMPARED)]
    for path in [*exact, *answers(whole), *whole.rglob("*.safetensors")]:
        mine = run_dir / path.relative_to(whole)
        if not mine.is_file() or _COST.sub(b"", mine.read_bytes()) != _COST.sub(b"", path.read_bytes()):
            found.append(str(path.relative_to(whole)))
    for name in ("metrics.jsonl", "compute.json", "trainer/state.json"):
        for path in whole.glob(f"cells/**/{name}"):
            mine = run_dir / path.relative_to(whole)
            if not mine.is_file() or _timeless(mine) != _timeless(path):
                found.append(str(path.relative_to(whole)))
    if states(run_dir) != states(whole):
        found.append(f"states {states(run_dir)}")
    for mine, theirs in ((run_dir, whole), (whole, run_dir)):
        extra = {str(path.relative_to(mine)) for path in _kept(mine)} - {
            str(p.relative_to(theirs)) for p in _kept(theirs)
        }
        found += [f"only in {mine.name}: {name}" for name in sorted(extra)]
    return found


def _kept(run_dir: Path) -> list[Path]:
    """Checkpoints with their content, and answers."""
    return [*run_dir.glob("cells/*/checkpoints/**/*"), *run_dir.rglob("samples.jsonl")]


def _timeless(path: Path) -> list[Any]:
    """A file's JSON without costs."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(one) for key, one in value.items() if key not in _COSTS}
        return [cleaned(one) for one in value] if isinstance(value, list) else value

    return [cleaned(json.loads(line)) for line in lines]


class Phase(StrEnum):
    """Where a command is."""

    START = "start-up"
    DATA = "data"
    CELL = "start of a cell"
    TRAIN = "training"
    CHECKPOINT = "checkpoint"
    EVALUATE = "evaluation"
    SCORE = "scoring"
    REPORT = "report"


def phases_of(pid: int, run_dir: Path) -> set[Phase]:
    """Where a command and its cells are, as far as files and children tell."""
    children = [_words_of(child) for child in _children(pid)]
    cells = [words[words.index("harness.study.cell") + 2] for words in children if "harness.study.cell" in words]
    if cells:
        return {_phase_of_cell(run_dir / "cells" / cell) for cell in cells}
    if any("spawn_main" in " ".join(words) for words in children):
        return {Phase.DATA}
    told = log_of(run_dir).read_text(errors="replace").rpartition(_BEGIN)[2]
    return {Phase.REPORT if "Nothing to compute" in told or ": running" in told else Phase.START}


def _phase_of_cell(folder: Path) -> Phase:
    try:
        status = read_json(folder / "status.json")
    except UserError:
        return Phase.CELL
    if status["phase"] == "train":
        return Phase.CHECKPOINT if any(folder.glob("checkpoints/.step-*")) else Phase.TRAIN
    if status["phase"] == "evaluate":
        return Phase.SCORE if "overall" in status["numbers"] else Phase.EVALUATE
    return Phase.CELL


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []
