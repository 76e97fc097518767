"""VSI-100k as released: one JSON file per question type, about ScanNet scenes, without videos.

Field names and some file names are undocumented (arXiv 2504.00883 and its repository), so likely ones are recognised;
where that fails, the message shows what was found and how to map it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.data.rowfiles import json_records
from harness.data.rows import ALIASES, VIDEO, spoken
from harness.errors import UserError
from harness.vsibench.records import BadRecordError

DATASET = "scannet"
HUB_ID = "OPPOer/VSI-100k"

PUBLISHED = {
    "object_counting": 6_400,
    "object_abs_distance": 75_000,
    "object_rel_distance": 13_000,
    "object_rel_direction": 8_000,
    "object_size_estimation": 13_000,
    "room_size_estimation": 1_500,
}
"""Questions by task, rounded as the paper gives them (section 3.1)."""

NOTES = (
    "VSI-100k measures the absolute distance between the centres of two objects, VSI-Bench between their closest "
    "points: its answers are larger",
    "VSI-100k's answers are free text without options; VSI-Bench's choice questions ask for an option's letter",
    "VSI-100k may ask for counts of objects that occur once; VSI-Bench's counts start at 2",
    "VSI-100k has neither route planning nor appearance order",
)
"""Differences between its questions and the benchmark's; shown wherever the data set is used."""

GET_SCANNET = (
    "VSI-100k ships no videos. Get ScanNet v2 (http://www.scan-net.org, its terms of use apply) and give its folder "
    "with --scannet DIR (data.videos in a study): the colour frames that its SensReader exports, "
    "DIR/sceneXXXX_YY/color/0.jpg, 1.jpg, ..., or one video per scene, DIR/sceneXXXX_YY.mp4"
)

_TYPES = {
    "count": "object_counting",
    "counting": "object_counting",
    "absdistance": "object_abs_distance",
    "reldistance": "object_rel_distance",
    "reldirection": "object_rel_direction",
    "direction": "object_rel_direction",
    "size": "object_size_estimation",
    "sizeestimation": "object_size_estimation",
    "roomsize": "room_size_estimation",
    "roomsizeestimation": "room_size_estimation",
    "roomarea": "room_size_estimation",
}
"""Question types by their names without fillers, see :func:`_type_of`."""

_NEEDED = ("scene_name", "question", "ground_truth")
_OPTIONAL = ("id", "question_type", "options")
_SCENE = re.compile(r"scene\d{4}_\d{2}")
_QUADRANT = re.compile(r"(?:front|back)[- ](?:left|right)")
_BACK = re.compile(r"\bback\b")


def question_files(root: Path) -> list[Path]:
    """The JSON files of a folder that are named after a question type, sorted; empty for other data sets."""
    return [path for path in sorted(root.glob("*.json")) if _type_of(path.stem)]


def rows(file: Path, fields: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any] | BadRecordError]]:
    """The records of one file in VSI-Bench's schema, each with its place.

    Args:
        file: A JSON array, an object that contains one, an object of records by id, or JSON lines.
        fields: Maps our field names to the file's, where those are not recognised.

    Raises:
        UserError: The file is not JSON, or its layout is unknown; the message shows the keys and how to map them.
    """
    records = json_records(file)
    names = _layout(file, records[0], fields)
    for number, record in enumerate(records, start=1):
        place = f"{file}, record {number}"
        try:
            yield place, _row(record, names, file.stem, number)
        except BadRecordError as error:
            yield place, error


def _layout(file: Path, record: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, str]:
    """Maps our field names to the file's, judging by its first record."""
    names: dict[str, str] = {}
    for ours in (*_NEEDED, *_OPTIONAL):
        aliases = ALIASES[ours]
        given = fields.get(ours)
        if ours == "scene_name":
            aliases, given = (*aliases, *ALIASES[VIDEO]), given or fields.get(VIDEO)
        found = [given] if given in record else [] if given else [name for name in aliases if name in record]
        if found:
            names[ours] = str(found[0])
        elif given or ours in _NEEDED:
            why = f"`data.fields.{ours}` = {given!r} is not one of them" if given else f"none is recognised as {ours}"
            raise UserError(
                f"{file}: its records have the keys {', '.join(map(repr, record))}; {why}. Map it in the study file: "
                f'[data.fields] {ours} = "KEY" (or --field {ours}=KEY with `harness data prepare`). '
                f"First record: {json.dumps(record, ensure_ascii=False)[:300]}"
            )
    return names


def _row(record: dict[str, Any], names: Mapping[str, str], stem: str, number: int) -> dict[str, Any]:
    question, answer = (spoken(field, record.get(names[field])) for field in ("question", "ground_truth"))
    kind = _type_of(str(record.get(names.get("question_type", ""), ""))) or _type_of(stem)
    scene = _SCENE.search(str(record.get(names["scene_name"], "")))
    if scene is None:
        raise BadRecordError(
            f"`{names['scene_name']}` = {record.get(names['scene_name'])!r} contains no ScanNet scene (sceneXXXX_YY); "
            "fix the record"
        )
    return {
        **{key: value for key, value in record.items() if key not in names.values()},
        "id": f"{stem}-{record.get(names.get('id', ''), number)}",
        "dataset": DATASET,
        "scene_name": scene.group(),
        "question_type": _level(str(answer), str(question)) if kind == "object_rel_direction" else kind,
        "question": question,
        "options": record.get(names.get("options", "")),
        "ground_truth": answer,
    }


@cache
def _type_of(name: str) -> str | None:
    plain = name.lower().replace("absolute", "abs").replace("relative", "rel")
    fillers = r"vsi[-_]?100k|scannet|train|estimation_?qa|qa|data|object|obj|easy|medium|hard|[^a-z]"
    return _TYPES.get(re.sub(fillers, "", plain))


def _level(answer: str, question: str) -> str:
    """VSI-Bench's level of a direction question: easy (left or right), medium (or back), hard (four quadrants)."""
    words = f"{question} {answer}".lower()
    if _QUADRANT.search(words):
        return "object_rel_direction_hard"
    return f"object_rel_direction_{'medium' if _BACK.search(words) else 'easy'}"
