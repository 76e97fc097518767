"""Published benchmarks in small, in the layout of their copies: a few questions on short films."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import write_video

FOUR = ["A. chair", "B. table", "C. tv", "D. sofa"]


def film(folder: Path, frames: int = 16) -> Path:
    """A short film of moving squares."""
    path = folder / f"film{frames}.mp4"
    if not path.exists():
        pictures = np.zeros((frames, 56, 56, 3), np.uint8)
        for number in range(frames):
            pictures[number, 8:24, number : number + 16] = (200, 40, 40)
        write_video(path, pictures)
    return path


def write_revsi(root: Path) -> Path:
    """ReVSI: a configuration for each number of frames, `video.zip` with a folder for each."""
    scenes = ("scene0084_01", "0cac75b1d6", "41069021")
    with zipfile.ZipFile(_made(root) / "video.zip", "w") as archive:
        for budget in ("16", "32", "64", "all"):
            rows = revsi_rows(scenes, budget)
            (root / f"{budget}_frame").mkdir()
            pd.DataFrame(rows).to_parquet(root / f"{budget}_frame" / "test-00000-of-00001.parquet", index=False)
            for scene in scenes:
                archive.write(film(root.parent, 16), f"{budget}_frame/{scene}.mp4")
    return root


def revsi_rows(scenes: tuple[str, ...], budget: str) -> list[dict[str, Any]]:
    rows = []
    for scene in scenes:
        for kind, options, truth in (
            ("object_counting_single", None, "3" if budget == "16" else "4"),
            ("object_abs_distance", None, "1.5"),
            ("room_size_estimation_multiple", None, "31.2"),
            ("object_rel_distance_closest", FOUR, "B"),
            ("object_rel_direction_forward_easy", FOUR[:2], "A"),
            ("route_planning", FOUR[:3], "C"),
        ):
            rows.append(
                {
                    "id": len(rows),
                    "scene_id": scene,
                    "num_frames": budget,
                    "question_type": kind,
                    "question": f"Question {len(rows)} about the room?",
                    "options": options,
                    "ground_truth": truth,
                }
            )
    return rows


def write_mmsi_video(root: Path) -> Path:
    """MMSI-Video-Bench: `mmsivideo.json` and `videos.zip`; one question shows two videos, one a further image."""
    kinds = ("(Motion Understanding) Camera Motion", "(Cross-Video) Memoery Update", "Planning", "Prediction")
    rows: list[dict[str, Any]] = []
    for number, kind in enumerate((*kinds, *kinds)):
        clips = [f"clip/{number}.mp4"] if number != 5 else ["clip/0.mp4", "clip/1.mp4"]
        rows.append(
            {
                "id": f"q{number}",
                "type": kind,
                "video_list": [{"path": clip, "start": 0.0, "end": 2.0, "base_fps": 2.0} for clip in clips],
                "frames_list": [["a.jpg"]],
                "ref_images": ["b.jpg"] if number == 6 else [],
                "ori_question": "Which is next?" + (" <image>" if number == 6 else ""),
                "options": FOUR,
                "ground_truth": "ABCD"[number % 4],
                "system_prompt": "",
                "task_prompt": "",
                "user_prompt": "<video>Which is next?",
                "format_prompt": "",
                "hint": "",
            }
        )
    (_made(root) / "mmsivideo.json").write_text(json.dumps(rows))
    with zipfile.ZipFile(root / "videos.zip", "w") as archive:
        for number in range(8):
            archive.write(film(root.parent), f"videos/clip/{number}.mp4")
    return root


def write_osi(root: Path) -> Path:
    """OSI-Bench: `data.parquet` and videos in several zips; truths of 0 among them."""
    rows = []
    for video in ("0001", "0002"):
        for kind, form, options, truth in (
            ("absolute_speed", "numerical", None, "0.0"),
            ("trajectory_length", "numerical", None, "12.5"),
            ("depth_aware_counting", "numerical", None, "0"),
            ("relative_distance", "mcq", FOUR, "B"),
            ("trajectory_description", "mcq", FOUR, "D"),
        ):
            row = {"index": len(rows), "video": video, "question": "How fast?", "options": options, "answer": truth}
            rows.append(row | {"question_type": form, "category": kind, "video_length": 4.0})
    pd.DataFrame(rows).to_parquet(_made(root) / "data.parquet", index=False)
    for number, video in enumerate(("0001", "0002"), start=1):
        with zipfile.ZipFile(root / f"videos_part{number}.zip", "w") as archive:
            archive.write(film(root.parent), f"{video}.mp4")
    return root


def write_sti(root: Path) -> Path:
    """STI-Bench: `qa.parquet`, candidates by letter, videos in a folder."""
    rows = []
    for video in ("camera_1.mp4", "scene0011_00.mp4"):
        for kind, truth in (("Pose Estimation", "E"), ("Spatial Relation", "A"), ("Displacement & Path Length", "B")):
            texts = dict(zip("ABCDE", ("1 m", "2 m", "3 m", "4 m", "5 m"), strict=True))
            row = {"ID": len(rows), "Video": video, "Task": kind, "Question": "How far is it?", "Candidates": texts}
            rows.append(row | {"Answer": truth, "time_start": 0.0, "time_end": 1.5, "Scene": "indoor"})
        _made(root / "video")
        shutil.copy(film(root.parent), root / "video" / video)
    pd.DataFrame(rows).to_parquet(root / "qa.parquet", index=False)
    return root


WRITERS = {
    "revsi": write_revsi,
    "mmsi-video-bench": write_mmsi_video,
    "osi-bench": write_osi,
    "sti-bench": write_sti,
}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
