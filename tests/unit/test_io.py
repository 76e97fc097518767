"""One reader of text: the same words, whatever marks, encodings and ends of lines a file has."""

from __future__ import annotations

import codecs
import fcntl
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.config.study import load_study
from harness.data.layout import PRUNED_IDS, pruned_ids
from harness.data.reader import read_dataset
from harness.errors import UserError
from harness.io import parse_json, read_json, read_lines, read_text, remove_leftovers, write_text
from reports.answerfiles import read_answers
from reports.benchmarks.general import General, GeneralConfig

ODD = "is it\u2028red,\u2029blue\x85or naïve?"
"""Text whose characters str.splitlines would split at."""

DISGUISES = {
    "plain": str.encode,
    "no newline at the end": lambda text: text.rstrip("\n").encode(),
    "mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "mark and CRLF": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "files with marks, joined": lambda text: "\n".join("\ufeff" + line for line in text.split("\n")).encode(),
}


@pytest.fixture(params=DISGUISES)
def disguise(request: pytest.FixtureRequest):
    return DISGUISES[request.param]


def test_lines_and_text(tmp_path: Path, disguise) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(disguise("one\n\ntwo\n"))
    assert read_lines(file) == ["one", "", "two"]
    assert read_text(file).rstrip("\n") == "one\n\ntwo"


def test_records(tmp_path: Path, disguise) -> None:
    row = {"dataset": "d", "scene_name": "s", "question_type": "object_counting", "question": ODD, "ground_truth": "4"}
    lines = [json.dumps({"id": number, **row}, ensure_ascii=False) + "\n" for number in range(3)]
    (tmp_path / "test.jsonl").write_bytes(disguise("".join(lines)))
    records = read_dataset(tmp_path, check_videos=False).records
    assert [(record.key, record.question) for record in records] == [("0", ODD), ("1", ODD), ("2", ODD)]

    (tmp_path / "answers.jsonl").write_bytes(disguise(f'{{"id": 0, "answer": "{ODD}"}}\n{{"id": 2, "answer": "5"}}\n'))
    found = read_answers(tmp_path / "answers.jsonl", records)
    assert {key: answer.text for key, answer in found.items()} == {"0": ODD, "2": "5"}


def test_vsi_100k(tmp_path: Path, disguise) -> None:
    rows = [{"scene": f"scene000{n}_00", "question": ODD, "answer": 2} for n in range(2)]
    for text in (json.dumps(rows, ensure_ascii=False), "".join(json.dumps(row) + "\n" for row in rows)):
        (tmp_path / "object_counting.json").write_bytes(disguise(text))
        data = read_dataset(tmp_path, "train", check_videos=False)
        assert [record.question for record in data.records] == [ODD, ODD]


def test_general(tmp_path: Path, disguise) -> None:
    (tmp_path / "a.png").write_bytes(b"not opened here")
    lines = [
        json.dumps({"id": n, "image": "a.png", "question": ODD, "answer": "red"}, ensure_ascii=False) for n in (1, 2)
    ]
    (tmp_path / "questions.jsonl").write_bytes(disguise("\n".join(lines) + "\n"))
    general = General(GeneralConfig(file=tmp_path / "questions.jsonl"))
    assert [question.question for question in general.by_id.values()] == [ODD, ODD]


def test_pruned_ids(tmp_path: Path, disguise) -> None:
    (tmp_path / PRUNED_IDS).write_bytes(disguise("7\n12\n15\n"))
    assert pruned_ids(tmp_path) == {"7", "12", "15"}


def test_study_files(tmp_path: Path, disguise) -> None:
    (tmp_path / "mine.toml").write_bytes(disguise('extends = "tiny"\nname = "mine"\nseeds = 4\n'))
    assert load_study(tmp_path / "mine.toml").seeds == 4


def test_json(tmp_path: Path, disguise) -> None:
    (tmp_path / "one.json").write_bytes(disguise('{"a": [1,\n2]}\n'))
    assert read_json(tmp_path / "one.json") == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"one\ntw\0o\n", r"line 2: a NUL byte.*UTF-8"),
        (b"one\n\ntwo caf\xe9\n", r"line 3: the byte 0xe9 is not UTF-8; save"),
        ("one".encode("utf-16-le"), "it begins with NUL bytes, so it is UTF-16 or no text; save"),
        (codecs.BOM_UTF16_LE + b"a\0b", "byte 4: it is not utf-16-le, as its mark says; save"),
        (gzip.compress(b"one\n", mtime=0), "compressed; unpack it"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "file.txt").write_bytes(data)
    with pytest.raises(UserError, match=f"file.txt`.*{words}"):
        read_text(tmp_path / "file.txt")


def test_half_of_a_surrogate_pair_is_refused_in_a_document(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(r'{"name": "\ud83d\ude00"}')
    assert read_json(tmp_path / "one.json") == {"name": "\U0001f600"}
    (tmp_path / "one.json").write_text(r'{"name": "\ud83d"}')
    with pytest.raises(UserError, match=r"one.json`.*surrogates not allowed"):
        read_json(tmp_path / "one.json")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.*no such file"):
        read_text(tmp_path / "gone")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"truth": "A", "more": {"b": 1, "b": 2}}', "key 'b' occurs twice"),
        ('{"truth": NaN}', "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not"),
        ("[1e400]", "1e400 is too large"),
        (f"[{'9' * 5000}]", "limit"),
        ("[" * 100_000, "too deeply"),
        ('["a\0"]', "NUL"),
        ('["\udce9"]', "0xe9 is not UTF-8, at character 3"),
    ],
)
def test_what_other_readers_would_change_is_no_json(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)
    if "Infinity" in text:
        assert parse_json(text, constants=True) == [-float("inf")]


WRITER = """
import sys
from pathlib import Path
from harness.io import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_only_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "sub/file.json")]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
    foreign = tmp_path / "sub/.notes.tmp"
    foreign.write_text("the user's own")
    writers[0].kill()
    writers[0].communicate()
    remove_leftovers(tmp_path)
    assert len(list((tmp_path / "sub").iterdir())) == 3
    remove_leftovers(tmp_path, below=True)
    left = sorted(path.name for path in (tmp_path / "sub").iterdir())
    assert len(left) == 2 and foreign.name in left
    writers[1].communicate()
    assert sorted((tmp_path / "sub").iterdir()) == [foreign, tmp_path / "sub/file.json"]


def test_a_writer_whose_new_file_was_taken_for_a_leftover_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = fcntl.flock, []

    def late(file: Any, how: int) -> None:
        if not calls:
            calls.append(how)
            remove_leftovers(tmp_path)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_text(tmp_path / "file", "whole")
    assert calls and [path.read_text() for path in tmp_path.iterdir()] == ["whole"]
