"""Published VSI-Bench scores, to be shown beside ours and never tested against them.

They were made with other frames, prompts, engines and, for most rows, unstated settings; several evaluators of one
model differ by more than most methods do. The numbers are as printed; what is known to be inconsistent is noted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources

from harness.vsibench.prompts import MODES
from harness.vsibench.types import TASKS
from reports.tables.scores import RunScore, ScoreRow

_ROUNDING = 0.11
"""Points by which an average of eight rounded numbers may differ from the printed, rounded average."""


def published_rows() -> list[ScoreRow]:
    """Every published row, the paper's first, each with its source and with what is known to be wrong with it."""
    text = resources.files("reports.tables").joinpath("published_results.json").read_text(encoding="utf-8")
    content = json.loads(text)
    columns: Sequence[str] = content["columns"]
    rows = []
    for entry in content["rows"]:
        scores = dict(zip(columns, entry["scores"], strict=True))
        rows.append(_row(entry, {task: scores[task] for task in TASKS}, scores["avg"]))
    return rows


def published_footnote(benchmark: str) -> str:
    """What the published rows are and are not, for the questions of this comparison."""
    own = " They are scores on VSI-Bench's own questions, not on the ones of this table." * benchmark.startswith(
        "world:"
    )
    return (
        "Published rows are copied as printed and take no part in tests, bold or differences: frames, prompts, engine "
        f"and scorer may differ from ours.{own}"
    )


def _row(entry: dict[str, str], tasks: dict[str, float], printed: float) -> ScoreRow:
    mean = math.fsum(tasks.values()) / len(tasks)
    notes = [entry["source"]]
    if abs(mean - printed) > _ROUNDING:
        notes.append(f"the printed average of {printed} is not the mean of its eight tasks, which is {mean:.1f}")
    notes += [entry["note"]] if "note" in entry else []
    name = "-".join(str(entry[key]) for key in ("model", "method", "train_mode", "eval_mode"))
    return ScoreRow(
        f"published: {entry['name']} ({name})",
        entry["name"],
        "published",
        (RunScore(tasks),),
        MODES[entry["eval_mode"]].letter if entry["eval_mode"] in MODES else entry["eval_mode"],
        note="; ".join(notes),
        printed=printed,
    )
