"""The sample browser's data: every question and what each run answered, compact enough for one page."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.vsibench.records import Record
from harness.vsibench.types import TASKS
from reports.page.thumbnails import contact_sheets

TEXT_BUDGET = 6_000_000
"""Most bytes of all different answers together."""

IMAGE_BUDGET = 13_000_000
"""Most bytes of all contact sheets together."""

_LIMITS = (4000, 2000, 1000, 500, 250, 120, 60)
"""Characters of an answer that are shown: the most that the budget allows."""

TITLES = {
    "object_counting": "Object count",
    "object_abs_distance": "Absolute distance",
    "object_size_estimation": "Object size",
    "room_size_estimation": "Room size",
    "object_rel_distance": "Relative distance",
    "object_rel_direction": "Relative direction",
    "route_planning": "Route planning",
    "obj_appearance_order": "Appearance order",
}
"""What the page and the figures call the tasks."""

_UNPARSED, _TRUNCATED = 1, 2


def browser_data(
    records: Sequence[Record],
    answers: pd.DataFrame,
    labels: Mapping[str, str],
    video_path: Callable[[Record], Path] | None = None,
) -> dict[str, Any]:
    """Everything the sample browser shows, as plain JSON values.

    Args:
        records: The questions.
        answers: One row an answer: method, seed, question, score, parsed, answer (raw text); truncated where known.
        labels: What to call the methods, in their order.
        video_path: Where a record's video is; None for no pictures.

    Returns:
        ``methods``: name and label. ``tasks``: name and title of those present. ``scenes``: name and contact sheet,
        which is empty where there is none. ``questions``: id, index of the scene, task, question, options or null,
        truth. ``texts``: every different answer, for display. ``runs``: index of the method, seed, and for each
        question the index of the answer's text or -1, the score or null, and a digit of flags (1 unparsable, 2
        truncated). ``limit``: how many characters of an answer are shown.
    """
    videos = {scene_of(record): video_path(record) if video_path else None for record in records}
    sheets = contact_sheets(dict.fromkeys(path for path in videos.values() if path), IMAGE_BUDGET)
    scenes = {name: number for number, name in enumerate(videos)}
    methods = [method for method in labels if method in set(answers["method"])]
    texts = {text: number for number, text in enumerate(dict.fromkeys(answers["answer"].astype(str)))}
    limit = _limit(texts)
    keys = [record.key for record in records]
    runs = [
        {"method": place, "seed": int(seed), **_run(rows[rows["seed"] == seed], keys, texts)}
        for place, rows in enumerate(answers[answers["method"] == method] for method in methods)
        for seed in sorted(rows["seed"].unique())
    ]
    return {
        "methods": [{"name": method, "label": labels[method]} for method in methods],
        "tasks": [[task, TITLES[task]] for task in TASKS if any(record.task == task for record in records)],
        "scenes": [[shown(name, 200), sheets.get(path, "") if path else ""] for name, path in videos.items()],
        "questions": [_question(record, scenes[scene_of(record)]) for record in records],
        "texts": [shown(text, limit) for text in texts],
        "runs": runs,
        "limit": limit,
    }


def scene_of(record: Record) -> str:
    """The name of a record's video."""
    return f"{record.dataset}/{record.scene_name}"


def script_json(data: Any) -> str:
    """JSON that can stand inside a ``<script>`` element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def shown(text: str, limit: int) -> str:
    """Text for display: what is invisible or turns the writing direction is made visible, the middle may be cut out.

    The end stays, since answers end with what is scored.
    """
    if len(text) > limit:
        head, tail = text[: limit - limit // 3], text[-(limit // 3) :]
        text = f"{head}\n[... {len(text) - limit:,} characters left out ...]\n{tail}"
    return "".join(c if c.isprintable() or c == "\n" else _visible(c) for c in text)


def _visible(c: str) -> str:
    return c if unicodedata.category(c) == "Zs" else f"\N{LEFT CEILING}U+{ord(c):04X}\N{RIGHT CEILING}"


def _limit(texts: Mapping[str, int]) -> int:
    def size(limit: int) -> int:
        return sum(len(text[:limit].encode("utf-8", "replace")) for text in texts)

    return next((limit for limit in _LIMITS if size(limit) <= TEXT_BUDGET), _LIMITS[-1])


def _question(record: Record, scene: int) -> list[Any]:
    options = None if record.options is None else [shown(option, 1000) for option in record.options]
    texts = shown(record.key, 200), shown(record.question, 4000), shown(record.ground_truth, 1000)
    return [texts[0], scene, record.task, texts[1], options, texts[2]]


def _run(rows: pd.DataFrame, keys: Sequence[str], texts: Mapping[str, int]) -> dict[str, Any]:
    """One run's answers in the order of the questions."""
    mine = rows.assign(question=rows["question"].astype(str)).set_index("question").reindex(list(keys))
    flags = _UNPARSED * mine["parsed"].eq(False).to_numpy(int)
    if "truncated" in mine:
        flags = flags + _TRUNCATED * mine["truncated"].eq(True).to_numpy(int)
    scores = [None if np.isnan(score) else round(score, 3) for score in mine["score"].to_numpy(float).tolist()]
    return {
        "texts": [
            texts[str(text)] if known else -1
            for text, known in zip(mine["answer"], mine["answer"].notna(), strict=True)
        ],
        "scores": [int(score) if score in (0, 1) else score for score in scores],
        "flags": "".join(map(str, flags)),
    }
