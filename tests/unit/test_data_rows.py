"""What a row of a file means: read as a careful person would, and said; or refused with the fix."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import write_video

from harness.data.prepare import check_videos
from harness.data.reader import Dataset, read_dataset
from harness.errors import UserError
from harness.vsibench.options import plain_text
from harness.vsibench.prompts import prompt_text
from harness.vsibench.records import BadRecordError

NUMERIC: dict[str, Any] = {
    "id": 1,
    "dataset": "mine",
    "scene_name": "kitchen",
    "question_type": "object_counting",
    "question": "How many chairs?",
    "ground_truth": "4",
}
CHOICE: dict[str, Any] = {
    **NUMERIC,
    "question_type": "object_rel_distance",
    "question": "Which is closest to the sink?",
    "options": ["A. chair", "B. table", "C. tv"],
    "ground_truth": "B",
}


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def read(folder: Path, *rows: dict[str, Any], **options: Any) -> Dataset:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_dataset(folder, "train", **{"check_videos": False, "fields": {}, **options})


CHOICES: dict[str, dict[str, Any]] = {
    "plain texts": {"options": ["chair", "table", "tv"]},
    "letters in brackets": {"options": ["(A) chair", "(B) table", "(C) tv"]},
    "small letters": {"options": ["a) chair", "b) table", "c) tv"]},
    "a colon": {"options": ["A: chair", "B: table", "C: tv"]},
    "a mark of another script": {"options": ["A、chair", "B、table", "C、tv"]},
    "a dash": {"options": ["A - chair", "B - table", "C - tv"]},
    "no space": {"options": ["A.chair", "B.table", "C.tv"]},
    "texts by letter": {"options": {"C": "tv", "B": "table", "A": "chair", "D": None}},
    "lines of text": {"options": "A. chair\nB. table\nC. tv\n"},
    "a JSON list as text": {"options": '["chair", "table", "tv"]'},
    "columns": {"options": None, "A": "chair", "B": "table", "C": "tv", "D": None},
    "the truth in words": {"ground_truth": "table"},
    "in words of another case": {"ground_truth": " Table"},
    "letter and words": {"ground_truth": "B. table"},
    "a letter in brackets": {"ground_truth": "(B)"},
    "a small letter": {"ground_truth": "b"},
    "in answer tags": {"ground_truth": "<think>near</think><answer> B </answer>"},
    "words of plain texts": {"options": ["chair", "table", "tv"], "ground_truth": "table"},
    "another spelling of the type": {"question_type": "Object-Rel Distance"},
}


@pytest.mark.parametrize("change", CHOICES)
def test_options_and_truth_are_read_however_they_are_written(tmp_path: Path, change: str) -> None:
    plain = read(tmp_path, CHOICE)
    data = read(tmp_path, {**CHOICE, **CHOICES[change]})
    assert data.records == plain.records and data.digest == plain.digest
    assert not plain.notes and len(data.notes) >= 1 and "(1 records)" in data.notes[0]
    assert "Options:\nA. chair\nB. table\nC. tv\n" in prompt_text(data.records[0], "vanilla")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no options, a letter": ({**CHOICE, "options": None}, "'B' stands for an option, but the record has no options"),
    "a letter in brackets": ({**CHOICE, "options": [], "ground_truth": "(b)"}, "has no options; add them as a list"),
    "an option's line": ({**CHOICE, "options": None, "ground_truth": "B. table"}, "has no options"),
    "an index without options": ({**CHOICE, "options": None, "ground_truth": 1}, "'1' stands for an option"),
    "choices": (
        {**without(CHOICE, "options"), "choices": ["chair", "table"]},
        r'has `choices` and no `options`; .*\[data.fields\] options = "choices"',
    ),
    "columns of another name": (
        {**without(CHOICE, "options"), "option_a": "left", "option_b": "right", "ground_truth": "left"},
        "has `option_a` and no `options`; give a list",
    ),
    "options that are a number": ({**CHOICE, "options": 4}, "options = 4: a list is expected"),
    "candidates and words": (
        {**without(CHOICE, "options"), "candidates": ["left", "right"], "ground_truth": "left"},
        "has `candidates` and no `options`",
    ),
    "a list of another name": (
        {**without(CHOICE, "options"), "mcq": ["chair", "table"]},
        r'\[data.fields\] options = "mcq"',
    ),
    "a word for options": (
        {**without(CHOICE, "options"), "mc_options": ["left", "right"], "ground_truth": "left"},
        "has `mc_options` and no `options`",
    ),
    "small columns": (
        {**without(CHOICE, "options"), "a": "left", "b": "right", "ground_truth": "left"},
        "has `a` and no `options`; give a list",
    ),
    "numbered columns": (
        {**without(CHOICE, "options"), "a0": "left", "a1": "right", "ground_truth": "left"},
        "has `a0` and no `options`; give a list",
    ),
    "letters alone": ({**CHOICE, "options": ["A", "B", "C"]}, "A, B, C have no texts"),
    "an index": ({**CHOICE, "ground_truth": 1}, "1 is not among the options A, B, C; give the right option's letter"),
    "an index as text": ({**CHOICE, "ground_truth": "1"}, "'1' is not among"),
    "an index or an option": ({**CHOICE, "options": [1, 2, 3], "ground_truth": 2}, "2 is not among the options"),
    "beyond the options": ({**CHOICE, "ground_truth": "D"}, "'D' is not among the options A, B, C"),
    "another option's words": ({**CHOICE, "ground_truth": "B. chair"}, "'B. chair' is not among"),
    "two meanings": ({**CHOICE, "options": ["B", "A"], "ground_truth": "A"}, "a letter and another option's words"),
    "the same option twice": ({**CHOICE, "options": ["A. tv", "B. table", "C. TV"]}, "'tv' occurs twice"),
    "the same option in other characters": (
        {**CHOICE, "options": ["A. a  tv", "B. table", "C. Ａ TV."]},
        "occurs twice",
    ),
    "an empty option": ({**CHOICE, "options": ["A. tv", "B. ", "C. chair"]}, "option B is empty"),
    "one option": ({**CHOICE, "options": ["A. tv"], "ground_truth": "A"}, "1 options; 2 to 8"),
    "nine options": ({**CHOICE, "options": list("ijklmnopq"), "ground_truth": "i"}, "9 options; 2 to 8"),
    "no letters of ours": ({**CHOICE, "options": {"1": "tv", "2": "table"}}, "texts by the letters A, B"),
    "a gap in the letters": ({**CHOICE, "options": {"A": "tv", "B": None, "C": "sofa"}}, "texts by the letters"),
    "one line of text": ({**CHOICE, "options": "chair, table, tv"}, "is one line of text; give a list"),
    "true as an option": ({**CHOICE, "options": [True, False], "ground_truth": "A"}, "`options` = True"),
    "true": ({**NUMERIC, "ground_truth": True}, "`ground_truth` = True: text or a number is expected"),
    "a list": ({**NUMERIC, "ground_truth": [4]}, "`ground_truth` = .* is not one question and one answer"),
    "a unit": ({**NUMERIC, "ground_truth": "180 cm"}, "'180 cm' of object_counting is not a positive number in plain"),
    "an underscore": ({**NUMERIC, "ground_truth": "1_000"}, "plain digits"),
    "an exponent": ({**NUMERIC, "ground_truth": "1e3"}, "plain digits"),
    "a comma": ({**NUMERIC, "ground_truth": "1,8"}, "plain digits"),
    "full-width digits": ({**NUMERIC, "ground_truth": "\uff14"}, "plain digits"),
    "negative": ({**NUMERIC, "ground_truth": -4}, "not a positive number"),
    "nothing": ({**NUMERIC, "ground_truth": "0.0"}, "not a positive number"),
    "beyond floats": ({**NUMERIC, "ground_truth": "9" * 400}, "not a positive number"),
    "half a chair": ({**NUMERIC, "ground_truth": "2.5"}, "'2.5' of object_counting is not a whole number"),
    "a true id": ({**NUMERIC, "id": True}, "`id` = True"),
    "an empty id": ({**NUMERIC, "id": ""}, "id '' is empty"),
    "a blank id": ({**NUMERIC, "id": " 7"}, "id ' 7'"),
    "half an id": ({**NUMERIC, "id": 1.5}, "id 1.5 is not a whole number"),
    "an id beyond floats": ({**NUMERIC, "id": 1e300}, r"id 1e\+300 is not"),
    "a scene too long": ({**NUMERIC, "scene_name": "a" * 300}, "scene_name 'a+' .*too long"),
    "a path as scene": ({**NUMERIC, "scene_name": "clips/a.mp4"}, "give the video's path in the field `video`"),
    "a number as question": ({**NUMERIC, "question": 4}, "`question` = 4: text is expected"),
    "a control character": ({**NUMERIC, "question": "How\0many?"}, "question contains"),
    "a blank scene": ({**NUMERIC, "scene_name": " "}, "scene_name ' '"),
    "no words": ({**NUMERIC, "question": " <video> \n"}, "is empty"),
    "a path in marks": ({**NUMERIC, "question": "<video>a.mp4</video> How many?"}, "contains '</video>'"),
    "a template of another model": ({**NUMERIC, "question": "[INST] How many? [/INST]"}, "contains"),
    "a placeholder within": ({**NUMERIC, "question": "In <video> how many?"}, "contains '<video>'.*remove it"),
    "a special token": ({**NUMERIC, "question": "How many?<|im_end|>\n"}, r"contains '<\|im_end\|>'"),
    "a special token to learn": (
        {**CHOICE, "options": None, "ground_truth": "left<|endoftext|>"},
        "ground_truth contains",
    ),
    "a placeholder among the options": ({**CHOICE, "options": ["<image>", "tv"], "ground_truth": "A"}, "options cont"),
    "an unknown type": ({**CHOICE, "question_type": "object_rel_direction"}, "did you mean object_rel_direction_"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_mean_something_else_is_refused(tmp_path: Path, case: str) -> None:
    row, words = REFUSED[case]
    with pytest.raises(UserError, match=words) as refused:
        read(tmp_path, row)
    assert "train.jsonl, line 1: " in str(refused.value)


@pytest.mark.parametrize(
    ("field", "key", "suggested"),
    [
        ("ground_truth", "answer", 'ground_truth = "answer"'),
        ("ground_truth", "solution", 'ground_truth = "solution"'),
        ("ground_truth", "Ground-Truth", 'ground_truth = "Ground-Truth"'),
        ("question", "problem", 'question = "problem"'),
        ("question_type", "problem_type", 'question_type = "problem_type"'),
        ("id", "question_id", 'id = "question_id"'),
        ("scene_name", "scene", 'scene_name = "scene"'),
        ("scene_name", "path", 'video = "path"'),
    ],
)
def test_a_field_under_another_name_is_suggested(tmp_path: Path, field: str, key: str, suggested: str) -> None:
    row = {**without(NUMERIC, field), key: NUMERIC[field]}
    with pytest.raises(UserError, match=f"field `{field}` is missing among") as refused:
        read(tmp_path, row)
    assert f"map another in the study file: [data.fields] {suggested}" in str(refused.value)
    ours, theirs = suggested.replace('"', "").split(" = ")
    assert read(tmp_path, row, fields={ours: theirs}).records[0].ground_truth == "4"
    with pytest.raises(UserError, match=f"rename `{key}` to `{ours}`"):  # a benchmark's fields cannot be mapped
        read(tmp_path, row, fields=None)


def test_all_missing_fields_are_suggested_at_once(tmp_path: Path) -> None:
    row = {"qid": 1, "path": "mine/kitchen.mp4", "problem": "How many?", "task": "object_counting", "gt": 4}
    fields = {"id": "qid", "video": "path", "question_type": "task", "question": "problem", "ground_truth": "gt"}
    with pytest.raises(UserError, match=r"fields `id`, `dataset`, .* are missing among 'qid', ") as refused:
        read(tmp_path, row)
    assert "[data.fields] " + ", ".join(f'{a} = "{b}"' for a, b in fields.items()) in str(refused.value)
    assert read(tmp_path, row, fields=fields).records[0].scene == "mine/kitchen"


@pytest.mark.parametrize("nothing", [None, [], "", {}, {"A": None, "B": None}, [None, None]])
def test_a_number_has_no_options(tmp_path: Path, nothing: Any) -> None:
    row = {**NUMERIC, "options": nothing, "A": None, "B": None, "choices": nothing}
    assert read(tmp_path, row).records[0].options is None


def test_fields_that_are_not_read_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = {"c": 3, "h": 480}  # no columns of options
    rows = [{**NUMERIC, "id": n, **size, **({"level": 3} if n else {}), "nothing": None} for n in range(3)]
    for _ in range(2):
        data = read(tmp_path, *rows)
    assert data.notes == (
        f"{tmp_path / 'train.jsonl'}: fields that are not read: `c` (3 records), `h` (3 records), `level` (2 records)",
    )
    assert caplog.messages == list(data.notes)


@pytest.mark.parametrize(
    ("path", "scene", "file"),
    [
        ("clips/a.mp4", "clips/a", "clips/a.mp4"),
        ("./clips/a.mp4", "clips/a", "clips/a.mp4"),
        (["clips/a.mp4"], "clips/a", "clips/a.mp4"),
        ("b.mp4", "./b", "b.mp4"),
        ("videos/train/c.mp4", "videos/train/c", "videos/train/c.mp4"),
        ("clips/d.webm", "clips/d.webm", "clips/d.webm"),
    ],
)
def test_a_video_is_named_by_its_path(tmp_path: Path, path: Any, scene: str, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"not decoded here")
    row = without(NUMERIC, "dataset", "scene_name")
    for fields, given in (({"video": "path"}, {"path": path}), ({}, {"video": path})):
        data = read(tmp_path, {**row, **given}, fields=fields, check_videos=True)
        assert data.records[0].scene == scene
        assert data.video_path(data.records[0]).resolve() == tmp_path / file
        assert not data.notes


def test_a_missing_video_is_not_replaced_by_one_of_the_same_name_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "kitchen.mp4").write_bytes(b"another kitchen")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"mine/kitchen\.mp4 is missing"):
        read(tmp_path, NUMERIC, check_videos=True)
    (tmp_path / "mine").rmdir()
    data = read(tmp_path, NUMERIC, check_videos=True)
    assert data.video_path(data.records[0]) == tmp_path / "kitchen.mp4"


def test_a_path_below_the_data_set_that_is_named(tmp_path: Path) -> None:
    row = {**without(NUMERIC, "scene_name"), "video": "kitchen.mp4"}
    assert read(tmp_path, row).records == read(tmp_path, NUMERIC).records


@pytest.mark.parametrize(
    "path",
    [
        "../a.mp4",
        "/data/a.mp4",
        "clips/../../a.mp4",
        "https://host/a.mp4",
        "a\\b.mp4",
        "",
        "a\0b",
        ["a", "b"],
        " ",
        "clips/.mp4",
        "a" * 300 + ".mp4",
        4,
        None,
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: Any) -> None:
    with pytest.raises(UserError, match=r"line 1: .*video"):
        read(tmp_path, {**without(NUMERIC, "dataset", "scene_name"), "video": path})


def test_placeholders_at_the_edges_are_removed_and_said(tmp_path: Path) -> None:
    marks = (
        "<video>\n{}",
        "<image><image>\n{}",
        "{}\n<video>",
        "<|vision_start|><|video_pad|><|vision_end|>{}",
        "<ImageHere>{}",
    )
    rows = [{**NUMERIC, "id": n, "question": mark.format("How many chairs?")} for n, mark in enumerate(marks)]
    data = read(tmp_path, *rows)
    assert {record.question for record in data.records} == {"How many chairs?"}
    assert "<video> were removed around `question` (5 records)" in data.notes[0]


@pytest.mark.parametrize(
    ("turns", "key", "parts"),
    [
        (("human", "gpt"), ("from", "value"), False),
        (("user", "assistant"), ("role", "content"), False),
        (("user", "assistant"), ("role", "content"), True),
    ],
)
def test_conversations(tmp_path: Path, turns: tuple[str, str], key: tuple[str, str], parts: bool) -> None:
    asked: Any = "<video>\nHow many chairs?"
    asked = [{"type": "video", "video": "x"}, {"type": "text", "text": "How many chairs?"}] if parts else asked
    talk = [dict(zip(key, (turns[0], asked), strict=True)), dict(zip(key, (turns[1], "4"), strict=True))]
    row = {**without(NUMERIC, "question", "ground_truth"), "conversations": talk}
    with pytest.raises(UserError, match=r'\[data.fields\] question = "conversations"'):
        read(tmp_path, row)
    fields = {"question": "conversations", "ground_truth": "conversations"}
    assert read(tmp_path, row, fields=fields).records == read(tmp_path, NUMERIC).records
    with pytest.raises(UserError, match="write a record of each pair"):
        read(tmp_path, {**row, "conversations": talk * 2}, fields=fields)


def test_a_mapping_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`data.fields.question` = 'promt' is none of its fields; did you mean prompt"):
        read(tmp_path, {**NUMERIC, "prompt": "x"}, fields={"question": "promt"})
    with pytest.raises(UserError, match=r"`data.fields.options` = 'chioces': no record has such a field"):
        read(tmp_path, NUMERIC, fields={"options": "chioces"})
    mixed = [NUMERIC, {**without(CHOICE, "options"), "id": 2, "choices": CHOICE["options"]}]
    assert read(tmp_path, *mixed, fields={"options": "choices"}).records[1].options == ("A. chair", "B. table", "C. tv")


def test_numbers_and_ids_of_tables_with_gaps(tmp_path: Path) -> None:
    row = {**NUMERIC, "id": 7.0, "scene_name": 41069025.0, "ground_truth": 4.0}
    record = read(tmp_path, row).records[0]
    assert (record.id, record.scene_name, record.ground_truth) == (7, "41069025", "4")
    assert read(tmp_path, {**NUMERIC, "question_type": "object_abs_distance"}).records[0].ground_truth == "4"


def test_columns_of_parquet_files(tmp_path: Path) -> None:
    rows = [NUMERIC | {"options": None}, {**CHOICE, "id": 2}]
    expected = read(tmp_path, *rows).records
    table = pyarrow.Table.from_pylist(rows)
    for name in ("question_type", "dataset"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].dictionary_encode())
    place = table.column_names.index("question")
    table = table.set_column(place, "question", table["question"].cast(pyarrow.large_string()))
    pyarrow.parquet.write_table(table, tmp_path / "odd.parquet")
    assert read_dataset(tmp_path / "odd.parquet", check_videos=False).records == expected

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows, dict.fromkeys(rows[0])]), tmp_path / "null.parquet")
    with pytest.raises(UserError, match=r"null.parquet, row 3: field `\w+` = None"):
        read_dataset(tmp_path / "null.parquet", check_videos=False)
    twice = pyarrow.table([[1], [2]], names=["id", "id"])
    pyarrow.parquet.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r"twice.parquet: cannot be read: .*id"):
        read_dataset(tmp_path / "twice.parquet", check_videos=False)


def test_pruned_ids_of_no_question_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({**NUMERIC, "id": n}) + "\n" for n in range(4)))
    (tmp_path / "pruned_ids.txt").write_text("1\n")
    assert len(read_dataset(tmp_path, "debiased", check_videos=False).records) == 3
    (tmp_path / "pruned_ids.txt").write_text("1,\n2\n")
    for split in ("debiased", "pruned"):
        with pytest.raises(UserError, match=r"pruned_ids.txt: 1 ids belong to no question: 1,"):
            read_dataset(tmp_path, split, check_videos=False)


@pytest.mark.parametrize("manifest", ['{"notes": 0.5}', "[]", '{"name": ["x"]}', "[" * 100_000])
def test_a_damaged_manifest_is_named(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read(tmp_path, NUMERIC)


def test_a_damaged_line_of_an_interrupted_check_is_checked_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_video(tmp_path / "mine" / "kitchen.mp4", np.zeros((4, 28, 28, 3), np.uint8))
    for line in ('{"name": "mine/kitchen"}', "[1]", "{", '{"name": "mine/kitchen", "frames": 1, "height": 2}'):
        (tmp_path / ".harness-videos").write_text(line + "\n")
        assert check_videos(tmp_path, ["mine/kitchen"], 1, None)["mine/kitchen"]["height"] == 28


def test_a_number_beyond_a_float_is_text_all_the_same() -> None:
    assert plain_text("options", 10**400) == "1" + "0" * 400
    for value in (True, float("nan"), Decimal("NaN"), Decimal("Infinity"), None, [1]):
        with pytest.raises(BadRecordError, match=r"`options`.*text or a number"):
            plain_text("options", value)
