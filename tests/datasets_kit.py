"""Published data sets in small: rooms of the embedded world under the names and in the files of the real ones."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from conftest import write_video
from PIL import Image

from harness.data.sources import resolve_source
from harness.vsibench.published import published_counts, published_scenes

BENCH_SCENES = (
    ("arkitscenes", "41069025"),
    ("arkitscenes", "41069043"),
    ("scannet", "scene0025_01"),
    ("scannet", "scene0030_02"),
    ("scannetpp", "09c1414f1b"),
    ("scannetpp", "0d2ee665be"),
)
TRAIN_SCENES = ("scene0000_00", "scene0000_01", "scene0001_00", "scene0002_00", "scene0002_01", "scene0003_00")
PRUNED_EVERY = 4
VSI_100K_FILES = {
    "object_counting": ("object_counting",),
    "absolute_distance": ("object_abs_distance",),
    "relative_distance": ("object_rel_distance",),
    "relative_direction": tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")),
    "object_size": ("object_size_estimation",),
    "room_size": ("room_size_estimation",),
}
"""Only the first file's name is known to be the real one."""


def world(cache: Path, split: str) -> tuple[Path, list[dict[str, Any]]]:
    """Six rooms of the embedded world: their folder of videos and their questions."""
    root, name = resolve_source(f"world:{split}@6", cache, workers=1)
    return root / "world", [json.loads(line) for line in (root / f"{name}.jsonl").read_text().splitlines()]


def write_vsi_bench(root: Path, cache: Path, *, zipped: bool = True, old: bool = False) -> Path:
    """VSI-Bench as the hub has it: questions, pruned ids, parquet files, and zips (or folders) of videos.

    Args:
        root: The folder to make.
        cache: For the world.
        zipped: Videos in ``DATASET.zip`` with members ``DATASET/SCENE.mp4``, else in folders.
        old: The first publication: one parquet file, nothing about pruning.
    """
    videos, rows = world(cache, "test")
    scenes = sorted({row["scene_name"] for row in rows})
    place = dict(zip(scenes, BENCH_SCENES, strict=True))
    root.mkdir(parents=True)
    records = []
    for number, row in enumerate(rows):
        dataset, scene = place[row["scene_name"]]
        records.append({**row, "id": number, "dataset": dataset, "scene_name": scene})
    frame = pd.DataFrame(records)
    if old:
        frame.to_parquet(root / "test-00000-of-00001.parquet", index=False)
    else:
        (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
        frame["pruned"] = frame["id"] % PRUNED_EVERY == 0
        (root / "pruned_ids.txt").write_text("\n".join(map(str, frame["id"][frame["pruned"]])) + "\n")
        frame[~frame["pruned"]].to_parquet(root / "test_debiased.parquet", index=False)
        frame[frame["pruned"]].to_parquet(root / "test_pruned.parquet", index=False)
    for name, (dataset, scene) in place.items():
        if zipped:
            with zipfile.ZipFile(root / f"{dataset}.zip", "a") as archive:
                archive.write(videos / f"{name}.mp4", f"{dataset}/{scene}.mp4")
        else:
            (root / dataset).mkdir(exist_ok=True)
            shutil.copy(videos / f"{name}.mp4", root / dataset / f"{scene}.mp4")
    return root


def whole_vsi_bench() -> list[dict[str, Any]]:
    """Records with VSI-Bench's number of questions of each type, about its 288 scenes."""
    example = {
        "object_rel_distance": (["A. chair", "B. table"], "A"),
        "route_planning": (["A. Turn Left", "B. Turn Right"], "B"),
        "obj_appearance_order": (["A. chair, table", "B. table, chair"], "B"),
    }
    scenes = sorted(published_scenes())
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for kind, count in published_counts().items():
        figure = (None, "2" if kind == "object_counting" else "2.5")
        direction = (["A. left", "B. right"], "A") if "direction" in kind else figure
        options, truth = example.get(kind, direction)
        for number in range(count):
            # One room size a scene, as in the real one; the others fall where they fall.
            dataset, scene = scenes[number if kind == "room_size_estimation" else rng.integers(len(scenes))]
            row = {"id": len(lines), "dataset": dataset, "scene_name": scene, "question_type": kind}
            lines.append(row | {"question": f"What is {len(lines)}?", "options": options, "ground_truth": truth})
    return lines


def write_whole_vsi_bench(root: Path) -> Path:
    """All of :func:`whole_vsi_bench`, with the same short film for every scene."""
    root.mkdir(parents=True)
    (root / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole_vsi_bench()))
    write_video(root / "one.mp4", np.zeros((4, 28, 28, 3), np.uint8))
    film = (root / "one.mp4").read_bytes()
    scenes = sorted(published_scenes())
    for dataset, count in Counter(dataset for dataset, _ in scenes).items():
        with zipfile.ZipFile(root / f"{dataset}.zip", "w") as archive:
            names = [scene for owner, scene in scenes if owner == dataset]
            assert len(names) == count
            for name in names:
                archive.writestr(f"{dataset}/{name}.mp4", film)
    return root


def write_vsi_100k(root: Path, cache: Path) -> Path:
    """VSI-100k's six JSON files: free-word answers, no options, no videos; field names are our guess."""
    _, rows = world(cache, "train_free")
    place = dict(zip(sorted({row["scene_name"] for row in rows}), TRAIN_SCENES, strict=True))
    root.mkdir(parents=True)
    for stem, kinds in VSI_100K_FILES.items():
        records = [
            {"scene": place[row["scene_name"]], "question": row["question"], "answer": _number(row["ground_truth"])}
            for row in rows
            if row["question_type"] in kinds
        ]
        (root / f"{stem}.json").write_text(json.dumps(records))
    return root


def write_scannet(root: Path, cache: Path, *, stills: bool) -> Path:
    """The training rooms as ScanNet's own folders: ``scans/SCENE/color/0.jpg`` or ``SCENE.mp4``."""
    videos, _ = world(cache, "train_free")
    for film, scene in zip(sorted(videos.glob("train_*.mp4")), TRAIN_SCENES, strict=True):
        if not stills:
            root.mkdir(parents=True, exist_ok=True)
            shutil.copy(film, root / f"{scene}.mp4")
            continue
        folder = root / "scans" / scene / "color"
        folder.mkdir(parents=True)
        with av.open(str(film)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                Image.fromarray(frame.to_ndarray(format="rgb24")).save(folder / f"{number}.jpg", quality=95)
    return root


def _number(text: str) -> Any:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text
