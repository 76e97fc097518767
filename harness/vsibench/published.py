"""What VSI-Bench's full test set holds (arXiv 2412.14171): 5,130 questions on 288 videos of 288 rooms."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TypedDict

from harness.io import read_json


class _Published(TypedDict):
    questions: dict[str, int]
    scenes: dict[str, list[str]]
    same_visit: dict[str, list[str]]


def published_counts() -> dict[str, int]:
    """Questions by raw type; they sum to 5,130 (from the published shares of each type)."""
    return dict(_published()["questions"])


@cache
def published_scenes() -> frozenset[tuple[str, str]]:
    """The data set and scene of each of the 288 videos."""
    return frozenset((dataset, scene) for dataset, scenes in _published()["scenes"].items() for scene in scenes)


def same_visits() -> dict[str, list[str]]:
    """ARKitScenes' other videos of the visit of a benchmark video, by that video: they show the same room."""
    return _published()["same_visit"]


@cache
def _published() -> _Published:
    content: _Published = read_json(files(__package__).joinpath("vsi_bench.json"))
    return content
