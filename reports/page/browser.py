"""The sample browser's data: every question with all answers and frames of its video, compact enough for one page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image

from harness.api.benchmark import Benchmark
from harness.data.video.container import opened, pixel_aspect, video_stream
from harness.data.video.decode import sample_video
from harness.data.video.picture import picture
from harness.errors import UserError
from harness.visible import visible
from harness.vsibench.records import Record

TEXT_BUDGET = 6_000_000
"""Most bytes of all distinct answers together."""

IMAGE_BUDGET = 13_000_000
"""Most bytes of all contact sheets together."""

_LIMITS = (4000, 2000, 1000, 500, 250, 120, 60)
"""Characters shown of each answer: the first limit within the budget."""

FRAMES, COLUMNS, GAP = 8, 4, 2
"""Of a contact sheet; the gap in pixels."""

_RUNGS = ((128, 75), (112, 65), (84, 60), (84, 35), (56, 35))
"""Longest side of a frame in pixels and WebP quality, best first."""

_MOST_KEYS = 1024
"""Key frames that are kept on the way; of more, every second."""

_UNPARSED, _TRUNCATED = 1, 2


class Run(TypedDict):
    """The answers of one run, in the order of the questions.

    Attributes:
        method: Index of the method.
        seed: The run's seed.
        texts: Index of each answer's text; -1 without an answer.
        scores: Of each answer, 0 to 1; null without one.
        flags: A digit for each answer: 1 unparsable, 2 truncated, or their sum.
    """

    method: int
    seed: int
    texts: list[int]
    scores: list[float | None]
    flags: str


class BrowserData(TypedDict):
    """What the sample browser shows, as JSON values.

    Attributes:
        methods: Name, label and CSS variable of the colour.
        tasks: Name and title of the tasks present.
        scenes: Name, and contact sheet or an empty text.
        questions: Id, index of the scene, task, question, options or null, ground truth.
        texts: Every distinct answer, for display.
        runs: Every run's answers.
        limit: How many characters of an answer are shown.
    """

    methods: list[dict[str, str]]
    tasks: list[tuple[str, str]]
    scenes: list[tuple[str, str]]
    questions: list[Question]
    texts: list[str]
    runs: list[Run]
    limit: int


Question = tuple[str, int, str, str, list[str] | None, str]


def browser_data(
    records: Sequence[Record],
    answers: pd.DataFrame,
    labels: Mapping[str, str],
    benchmark: Benchmark,
    video_path: Callable[[Record], Path] | None = None,
) -> BrowserData:
    """Everything the sample browser shows.

    Args:
        records: The questions.
        answers: One row per answer: method, seed, question, type, score, parsed, answer (raw text); truncated where
            known.
        labels: Display names of the methods, in order.
        benchmark: Whose questions they are.
        video_path: Where a record's video is; None for no pictures.
    """
    videos = {record.scene: video_path(record) if video_path else None for record in records}
    sheets = contact_sheets(dict.fromkeys(path for path in videos.values() if path), IMAGE_BUDGET)
    scenes = {name: number for number, name in enumerate(videos)}
    methods = [method for method in labels if method in set(answers["method"])]
    texts = {text: number for number, text in enumerate(dict.fromkeys(answers["answer"].astype(str)))}
    limit = _limit(texts)
    keys = [record.key for record in records]
    kinds = dict(zip(answers["question"].astype(str), answers["type"].astype(str), strict=True))
    runs = [
        _run(place, int(seed), rows[rows["seed"] == seed], keys, texts)
        for place, rows in enumerate(answers[answers["method"] == method] for method in methods)
        for seed in sorted(rows["seed"].unique())
    ]
    return {
        "methods": [{"name": visible(method), "label": labels[method]} for method in methods],
        "tasks": [(visible(task.name), visible(task.title)) for task in benchmark.tasks_of(kinds.values())],
        "scenes": [(shown(name, 200), sheets.get(path, "") if path else "") for name, path in videos.items()],
        "questions": [
            _question(record, scenes[record.scene], visible(benchmark.task_of(kinds[record.key]))) for record in records
        ],
        "texts": [shown(text, limit) for text in texts],
        "runs": runs,
        "limit": limit,
    }


def script_json(data: BrowserData) -> str:
    """JSON that is safe inside a ``<script>`` element: nothing in it can end the element or open a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def shown(text: str, limit: int) -> str:
    """Visible text for display, of which a long middle is cut out.

    The end is kept, because that is where the scored part of an answer is.
    """
    if len(text) > limit:
        head, tail = text[: limit - limit // 3], text[-(limit // 3) :]
        text = f"{head}\n[... {len(text) - limit:,} characters left out ...]\n{tail}"
    return visible(text)


def _limit(texts: Mapping[str, int]) -> int:
    def size(limit: int) -> int:
        return sum(len(text[:limit].encode("utf-8", "replace")) for text in texts)

    return next((limit for limit in _LIMITS if size(limit) <= TEXT_BUDGET), _LIMITS[-1])


def _question(record: Record, scene: int, task: str) -> Question:
    options = None if record.options is None else [shown(option, 1000) for option in record.options]
    texts = shown(record.key, 200), shown(record.question, 4000), shown(record.ground_truth, 1000)
    return texts[0], scene, task, texts[1], options, texts[2]


def _run(place: int, seed: int, rows: pd.DataFrame, keys: Sequence[str], texts: Mapping[str, int]) -> Run:
    mine = rows.assign(question=rows["question"].astype(str)).set_index("question").reindex(list(keys))
    flags = _UNPARSED * mine["parsed"].eq(False).to_numpy(int)
    if "truncated" in mine:
        flags = flags + _TRUNCATED * mine["truncated"].eq(True).to_numpy(int)
    scores = [None if np.isnan(score) else round(score, 3) for score in mine["score"].to_numpy(float).tolist()]
    answered = zip(mine["answer"], mine["answer"].notna(), strict=True)
    return {
        "method": place,
        "seed": seed,
        "texts": [texts[str(text)] if known else -1 for text, known in answered],
        "scores": [int(score) if score in (0, 1) else score for score in scores],
        "flags": "".join(map(str, flags)),
    }


def contact_sheets(paths: Iterable[Path], budget: int) -> dict[Path, str]:
    """Contact sheets of videos as data URIs: WebP, frames evenly spaced in time.

    Args:
        paths: Videos, each once.
        budget: Most bytes of all data URIs together; every video gets an equal share, to which its sheet is shrunk.

    Returns:
        The videos that could be read and made small enough.
    """
    listed = list(paths)
    share = budget // max(1, len(listed))
    sheets = {path: _sheet(path, share) for path in listed}
    return {path: sheet for path, sheet in sheets.items() if sheet}


def _sheet(path: Path, most: int) -> str:
    try:
        frames = _frames(path)
    except (UserError, FFmpegError, OSError, IndexError):
        return ""
    for side, quality in _RUNGS:
        small = [_fitted(frame, side) for frame in frames]
        width, height = small[0].size
        rows = -(-len(small) // COLUMNS)
        sheet = Image.new("RGBA", (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP))
        for number, frame in enumerate(small):
            sheet.paste(frame, (number % COLUMNS * (width + GAP), number // COLUMNS * (height + GAP)))
        content = io.BytesIO()
        sheet.save(content, "WEBP", quality=quality, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
        if len(uri) <= most:
            return uri
    return ""


def _frames(path: Path) -> list[Image.Image]:
    """Evenly spaced frames; key frames if there are enough, so that a long video need not be decoded whole."""

    def small(frame: NDArray[np.uint8]) -> Image.Image:
        return _fitted(Image.fromarray(frame), _RUNGS[0][0])

    keys, step = list[Image.Image](), 1
    if path.is_file():
        with opened(path) as container:
            stream = video_stream(container, path)
            stream.codec_context.skip_frame = "NONKEY"
            aspect = pixel_aspect(stream)
            for number, frame in enumerate(container.decode(stream)):
                if number % step == 0:
                    keys.append(small(picture(frame, aspect, path)))
                if len(keys) == _MOST_KEYS:
                    keys, step = keys[::2], 2 * step
    if len(keys) >= FRAMES:
        return [keys[number * len(keys) // FRAMES] for number in range(FRAMES)]
    return sample_video(path, FRAMES, "even", small)[0]


def _fitted(frame: Image.Image, side: int) -> Image.Image:
    """A copy with no side longer than ``side``, of the same aspect ratio; small frames are not enlarged."""
    fitted = frame.copy()
    fitted.thumbnail((side, side), Image.Resampling.LANCZOS)
    return fitted
