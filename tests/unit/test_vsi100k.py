"""VSI-100k is read whatever its fields are called, gets the user's ScanNet, and says where it differs and leaks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets_kit import TRAIN_SCENES, VSI_100K_FILES, write_scannet, write_vsi_100k

from harness.data.leakage import check_leakage
from harness.data.prepare_vsi100k import prepare_vsi_100k
from harness.data.reader import read_dataset
from harness.data.sources import resolve_source
from harness.data.video.cache import FrameCache
from harness.data.video.frames import VideoSettings
from harness.data.vsi100k import NOTES, PUBLISHED
from harness.errors import UserError
from harness.vsibench.types import CHOICE_TYPES

SETTINGS = VideoSettings(frames=8, min_pixels=84 * 84, max_pixels=84 * 84)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "world-cache"


@pytest.fixture
def copy(tmp_path: Path, cache: Path) -> Path:
    return write_vsi_100k(tmp_path / "vsi", cache)


def rewrite(copy: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    for file in copy.glob("*.json"):
        file.write_text(json.dumps(change(json.loads(file.read_text()))))


def renamed(**names: str) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda rows: [{names.get(key, key): value for key, value in row.items()} for row in rows]


def conversations(rows: list[dict[str, Any]]) -> Any:
    return [
        {
            "id": number,
            "video": f"scannet/videos/{row['scene']}.mp4",
            "conversations": [
                {"from": "human", "value": f"<video>\n{row['question']}"},
                {"from": "gpt", "value": str(row["answer"])},
            ],
        }
        for number, row in enumerate(rows)
    ]


LAYOUTS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "plain": lambda rows: rows,
    "R1-V's names": renamed(question="problem", answer="solution", scene="video_path"),
    "ours": renamed(answer="ground_truth", scene="scene_name"),
    "conversations": conversations,
    "in an object": lambda rows: {"version": 1, "data": rows},
    "by id": lambda rows: {f"q{number}": row for number, row in enumerate(rows)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_likely_layouts_give_the_same_questions(copy: Path, layout: str) -> None:
    expected = read_dataset(copy, "train", check_videos=False)
    rewrite(copy, LAYOUTS[layout])
    found = read_dataset(*resolve_source(str(copy), copy, default="train"), check_videos=False)
    drop = {"id"}
    assert [r.model_dump(exclude=drop) for r in found.records] == [r.model_dump(exclude=drop) for r in expected.records]
    assert {record.scene_name for record in found.records} == set(TRAIN_SCENES)
    assert found.notes[: len(NOTES)] == NOTES
    assert {r.question_type for r in found.records} == {kind for kinds in VSI_100K_FILES.values() for kind in kinds}
    assert all(record.options is None and record.dataset == "scannet" for record in found.records)
    assert any(r.ground_truth.isalpha() for r in found.records if r.question_type in CHOICE_TYPES)


def test_json_lines_are_read_too(copy: Path) -> None:
    expected = read_dataset(copy, "train", check_videos=False).records
    for file in copy.glob("*.json"):
        file.write_text("".join(json.dumps(row) + "\n" for row in json.loads(file.read_text())))
    assert read_dataset(copy, "train", check_videos=False).records == expected


def test_an_unknown_layout_shows_its_keys_and_is_mapped(copy: Path, tmp_path: Path) -> None:
    expected = len(read_dataset(copy, "train", check_videos=False).records)
    rewrite(copy, renamed(answer="target", scene="room_key"))
    with pytest.raises(UserError) as told:
        read_dataset(copy, "train", check_videos=False)
    for words in ("'room_key', 'question', 'target'", '[data.fields] scene_name = "KEY"', "--field scene_name=KEY"):
        assert words in str(told.value)
    fields = {"scene_name": "room_key", "ground_truth": "target"}
    assert len(read_dataset(copy, "train", check_videos=False, fields=fields).records) == expected
    prepared = prepare_vsi_100k(copy, tmp_path / "out", fields=fields)
    assert prepared["total"]["questions"] == expected
    with pytest.raises(UserError, match=r"`data\.fields\.ground_truth` = 'nowhere' is not one of them"):
        read_dataset(copy, "train", check_videos=False, fields=fields | {"ground_truth": "nowhere"})


@pytest.mark.parametrize("stills", [False, True])
def test_scannet_is_linked_and_the_notes_tell_the_differences(
    copy: Path, tmp_path: Path, cache: Path, stills: bool
) -> None:
    scannet = write_scannet(tmp_path / "scannet", cache, stills=stills)
    out = tmp_path / "out"
    manifest = prepare_vsi_100k(copy, out, scannet=scannet, workers=1)
    data = read_dataset(out, "train")
    assert manifest["total"] == {"questions": len(data.records), "scenes": 6, "videos": 6}
    path = data.video_path(data.records[0])
    assert path.is_dir() is stills and path.parent.resolve() != scannet.resolve()
    assert FrameCache(tmp_path / "frames", SETTINGS).load(path).grid_thw.tolist() == [[4, 6, 6]]
    assert any("between the centres" in note for note in data.notes)
    assert len({record.question_type for record in data.records[:12]}) > 4, "the first questions are of many types"
    direct = read_dataset(copy, "train", videos=scannet)
    assert sorted(r.key for r in direct.records) == sorted(r.key for r in data.records)


def test_without_scannet_the_message_says_what_to_get_and_where_it_goes(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is missing; VSI-100k ships no videos\. Get ScanNet v2 .*--scannet DIR"):
        read_dataset(copy, "train")
    with pytest.raises(UserError, match=r"--scannet .*nowhere`: no such folder\. VSI-100k ships no videos"):
        prepare_vsi_100k(copy, tmp_path / "out", scannet=tmp_path / "nowhere")


def test_scenes_without_a_video_are_refused_or_left_out_and_counted(copy: Path, tmp_path: Path, cache: Path) -> None:
    scannet = write_scannet(tmp_path / "scannet", cache, stills=False)
    (scannet / "scene0001_00.mp4").unlink()
    with pytest.raises(UserError, match="no video of 1 of 6 scenes: scannet/scene0001_00"):
        prepare_vsi_100k(copy, tmp_path / "out", scannet=scannet, workers=1)
    manifest = prepare_vsi_100k(copy, tmp_path / "out", scannet=scannet, workers=1, skip_bad=True)
    assert manifest["total"]["videos"] == 5
    assert manifest["skipped"][0].endswith("questions on 1 scenes without a video")


def test_the_users_links_and_files_stay(copy: Path, tmp_path: Path, cache: Path) -> None:
    scannet, out = write_scannet(tmp_path / "scannet", cache, stills=False), tmp_path / "out"
    prepare_vsi_100k(copy, out, scannet=scannet, workers=1)
    moved = scannet.rename(tmp_path / "moved")
    prepare_vsi_100k(copy, out, scannet=moved, workers=1)
    link = out / "scannet" / "scene0001_00.mp4"
    assert link.readlink() == moved / "scene0001_00.mp4"
    link.unlink()
    link.symlink_to(moved / "scene0002_00.mp4")
    with pytest.raises(UserError, match=r"scene0001_00\.mp4`: there is a symbolic link"):
        prepare_vsi_100k(copy, out, scannet=moved, workers=1)
    assert link.readlink() == moved / "scene0002_00.mp4"
    (out / "train.jsonl").write_text("edited")
    with pytest.raises(UserError, match=r"train\.jsonl`: not as the harness wrote it"):
        prepare_vsi_100k(copy, out, workers=1)


def test_rooms_of_the_benchmark_are_told_in_the_notes_and_refused_in_training(copy: Path, tmp_path: Path) -> None:
    rewrite(copy, lambda rows: [row | {"scene": row["scene"].replace("scene0000", "scene0025")} for row in rows])
    prepared = prepare_vsi_100k(copy, tmp_path / "out")
    assert any("show 1 of the 88 ScanNet rooms" in note for note in prepared["notes"])
    train = read_dataset(tmp_path / "out", "train", check_videos=False)
    with pytest.raises(UserError, match=r"scannet/scene0025 .*--drop-leaking.*very likely include the 88 test rooms"):
        check_leakage(train, train, drop=False)
    kept = check_leakage(train, read_dataset(_other_rooms(tmp_path), "test", check_videos=False), drop=True)
    assert len(kept.records) + len(kept.skipped) == len(train.records)
    assert {r.room for r in kept.records}.isdisjoint({"scannet/scene0025"})


def _other_rooms(tmp_path: Path) -> Path:
    row = {"id": 0, "dataset": "world", "scene_name": "a", "question_type": "room_size_estimation"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"question": "How large?", "ground_truth": "9"}))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scene": "living room"}, r"record 1: `scene` = 'living room' contains no ScanNet scene"),
        ({"answer": None}, r"record 1: field `ground_truth` = None"),
        ({"answer": "about two meters"}, r"record 1: ground_truth 'about two meters' .* is not a positive number"),
    ],
)
def test_a_bad_question_is_named(copy: Path, change: dict[str, Any], words: str) -> None:
    file = copy / "absolute_distance.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([rows[0] | change, *rows[1:]]))
    with pytest.raises(UserError, match=words):
        read_dataset(copy, "train", check_videos=False)
    assert len(read_dataset(copy, "train", check_videos=False, skip_bad=True).skipped) == 1


def test_files_that_are_no_vsi_100k_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no JSON file is named after a question type .*hf download OPPOer/VSI-100k"):
        prepare_vsi_100k(tmp_path, tmp_path / "out")
    for content, words in (("{", "cannot be read as JSON"), ("[]", "contains no records"), ("[1]", "JSON object")):
        (tmp_path / "object_counting.json").write_text(content)
        with pytest.raises(UserError, match=words):
            prepare_vsi_100k(tmp_path, tmp_path / "out")


def test_pairs_are_made_from_wordings_that_are_not_the_benchmarks() -> None:
    import random

    from harness.data.corruption import corrupted_answer
    from harness.vsibench.records import Record

    question = "Which one is nearest to the door: table, chair, sink, or sofa?"
    record = Record(
        id=0,
        dataset="scannet",
        scene_name="scene0000_00",
        question_type="object_rel_distance",
        question=question,
        ground_truth="sink",
    )
    assert {corrupted_answer(record, random.Random(seed)) for seed in range(40)} == {"table", "chair", "sofa"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_the_whole_set_loads_in_seconds_and_far_below_a_gigabyte(tmp_path: Path) -> None:
    """116,900 questions, as many as the paper counts; processor seconds, so that a busy machine does not matter."""
    question = "Measuring from the centre, which of these objects (table, chair, sink, sofa) is the closest to the tv?"
    for kind, count in PUBLISHED.items():
        answer = "left" if "direction" in kind else "sink" if "rel" in kind else 2
        rows = [{"scene": f"scene{n % 700:04d}_00", "question": question, "answer": answer} for n in range(count)]
        (tmp_path / f"{kind}.json").write_text(json.dumps(rows))
    code = (
        "import resource, sys, pathlib; from harness.data.reader import read_dataset\n"
        "print(len(read_dataset(pathlib.Path(sys.argv[1]), 'train', check_videos=False).records))\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        # Not ru_maxrss: a child inherits there what the process that started it had.
        "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(used.ru_utime + used.ru_stime, peak)"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    count, seconds, kilobytes = map(float, told.stdout.split())
    assert count == sum(PUBLISHED.values()) == 116_900
    assert seconds < 20 and kilobytes < 1e6
