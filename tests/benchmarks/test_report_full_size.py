"""The whole analysis at VSI-Bench's full size: 5 methods x 5 seeds x 10 checkpoints, 5,130 questions, 288 rooms.

Run by hand: ``pytest -m study tests/benchmarks/test_report_full_size.py -s`` prints the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study_kit import seal_cell

from harness.config.study import StudyConfig
from harness.console import Console
from harness.io import sha256_file, write_json
from harness.study.asked import EvaluationManifest
from harness.study.compare import describe_study
from harness.study.evaluation import score_evaluation
from harness.study.planning import Plan
from harness.study.setup import read_benchmark, read_training
from harness.vsibench.published import published_counts
from harness.vsibench.rooms import published_rooms

METHODS, SEEDS, CHECKPOINTS = ("sft", "dpo", "grpo", "rloo", "kto"), 5, 10
SECONDS, MEGABYTES = 30, 1000

MEASURE = """
import json, resource, sys, time
from pathlib import Path
import reports.comparison as c
import statsmodels.api
before = time.process_time()
run = Path(sys.argv[1])
collected = c.collect(run)
tables = c.build_tables(c.results_of(collected))
c.table_files(tables)
c.checkpoint_curve(collected.headline)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.process_time() - before, peak, len(collected.headline.answers), len(tables.contrasts)]))
"""


def write_benchmark(root: Path, split: str, rng: np.random.Generator) -> list[dict]:
    types = [kind for kind, n in published_counts().items() for _ in range(n)]
    total = len(published_rooms())
    rooms = [*range(total), *rng.integers(0, total, len(types) - total)]
    rows = []
    for i, (kind, room) in enumerate(zip(types, rng.permutation(rooms), strict=True)):
        numeric = i < sum(list(published_counts().values())[:4])
        rows.append(
            {
                "id": i,
                "dataset": "world",
                "scene_name": f"{split}_{room:06d}",
                "question_type": kind,
                "question": "How many chair(s) are in this room?",
                "options": None if numeric else ["A. w", "B. x", "C. y", "D. z"],
                "ground_truth": "4" if numeric else "B",
            }
        )
    (root / "world").mkdir(parents=True, exist_ok=True)
    for row in rows:
        (root / "world" / f"{row['scene_name']}.mp4").touch()
    (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def write_run(root: Path) -> Path:
    """A run directory as its cells would have left it."""
    rng = np.random.default_rng(0)
    rows = write_benchmark(root / "data", "test", rng)
    write_benchmark(root / "data", "train", rng)
    data = {"train": f"{root}/data#train", "benchmark": f"{root}/data#test"}
    study = StudyConfig(
        name="full", methods=METHODS, seeds=SEEDS, data=data, budget={"kind": "steps", "amount": CHECKPOINTS}
    )
    run, cells = root / "run", []
    for method in ("base", *METHODS):
        for seed in range(1 if method == "base" else SEEDS):
            name = f"{method}-tiny-s{seed}-{len(cells):08x}"
            cells.append({"id": name, "method": method, "model": "tiny", "seed": seed, "hash8": name[-8:]})
            write_json(run / "cells" / name / "status.json", {"state": "done"})
            for step in range(1, 2 if method == "base" else CHECKPOINTS + 1):
                right = rng.random(len(rows)) < 0.4 + 0.01 * step
                wrong = rng.integers(0, 3, len(rows))
                lines = []
                for row, ok, other in zip(rows, right, wrong, strict=True):
                    truth = row["ground_truth"]
                    answer = truth if ok else ("3", "6", "9")[other] if row["options"] is None else "ACD"[other]
                    lines.append(f'{{"id": {row["id"]}, "answer": "{answer}", "truncated": false, "prompt": "p"}}\n')
                folder = run / "cells" / name / "vsibench" / f"step-{step:06d}"
                folder.mkdir(parents=True)
                (folder / "samples.jsonl").write_text("".join(lines))
                identity, digest = {"weights": f"{name}-{step}", "prompts": "p"}, sha256_file(folder / "samples.jsonl")
                EvaluationManifest(identity=identity, n=len(rows), complete=True, samples=digest).write(folder)
            seal_cell(run / "cells" / name, method, seed)
    train, benchmark = read_training(study), read_benchmark(study)
    rules = describe_study(study, run, Plan([], train, benchmark, {"vsibench": benchmark.digest}), Console(quiet=True))
    for samples in run.glob("cells/*/vsibench/*/samples.jsonl"):
        score_evaluation(samples.parent, rules[0], study.prompt.evaluation)
    write_json(run / "study.json", study.model_dump(mode="json"))
    write_json(run / "matrix.json", {"study": "full", "data": {}, "cells": cells})
    return run


@pytest.mark.study
@pytest.mark.timeout(1200)
def test_a_full_size_study_is_analysed_in_half_a_minute_and_a_gigabyte(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, megabytes, answers, contrasts = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{answers:,} answers, {contrasts} contrasts: {seconds:.1f} s of one core, {megabytes:.0f} MB at most")
    assert answers == 5130 * (1 + len(METHODS) * SEEDS * CHECKPOINTS)
    assert seconds < SECONDS and megabytes < MEGABYTES
