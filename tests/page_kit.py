"""A fabricated run directory: answers, curves and states as cells would have left them, from a seed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from study_kit import seal_cell

from harness.config.study import StudyConfig
from harness.console import Console
from harness.io import sha256_file, write_json, write_sealed, write_text
from harness.study.asked import EvaluationManifest
from harness.study.compare import describe_study
from harness.study.evaluation import score_evaluation
from harness.study.planning import Plan
from harness.study.setup import load_data
from harness.vsibench.records import Record
from harness.vsibench.types import LETTERS

SKILL = {"base": 0.30, "sft": 0.42, "dpo": 0.44, "grpo": 0.60}
"""Share of questions that each method answers right at the end of training."""

PLACES = [(20, 320, 40.0), (40, 640, 85.0), (60, 960, 130.0)]
"""Step, examples and device seconds of the checkpoints."""

Answer = Callable[[Record, str, int], str | None]


def fabricate_run(
    root: Path,
    *,
    train: str,
    benchmark: str,
    cache: Path,
    methods: Sequence[str] = ("sft", "dpo", "grpo"),
    seeds: int = 3,
    checkpoints: int = 3,
    failed: Mapping[tuple[str, int], str] | None = None,
    metrics: bool = True,
    answer: Answer | None = None,
) -> Path:
    """Write a run directory that :func:`reports.collect.collect` accepts.

    Args:
        root: The run directory.
        train: Training source.
        benchmark: Benchmark source.
        cache: For generated data.
        methods: Methods besides base.
        seeds: Repetitions.
        checkpoints: Evaluated checkpoints of each cell, at most three.
        failed: Reason by (method, seed) of cells that have no answers.
        metrics: Whether cells logged metrics.
        answer: (record, method, seed) to a raw answer that replaces the drawn one, unless None.
    """
    study = StudyConfig.model_validate(
        {
            "name": root.name,
            "methods": list(methods),
            "seeds": seeds,
            "data": {"train": train, "benchmark": benchmark},
            "budget": {"kind": "examples", "amount": 960},
            "train": {"checkpoints": checkpoints},
            "runtime": {"cache": str(cache)},
        }
    )
    data, asked = load_data(study)
    assert data is not None
    records = asked.records
    rules = describe_study(study, root, Plan([], data, asked, {"vsibench": asked.digest}), Console(quiet=True))
    cells = [("base", 0), *((method, seed) for method in methods for seed in range(seeds))]
    ids = {(m, s): f"{m}-tiny-s{s}-{zlib.crc32(f'{m}{s}'.encode()):08x}" for m, s in cells}
    for cell, name in ids.items():
        folder = root / "cells" / name
        if failed and cell in failed:
            write_json(folder / "status.json", {"state": "failed", "reason": failed[cell]})
            continue
        _write_cell(folder, cell, study, records, checkpoints, metrics, answer)
    for folder in root.glob("cells/*/*/step-*/"):
        if (folder / "samples.jsonl").is_file():
            score_evaluation(folder, rules[0], study.prompt.evaluation)
    write_json(root / "study.json", study.model_dump(mode="json"))
    rows = [{"id": n, "method": m, "model": "tiny", "seed": s, "hash8": n[-8:]} for (m, s), n in ids.items()]
    write_json(root / "matrix.json", {"study": study.name, "data": {"train": "", "benchmark": ""}, "cells": rows})
    command = f"harness compare --methods {','.join(methods)} --model tiny"
    write_json(root / ".harness.lock", {"holder": {}, "since": "", "command": command, "held": False})
    return root


def _write_cell(
    folder: Path,
    cell: tuple[str, int],
    study: StudyConfig,
    records: Sequence[Record],
    checkpoints: int,
    metrics: bool,
    answer: Answer | None,
) -> None:
    method, seed = cell
    weights = {step: f"{method}{seed}{step}".encode().hex() * 4 for step, *_ in [(0, 0), *PLACES]}
    rng = np.random.default_rng([seed, *method.encode()])
    base = method == "base"
    places = [(0, 0, 0.0)] if base else PLACES[-checkpoints:]
    for number, (step, examples, seconds) in enumerate(places, 1):
        skill = SKILL["base"] + (SKILL.get(method, 0.4) - SKILL["base"]) * number / len(places) + rng.normal(0, 0.01)
        lines = [_line(record, method, seed, skill, rng, answer) for record in records]
        _write_answers(folder / study.evaluation.benchmark / f"step-{step:06d}", lines, weights[step])
        if not base:
            consumed = {"steps": step, "examples": examples, "seconds": seconds * _cost(method), "updates": step}
            consumed |= {"tokens_sampled": 0 if method == "sft" else 150 * step, "tokens_trained": 60 * step}
            consumed |= {"forward_passes": round(6 * step * _cost(method)), "peak_memory": 2**29}
            manifest = folder / "checkpoints" / f"step-{step:06d}" / "manifest.json"
            write_sealed(manifest, {"digest": weights[step], "consumed": consumed})
            write_json(folder / "compute.json", consumed)
    if metrics and not base:
        write_text(folder / "metrics.jsonl", "".join(json.dumps(one) + "\n" for one in _metrics(method, rng)))
    environment = {"packages": {"torch": "2.13.0", "transformers": "5.23.0"}, "python": "3.11.7", "threads": 1}
    environment |= {"device": "cpu", "platform": "Linux", "argv": ["cell.py", str(folder.parent.parent), folder.name]}
    write_json(folder / "env.json", environment)
    write_json(folder / "status.json", {"state": "done"})
    seal_cell(folder, method, seed)


def _write_answers(folder: Path, lines: list[dict[str, Any]], weights: str) -> None:
    write_text(folder / "samples.jsonl", "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines))
    identity = {
        "weights": weights,
        "benchmark": "b" * 64,
        "prompts": "official/" + "c" * 64,
        "frames": "f" * 64,
        "decoding": "greedy, 16 tokens, batch 64",
        "engine": "transformers 5.23.0, torch 2.13.0+cpu, cpu, fp32, shared prefix",
    }
    digest = sha256_file(folder / "samples.jsonl")
    EvaluationManifest(identity=identity, n=len(lines), complete=True, samples=digest).write(folder)


def _line(
    record: Record, method: str, seed: int, skill: float, rng: np.random.Generator, answer: Answer | None
) -> dict[str, Any]:
    given = answer(record, method, seed) if answer else None
    drawn = _draw(record, skill, rng)
    text = drawn if given is None else given
    return {"id": record.id, "answer": text, "truncated": len(text) > 40, "tokens": len(text), "prompt": "p"}


def _draw(record: Record, skill: float, rng: np.random.Generator) -> str:
    if rng.random() < 0.04:
        return str(rng.choice(["I cannot tell from the video.", "", "The answer depends on what is meant by the room"]))
    if record.is_numeric:
        spread = 0.1 if rng.random() < skill else 0.9
        return f"{float(record.ground_truth) * float(np.exp(rng.normal(0, spread))):.1f}"
    if rng.random() < skill:
        return record.ground_truth
    return str(rng.choice(list(LETTERS[: len(record.options or "ABCD")])))


def _metrics(method: str, rng: np.random.Generator) -> list[dict[str, float | None]]:
    lines: list[dict[str, float | None]] = []
    for step in range(1, 61):
        done = step / 60
        line: dict[str, float | None] = {"step": step, "examples": 16.0 * step, "seconds": 2.1 * _cost(method)}
        line["loss"] = float(2 * np.exp(-2 * done) + rng.normal(0, 0.05))
        if method != "sft":
            line["reward"] = float(0.3 + 0.3 * done + rng.normal(0, 0.04))
            line["length"] = float(6 + 3 * done + rng.normal(0, 0.4))
            line["truncated"] = float(abs(rng.normal(0, 0.02)))
            line["zero_variance"] = float(np.clip(0.2 + 0.3 * done + rng.normal(0, 0.05), 0, 1))
        if method == "grpo":
            line["kl"] = None if step == 7 else float(0.02 * done**2 + abs(rng.normal(0, 0.001)))
        lines.append(line)
    return lines


def _cost(method: str) -> float:
    return {"sft": 1.0, "dpo": 2.4, "grpo": 3.1}.get(method, 1.0)
