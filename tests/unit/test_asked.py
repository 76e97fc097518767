"""Which benchmark scores a file of answers, and which questions: told by a manifest, by hand, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_small_dataset
from PIL import Image

from harness.data.reader import read_dataset
from harness.errors import UserError
from harness.io import sha256_file, write_json, write_sealed, write_text
from harness.study.asked import MANIFEST, SAMPLES, Asked, digest_of_questions, read_asked, rules_and_questions
from reports.benchmarks.general import General
from reports.benchmarks.vsibench import VSIBench


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_small_dataset(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def general(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    line = {"id": 1, "image": "cat.png", "question": "What is it?", "answer": "a cat"}
    write_text(tmp_path / "general.jsonl", json.dumps(line) + "\n")
    return tmp_path / "general.jsonl"


def evaluated(folder: Path, **about: object) -> Path:
    """An evaluation of one question."""
    samples = folder / SAMPLES
    write_text(samples, '{"id": 1, "answer": "cat"}\n')
    asked = {"mode": "official", "ids": ["1"], "questions": "d", **about}
    document = {"identity": {}, "n": 1, "asked": asked, "complete": True, "samples": sha256_file(samples)}
    write_sealed(folder / MANIFEST, document)
    return samples


def test_an_evaluation_names_its_own_benchmark_and_source(tmp_path: Path, data: Path, general: Path) -> None:
    rules, found = rules_and_questions([evaluated(tmp_path / "a", source=f"{data}#test")], None, None, None)
    assert isinstance(rules, VSIBench) and found.digest == read_dataset(data, "test").digest
    path = evaluated(tmp_path / "b", benchmark="general", options={"file": str(general)}, source="moved")
    for wanted in (None, str(general), f"general={general}", "general"):
        rules, found = rules_and_questions([path], wanted, None, None)
        assert isinstance(rules, General) and [record.key for record in found.records] == ["1"]
    with pytest.raises(UserError, match=r"`--benchmark vsibench=.*has answers to general, not to vsibench"):
        rules_and_questions([path], f"vsibench={data}", None, None)
    with pytest.raises(UserError, match="answer different benchmarks and must not be compared"):
        rules_and_questions([path, evaluated(tmp_path / "c")], None, None, None)


def test_other_answers_are_scored_as_told(tmp_path: Path, data: Path, general: Path) -> None:
    write_text(answers := tmp_path / "answers.jsonl", '{"id": 1, "answer": "cat"}\n')
    for wanted in (str(data), f"vsibench={data}"):
        assert isinstance(rules_and_questions([answers], wanted, None, None)[0], VSIBench)
    assert isinstance(rules_and_questions([answers], f"general={general}", None, None)[0], General)
    for wanted in (None, "vsibench"):
        with pytest.raises(UserError, match="`--benchmark`: name the records that were answered"):
            rules_and_questions([answers], wanted, None, None)
    with pytest.raises(UserError, match="no such folder or file"):
        rules_and_questions([answers], "generall=x", None, None)


def test_a_manifest_of_something_else_is_none_of_ours(tmp_path: Path, data: Path) -> None:
    path = evaluated(tmp_path / "a")
    for content in ({"split": "test"}, [1]):
        write_json(path.with_name(MANIFEST), content)
        assert read_asked(path) is None
    write_sealed(path.with_name(MANIFEST), {"asked": {"ids": 3}})
    with pytest.raises(UserError, match=r"manifest\.json`: .*`asked\.mode`"):
        read_asked(path)


def test_the_digest_follows_what_is_asked_and_nothing_else(data: Path) -> None:
    records = read_dataset(data, "test").records
    digest = digest_of_questions(records)
    for change in ({"question": "?"}, {"ground_truth": "9"}, {"id": 99}):
        assert digest_of_questions([records[0].model_copy(update=change), *records[1:]]) != digest
    moved = [record.model_copy(update={"scene_name": "other"}) for record in records]
    assert digest_of_questions(moved) == digest
    asked = Asked(mode="official", ids=tuple(r.key for r in records[:2]), questions=digest_of_questions(records[:2]))
    assert asked.of(records, data) == list(records[:2])
