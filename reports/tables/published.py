"""Published VSI-Bench scores, shown for reference and never tested against ours.

They come from other frames, prompts, engines and mostly unstated settings; evaluations of one model by different groups
differ by more than most methods do. Numbers are as printed; known inconsistencies are noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from harness.io import read_json
from harness.vsibench.prompts import MODES
from harness.vsibench.published import published_counts
from harness.vsibench.questions import part_of_vsi_bench
from harness.vsibench.records import Record
from harness.vsibench.types import TASKS
from reports.benchmarks import VSIBench
from reports.tables.scores import ScoreRow, run_score

_ROUNDING = 0.11
"""Points by which the average of eight rounded scores may differ from the average as printed, itself rounded."""


def published_rows() -> list[ScoreRow]:
    """Every published row, the paper's first, each noting its source and its known inconsistencies."""
    file = resources.files("reports.tables").joinpath("published_results.json")
    content = read_json(file)
    return [_row(entry, dict(zip(content["columns"], entry["scores"], strict=True))) for entry in content["rows"]]


def published_footnote(records: Sequence[Record]) -> str:
    """What published rows may be compared with.

    Args:
        records: The questions behind all other rows of the table.
    """
    part = part_of_vsi_bench(records)
    full = f"the full VSI-Bench ({sum(published_counts().values()):,} questions)"
    if part is None:
        questions = f" They are scores on {full}, not on the questions of the other rows."
    elif part.is_whole:
        questions = ""
    else:
        changed = f", {part.changed:,} of them changed" if part.changed else ""
        questions = (
            f" They are scores on {full}; the other rows are scores on {part.questions:,} of these questions{changed}."
        )
    return (
        "Published rows are copied as printed and take no part in tests, bold or differences: frames, prompts, engine "
        f"and scorer may differ from ours.{questions}"
    )


def _row(entry: dict[str, str], scores: dict[str, float]) -> ScoreRow:
    figures, printed = VSIBench().figures_of({task: scores[task] for task in TASKS}), scores["avg"]
    notes = [entry["source"]]
    if abs(figures.overall - printed) > _ROUNDING:
        notes.append(f"the printed average, {printed}, is not the mean of the eight tasks, {figures.overall:.1f}")
    notes += [entry["note"]] if "note" in entry else []
    name = "-".join(str(entry[key]) for key in ("model", "method", "train_mode", "eval_mode"))
    return ScoreRow(
        f"published: {entry['name']} ({name})",
        entry["name"],
        "published",
        (run_score(figures._replace(overall=printed)),),
        MODES[entry["eval_mode"]].letter if entry["eval_mode"] in MODES else entry["eval_mode"],
        note="; ".join(notes),
    )
