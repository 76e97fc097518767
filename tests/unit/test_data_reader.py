"""Reading a data set: what is accepted, and how each mistake is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.data.reader import read_dataset
from harness.errors import UserError

LETTERED = {
    "id": 0,
    "dataset": "scannet",
    "scene_name": "scene0001_00",
    "question_type": "object_rel_distance",
    "question": "Which of these objects (chair, table) is the closest to the sink?",
    "options": ["A. chair", "B. table"],
    "ground_truth": "B",
}
NUMERIC = {
    "id": 1,
    "dataset": "scannet",
    "scene_name": "scene0001_00",
    "question_type": "object_counting",
    "question": "How many chair(s) are in this room?",
    "options": None,
    "ground_truth": "4",
}


def write(root: Path, rows: list[Any], name: str = "test.jsonl") -> Path:
    """A data set folder whose lines are rows (text is written as it is)."""
    video = root / "scannet" / "scene0001_00.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"not decoded here")
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_reads_records_in_order_with_their_videos(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, [LETTERED, NUMERIC]))
    assert [record.key for record in data.records] == ["0", "1"]
    assert data.records[0].options == ("A. chair", "B. table")
    assert data.records[0].answer_words == "table"
    assert (data.root, data.split, data.skipped) == (tmp_path, "test", ())
    assert data.video_path(data.records[1]) == tmp_path / "scannet" / "scene0001_00.mp4"


def test_the_digest_is_the_hash_of_canonical_json(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, [NUMERIC]))
    line = (
        '{"dataset":"scannet","ground_truth":"4","id":1,"options":null,'
        '"question":"How many chair(s) are in this room?","question_type":"object_counting",'
        '"scene_name":"scene0001_00"}\n'
    )
    assert data.digest == hashlib.sha256(line.encode()).hexdigest()


def test_a_file_names_its_split_and_unknown_fields_are_ignored(tmp_path: Path) -> None:
    root = write(tmp_path, [{**NUMERIC, "pruned": True}, ""], "test_debiased.jsonl")
    data = read_dataset(root / "test_debiased.jsonl")
    assert (data.root, data.split, len(data.records)) == (root, "test_debiased", 1)


@pytest.mark.parametrize("name", ["test.parquet", "test-00000-of-00001.parquet"])
def test_parquet_equals_jsonl(tmp_path: Path, name: str) -> None:
    root = write(tmp_path, [LETTERED, NUMERIC])
    expected = read_dataset(root)
    (root / "test.jsonl").unlink()
    pd.DataFrame([LETTERED, NUMERIC]).to_parquet(root / name)
    for source in (root, root / name):
        data = read_dataset(source)
        assert (data.records, data.digest, data.split) == (expected.records, expected.digest, "test")


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, [])
    (root / "test.jsonl").unlink()
    pd.DataFrame([NUMERIC]).to_parquet(root / "test-00000-of-00002.parquet")
    with pytest.raises(UserError, match="1 of 2 shards"):
        read_dataset(root)
    pd.DataFrame([LETTERED]).to_parquet(root / "test-00001-of-00002.parquet")
    assert [record.key for record in read_dataset(root).records] == ["1", "0"]


MISTAKES: dict[str, tuple[Any, str]] = {
    "malformed JSON": ('{"id": 3,', "not a JSON record"),
    "not UTF-8": ("\udcff", "not a JSON record"),
    "nesting bomb": ("[" * 100_000, "not a JSON record"),
    "not an object": ("[1, 2]", "a JSON object is expected, not list"),
    "missing field": ({k: v for k, v in NUMERIC.items() if k != "question"}, "field `question` is missing"),
    "null ground truth": ({**NUMERIC, "ground_truth": None}, "field `ground_truth` = None"),
    "lone surrogate": ({**NUMERIC, "question": "\ud800"}, "field `question`"),
    "unknown type": ({**NUMERIC, "question_type": "object_count"}, "did you mean object_counting?"),
    "letter out of range": ({**LETTERED, "ground_truth": "C"}, "'C' is not among the options A, B"),
    "words of no option": ({**LETTERED, "ground_truth": "sofa"}, "'sofa' is not among the options A, B"),
    "two letters": ({**LETTERED, "ground_truth": "AB"}, "'AB' is not among the options A, B"),
    "options out of order": ({**LETTERED, "options": ["B. chair", "A. table"]}, "should begin with 'A. '"),
    "letters on some options": ({**LETTERED, "options": ["A. chair", "table"]}, "should begin with 'B. '"),
    "numeric with options": ({**NUMERIC, "options": ["A. 4"]}, "make them null"),
    "not a number": ({**NUMERIC, "ground_truth": "four"}, "'four' of object_counting is not a positive number"),
    "not finite": ({**NUMERIC, "ground_truth": "nan"}, "not a positive number"),
    "zero": ({**NUMERIC, "ground_truth": "0"}, "not a positive number"),
    "duplicate id": ({**LETTERED, "id": "1"}, "id 1 was used before, at .*test.jsonl, line 1"),
    "climbing scene": (
        {**NUMERIC, "scene_name": "../../etc/passwd"},
        "scene_name .* leads out of the data set",
    ),
    "dots": ({**NUMERIC, "scene_name": ".."}, "scene_name"),
    "absolute scene": ({**NUMERIC, "scene_name": "/etc/passwd"}, "scene_name"),
    "backslash": ({**NUMERIC, "scene_name": "a\\b"}, "scene_name"),
    "NUL": ({**NUMERIC, "scene_name": "a\0b"}, "scene_name"),
    "climbing data set": ({**NUMERIC, "dataset": "../scannet"}, "dataset .* leads out"),
    "data set is the root": ({**NUMERIC, "dataset": "."}, "dataset"),
    "missing video": ({**NUMERIC, "scene_name": "scene0002_00"}, r"scene0002_00\.mp4 is missing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named_with_file_and_line(tmp_path: Path, mistake: str) -> None:
    row, words = MISTAKES[mistake]
    if isinstance(row, dict) and mistake != "duplicate id":
        row = {**row, "id": 7}
    root = write(tmp_path, [NUMERIC])
    line = row if isinstance(row, str) else json.dumps(row)
    with (root / "test.jsonl").open("ab") as file:
        file.write(line.encode("utf-8", errors="surrogateescape") + b"\n")
    with pytest.raises(UserError, match=words) as refused:
        read_dataset(root)
    assert str(root / "test.jsonl") + ", line 2: " in str(refused.value)
    assert "--skip-bad" in str(refused.value)

    data = read_dataset(root, skip_bad=True)
    assert [record.key for record in data.records] == ["1"]
    assert len(data.skipped) == 1
    assert "line 2" in data.skipped[0]


def test_parquet_mistakes_name_their_row(tmp_path: Path) -> None:
    root = write(tmp_path, [])
    (root / "test.jsonl").unlink()
    pd.DataFrame([NUMERIC, {**NUMERIC, "id": 2, "ground_truth": "many"}]).to_parquet(root / "test.parquet")
    with pytest.raises(UserError, match=r"test\.parquet, row 2: ground_truth 'many'"):
        read_dataset(root)


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_dataset(write(tmp_path, ["{"] * 8))
    assert "line 5" in str(refused.value)
    assert "\nand 3 more\nFix the file" in str(refused.value)


def test_missing_videos_may_be_ignored(tmp_path: Path) -> None:
    root = write(tmp_path, [{**NUMERIC, "scene_name": "gone"}])
    assert len(read_dataset(root, check_videos=False).records) == 1


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data set folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such file"):
        read_dataset(tmp_path / "nowhere.jsonl")
    root = write(tmp_path, [NUMERIC])
    with pytest.raises(UserError, match=r"no train\.jsonl.*splits found: test"):
        read_dataset(root, "train")
    (root / "test.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no records"):
        read_dataset(root)
    (root / "test.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="all 1 were bad"):
        read_dataset(root, skip_bad=True)
    (root / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet: cannot be read"):
        read_dataset(root, "broken")


def test_the_readmes_example_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (tmp_path / "rooms.jsonl").write_text(text.split("```jsonl\n")[1].split("```")[0])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kitchen.mp4").write_bytes(b"not decoded here")
    data = read_dataset(tmp_path / "rooms.jsonl")
    assert data.split == "rooms" and [record.answer_words for record in data.records] == ["4", "table"]
    assert {data.video_path(record) for record in data.records} == {tmp_path / "mine" / "kitchen.mp4"}
