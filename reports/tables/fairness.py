"""The fairness card: what was the same for every method, what each consumed, and what differed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.api.guest import GuestTrainer
from harness.config.study import StudyConfig
from harness.config.variants import SECTIONS, parse_variant
from harness.vsibench.scorers import SCORERS
from reports.collect import Collected
from reports.tables.escape import escape_markdown

CONSUMED = {
    "updates": "Optimiser steps",
    "examples": "Prompts",
    "tokens_sampled": "Tokens sampled",
    "tokens_trained": "Tokens trained",
    "forward_passes": "Forward passes",
    "seconds": "Device seconds",
    "peak_memory": "Peak memory (MB)",
}


def fairness_card(collected: Collected) -> str:
    """The card as Markdown. It holds timings, so it differs between runs; the score tables do not."""
    study = collected.study
    parts = [
        f"# Fairness card: {escape_markdown(study.name)}",
        "## The same for every method",
        _shared(collected).to_markdown(index=False),
        "## What each consumed (evaluation excepted)",
        f"Budget: {study.budget.amount:g} {study.budget.kind}. Mean over finished seeds.",
        _consumption(collected).to_markdown(
            index=False, disable_numparse=True, colalign=["left", *["right"] * (len(CONSUMED) + 1)]
        ),
        "## What differed between methods",
        _differences(study).to_markdown(index=False),
        *_guests(study),
        "## Cells",
        _cells(collected).to_markdown(index=False),
    ]
    if collected.train.skipped or collected.benchmark.skipped:
        parts += ["## Records left out", _bullets(_skipped(collected))]
    notes = dict.fromkeys((*collected.train.notes, *collected.benchmark.notes))
    if notes:
        parts += ["## What to know of the data", _bullets(list(notes))]
    return "\n\n".join(parts) + "\n"


def _shared(collected: Collected) -> pd.DataFrame:
    study = collected.study
    identity = next(cell.identity for cell in collected.cells if cell.identity)
    environment = next((cell.environment for cell in collected.cells if cell.environment), {})
    rows = {
        "Model": f"{study.model.name}, {study.model.tuning} tuning, "
        f"vision tower {'frozen' if study.model.freeze_vision else 'trained'}",
        "Training records": f"{study.data.train}: {len(collected.train.records)}, digest {collected.train.digest[:12]}",
        "Benchmark": f"{study.data.benchmark}: {len(collected.benchmark.records)} questions, "
        f"digest {collected.benchmark.digest[:12]}",
        "Beside it": ", ".join(study.evaluation.more) or "nothing",
        "Frames": f"{study.data.frames} of {study.data.min_pixels:,} to {study.data.max_pixels:,} pixels, digest "
        f"{identity['frames'][:12]}",
        "Training prompt": f"{study.prompt.train}, unless a method differs below",
        "Evaluation prompt": identity["prompts"][: len(study.prompt.evaluation) + 13],
        "Decoding": identity["decoding"],
        "Scorer": f"{study.evaluation.scorer}, {SCORERS[study.evaluation.scorer].version}",
        "Engine": identity["engine"],
        "Tuning": _tuning(study),
        "Data order": "by seed, the same for every method",
        "Reported checkpoint": "the last, declared beforehand",
        "Learning-rate schedule": "warm-up, then constant",
        "Reward": ", ".join(f"{name} x {weight:g}" for name, weight in study.reward.weights.items()),
        "Margin of equivalence": f"{study.report.margin:g} in points, declared beforehand",
        "Level of the tests": f"{study.report.alpha:g}",
        "Threads per cell": environment.get("threads", "unknown"),
    }
    return pd.DataFrame({"What": rows.keys(), "Value": [escape_markdown(str(value)) for value in rows.values()]})


def _tuning(study: StudyConfig) -> str:
    """How many trials each method's settings were chosen from; a guest has its counterpart's."""
    counts = {
        study.label(method): study.tune.trials_of(name, getattr(study.algorithm(method), "counterpart", ""))
        for method in study.methods
        for name in [parse_variant(method).method]
    }
    if not any(counts.values()):
        return "none recorded"
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} trials a method on {study.tune.development}"
    told = ", ".join(f"{label} {count}" for label, count in counts.items())
    return f"unequal, trials on {study.tune.development}: {told}"


def _consumption(collected: Collected) -> pd.DataFrame:
    rows = []
    for method in collected.study.methods:
        cells = [cell for cell in collected.cells if cell.method == method and cell.state == "done"]
        consumed = [cell.consumed for cell in cells if cell.consumed]
        row: dict[str, Any] = {"Method": escape_markdown(collected.study.label(method)), "Seeds": len(consumed)}
        for key, head in CONSUMED.items():
            scale = 2**20 if key == "peak_memory" else 1
            mean = sum(one[key] for one in consumed) / len(consumed) / scale if consumed else None
            row[head] = "-" if mean is None else f"{mean:,.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _differences(study: StudyConfig) -> pd.DataFrame:
    """Hyper-parameters of each method, and shared settings that a method overrides."""
    rows = []
    for method in study.methods:
        algorithm, own = study.algorithm(method), study.for_method(method)
        own = own.model_copy(update={"train": study.train_for(method)})
        changed = {
            f"{section}.{key}": value
            for section in SECTIONS
            for key, value in getattr(own, section).model_dump().items()
            if value != getattr(getattr(study, section), key)
        }
        values = _listed({**algorithm.config.model_dump(), **changed})
        rows.append({"Method": escape_markdown(study.label(method)), "Values": values})
    return pd.DataFrame(rows)


def _guests(study: StudyConfig) -> list[str]:
    """Foreign trainers among the methods: what differs beside their settings."""
    rows = [
        {"Guest": escape_markdown(study.label(method)), "Differs in": escape_markdown(remark)}
        for method in study.methods
        if isinstance(guest := study.algorithm(method), GuestTrainer)
        for remark in guest.remarks
    ]
    if not rows:
        return []
    return [
        "## Guests: foreign trainers with a loop of their own",
        "Records, order, words, frames, rewards, optimiser, schedule, clipping, budget, checkpoints and evaluation are "
        "those of every method.",
        pd.DataFrame(rows).to_markdown(index=False),
    ]


def _cells(collected: Collected) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "Cell": cell.cell,
                "State": cell.state,
                "Weights": cell.identity.get("weights", "")[:12],
                "Reason": escape_markdown(cell.reason),
            }
            for cell in collected.cells
        ]
    )


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _skipped(collected: Collected) -> list[str]:
    lines = [*collected.train.skipped, *collected.benchmark.skipped]
    counts = Counter(lines)
    return [f"{line} ({count} times)" if count > 1 else line for line, count in counts.items()]


def _listed(values: Mapping[str, Any]) -> str:
    return escape_markdown(", ".join(f"{key} = {value}" for key, value in values.items()))
