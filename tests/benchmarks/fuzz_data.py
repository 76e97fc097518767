"""Fuzz targets about data: records, answers, archives and what becomes of a download."""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import write_small_dataset
from fuzz_mutations import (
    ODD_TEXT,
    Input,
    encoded,
    json_text,
    mutated_bytes,
    mutated_document,
    odd_value,
    require,
    special_file,
)
from PIL import Image

from harness.data.archives import extract_members
from harness.data.leakage import leaking_rooms
from harness.data.prepare import records_text
from harness.data.prepare_vsi100k import prepare_vsi_100k
from harness.data.prepare_vsibench import prepare_vsibench
from harness.data.reader import Dataset, read_dataset
from harness.data.sources import resolve_source
from harness.data.subset import stratified_subset
from harness.io import write_bytes
from harness.plugins import registry
from harness.vsibench.answers import parse_answer
from harness.vsibench.prompts import MODES, prompt_text
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.vsibench.types import LETTERS
from reports.answerfiles import read_answers
from reports.samples import score_file


def _row(number: int, kind: str, truth: Any, options: list[str] | None = None) -> dict[str, Any]:
    row = {"id": number, "dataset": "world", "scene_name": f"test_{number % 3:06d}", "question_type": kind}
    return row | {"question": "What is it?", "options": options, "ground_truth": truth}


ROWS = [
    _row(0, "object_counting", "4"),
    _row(1, "object_rel_distance", "B", ["A. chair", "B. table", "C. tv"]),
    _row(2, "room_size_estimation", "23.5"),
    _row(3, "object_rel_direction_hard", "A", ["A. front-left", "B. back-left", "C. front-right", "D. back-right"]),
    _row(4, "object_abs_distance", "1.8"),
    _row(5, "obj_appearance_order", "B", ["A. chair, tv", "B. tv, chair"]),
    _row(6, "route_planning", "A", ["A. Turn Left", "B. Turn Right"]),
    _row(7, "object_size_estimation", "180"),
]
RECORDS = tuple(Record(**row) for row in ROWS)


def make_seeds(folder: Path) -> None:
    """A data set with videos, and an image."""
    write_small_dataset(folder / "data")
    Image.new("RGB", (64, 48), "red").save(folder / "red.png")


# ------------------------------------------------------------------------------------------------------------ records


def records(given: Input) -> None:
    """A data set's folder: the questions in one of its forms, its list of pruned ids, its manifest."""
    rng, root = given.rng, given.folder / "data"
    root.mkdir()
    (root / "world").symlink_to(given.seeds / "data" / "world")
    rows = [mutated_document(rng, row) if rng.random() < 0.25 else dict(row) for row in ROWS]
    split = "test"
    form = rng.choice(("jsonl", "jsonl", "jsonl", "parquet", "json"))
    if form == "jsonl":
        data = encoded(rng, "".join(json_text(rng, row) + "\n" for row in rows))
        (root / "test.jsonl").write_bytes(mutated_bytes(rng, data) if rng.random() < 0.3 else data)
    elif form == "parquet":
        _write_parquet(given, root / "test.parquet", rows)
    else:
        split = "train"
        told = [{"scene": f"scene000{n}_00", "question": "How many?", "answer": n + 1} for n in range(4)]
        document = mutated_document(rng, told) if rng.random() < 0.8 else {"data": told, "more": odd_value(rng)}
        (root / "object_counting.json").write_bytes(encoded(rng, json_text(rng, document)))
    if rng.random() < 0.03:
        special_file(rng, rng.choice(sorted(path for path in root.iterdir() if path.is_file())))
    if rng.random() < 0.2:
        ids = "\n".join(rng.choice(("0", "1", "9", "x", "", "\u2028", "٣")) for _ in range(4))
        (root / "pruned_ids.txt").write_bytes(encoded(rng, ids))
        split = rng.choice((split, "debiased", "pruned"))
    if rng.random() < 0.2:
        manifest = {"name": "n", "notes": ["a note"], "total": {"questions": 8}, "videos": {}}
        text = json_text(rng, mutated_document(rng, manifest))
        (root / "manifest.json").write_bytes(encoded(rng, text))
    place, split = resolve_source(f"{root}#{split}" if rng.random() < 0.7 else str(root), given.folder / "cache")
    mapped = {rng.choice(("id", "question", "scene_name")): rng.choice(("id", "qid", "scene"))}
    fields = mapped if rng.random() < 0.1 else {}
    found = read_dataset(place, split, skip_bad=rng.random() < 0.5, check_videos=rng.random() < 0.5, fields=fields)
    check_dataset(found, given.folder)


def _write_parquet(given: Input, file: Path, rows: list[Any]) -> None:
    """A parquet file, whose columns have one type each."""
    rng = given.rng
    whole = [row if isinstance(row, dict) else {"value": row} for row in rows]
    try:
        pd.DataFrame(whole).to_parquet(file, index=False)
    except Exception:  # no table has such values
        plain = [
            {key.encode("utf-8", "replace").decode(): repr(value)[:99] for key, value in row.items()} for row in whole
        ]
        pd.DataFrame(plain).map(lambda one: str(one).encode("utf-8", "replace").decode()).to_parquet(file, index=False)
    if rng.random() < 0.5:
        file.write_bytes(mutated_bytes(rng, file.read_bytes()))


def check_dataset(found: Dataset, folder: Path) -> None:
    """What holds for every data set that was accepted, and what is done with one."""
    require(len(found.digest) == 64, "no digest")
    require(len({record.key for record in found.records}) == len(found.records), "an id occurs twice")
    for record in found.records:
        place = Path(found.video_path(record).absolute().as_posix()).parts
        require(found.root.absolute().parts == place[: len(found.root.absolute().parts)], "a video outside the folder")
        require(".." not in place, "a video's path climbs")
        require(bool(record.question.strip()), "an empty question")
        require(bool(record.ground_truth.strip()), "an empty truth")
        if record.is_numeric:
            require(0 < float(record.ground_truth) < math.inf, "a truth that is no positive number")
            require(record.options is None, "options of a numeric question")
        elif record.options is not None:
            require(len(record.options) >= 2, "a choice of fewer than two options")
            require(record.ground_truth in LETTERS[: len(record.options)], "a truth that is no option")
            require(all(option[3:].strip() for option in record.options), "an option without words")
        for mode in MODES:
            text = prompt_text(record, mode)
            text.encode()
            require(record.question in text, "a prompt without its question")
            require(all(option in text for option in record.options or ()), "a prompt without its options")
    leaking_rooms(found.records)
    stratified_subset(found, len(found.records))
    write_bytes(folder / "again" / "test.jsonl", records_text(found.records))
    again = read_dataset(folder / "again", "test", check_videos=False)
    require(again.records == found.records, "records that change when written and read")


# ------------------------------------------------------------------------------------------------------------ answers

_NUMBERS = (
    "4", "1.8", "23.5", "180", "1,000", "1e3", ".5", "5.", "-2", "½", "٣", "３", "two", "twenty-one", "0", "007",
    "1.8.2",
)  # fmt: skip
_WORDS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|teen|ty|hundred|thousand|half|quarter|no"
_UNITS = ("", " m", " cm", "m", " feet", " square meters", " m²", "%", " inches", " yards", "\\text{ cm}", "°")
_CHOICES = ("A", "B", "b", "(C)", "B.", "**B**", "'C'", "[A]", "B or C", "A and B", "Z", "option B", "tv", "a chair")
_FRAMES = (
    "{}", "The answer is {}.", "Answer: {}", "<answer>{}</answer>", "<think>it is 7 or A</think>{}", "{} as it is near",
    "I think {}", "**{}**", "\\boxed{{{}}}", "about {}", "It's {}!", "{}\n{}", "between {} and {}", "not {} but {}",
    "{}</s>", "A {} stands there",
    "```{}```", '{{"answer": "{}"}}', "{}<|im_end|>", "<answer>{}", "Final: {}\nConfidence: 90%",
)  # fmt: skip


def answers(given: Input) -> None:
    """What a model may say, read and scored by every rule and reward."""
    rng = given.rng
    said = rng.choice(_NUMBERS) + rng.choice(_UNITS) if rng.random() < 0.5 else rng.choice(_CHOICES)
    text = rng.choice(_FRAMES).replace("{}", said)
    if rng.random() < 0.4:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice((*ODD_TEXT, *_NUMBERS, *_UNITS, "\n" * 3)) + text[at:]
    if rng.random() < 0.1:
        text = mutated_bytes(rng, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    if rng.random() < 0.01:
        text *= 500
    for record in (*RECORDS, Record(**{**ROWS[1], "options": None, "ground_truth": "table"})):
        _check_answer(text, record)


def _check_answer(text: str, record: Record) -> None:
    read = parse_answer(text, record)
    what = f"{text[:300]!r} of {record.question_type} read as {read!r}"
    if isinstance(read, float):
        words = re.search(_WORDS, text, re.IGNORECASE)
        require(math.isfinite(read), f"a number that is not finite: {what}")
        require(bool(words) or any(one.isnumeric() for one in text), f"a number out of nothing: {what}")
    elif record.options is not None and read is not None:
        require(read in LETTERS[: len(record.options)], f"a letter that is no option: {what}")
        option = record.options[LETTERS.index(read)][3:]
        require(read in text.upper() or option.lower() in text.lower(), f"a letter out of nothing: {what}")
    for name, scorer in SCORERS.items():
        found = scorer.score(text, record)
        require(0 <= found.score <= 1, f"a score of {found.score} by {name}: {what}")
        require(found.parsed or found.score == 0, f"a score without an answer by {name}: {what}")
    official, tolerant = SCORERS["official"].score(text, record), SCORERS["tolerant"].score(text, record)
    alone = len(text.split()) == 1 and official.score > 0
    require(not alone or tolerant.score >= official.score, f"official reads it and tolerant does not: {what}")
    for name in registry.names("rewards"):
        reward = registry.create("rewards", name)
        for mode in MODES:
            value = reward.score(text, record, mode)
            require(value is None or math.isfinite(value), f"a reward of {value} by {name}: {what}")


def answer_files(given: Input) -> None:
    """A file of answers, ours or lmms-eval's, as ``harness score`` reads it."""
    rng, file = given.rng, given.folder / "answers.jsonl"
    lines: list[Any] = []
    theirs = rng.random() < 0.6
    for number, row in enumerate(ROWS):
        line: dict[str, Any] = {"id": row["id"], "answer": row["ground_truth"], "truncated": False}
        if theirs:
            line = {
                "doc_id": number,
                "target": row["ground_truth"],
                "filtered_resps": [row["ground_truth"]],
                "resps": [[row["ground_truth"]]],
                "input": f"These are frames of a video.\n{row['question']}",
                "doc_hash": "0" * 64,
                "vsibench_score": {**row, "prediction": row["ground_truth"]},
            }
        lines.append(mutated_document(rng, line) if rng.random() < 0.3 else line)
    data = encoded(rng, "".join(json_text(rng, line) + "\n" for line in lines))
    file.write_bytes(mutated_bytes(rng, data) if rng.random() < 0.2 else data)
    found = read_answers(file, RECORDS)
    for key, answer in found.items():
        key.encode(), answer.text.encode()
    rules = registry.create("benchmarks", "vsibench")
    for name, one in score_file(file, RECORDS, rules).items():
        require(0 <= one["overall"] <= 100, f"an overall score of {one['overall']} by {name}")
        require(all(0 <= value <= 100 for value in one["tasks"].values()), f"a task's score beyond 0 and 100 by {name}")
        json.dumps(one, allow_nan=False)


def general(given: Input) -> None:
    """The questions of the benchmark on own images."""
    rng, file = given.rng, given.folder / "questions.jsonl"
    (given.folder / "a.png").symlink_to(given.seeds / "red.png")
    lines: list[dict[str, Any]] = [
        {"id": 1, "image": "a.png", "question": "What animal is this?", "answer": ["cat", "kitten"]},
        {"id": 2, "image": "a.png", "question": "Which?", "options": ["red", "blue"], "answer": "A", "category": "c"},
        {"id": 3, "image": "a.png", "question": "How many?", "answer": 3},
    ]
    text = "".join(json_text(rng, mutated_document(rng, line) if rng.random() < 0.5 else line) + "\n" for line in lines)
    data = encoded(rng, text)
    file.write_bytes(mutated_bytes(rng, data) if rng.random() < 0.2 else data)
    benchmark = registry.create("benchmarks", "general", {"file": str(file)})
    questions = benchmark.questions()
    require(len(questions.digest) == 64 and len(questions.records) > 0, "no questions")
    for record in questions.records:
        require(questions.video_path(record).is_file(), "no image")
        require(bool(record.question.strip()) and bool(benchmark.words(record).strip()), "an empty question")
    scores = benchmark.question_scores(questions.records, {one.key: "A" for one in questions.records}, "match")
    figures = benchmark.figures([one.type for one in scores], [one.score for one in scores])
    require(0 <= figures.overall <= 100, "a score beyond 0 and 100")


# ----------------------------------------------------------------------------------------- archives and preparations

_MEMBERS = ("world/a.mp4", "world/b.mp4", "notes.txt")
_ODD_MEMBERS = (
    "../a.mp4", "/a.mp4", "..\\a.mp4", "C:\\a.mp4", "world/../../a.mp4", "deep/er/a.mp4", "a.mp4/", "world/A.MP4",
    "world/a.mp4\0.txt", "world/a.mp4 ", "./a.mp4", "world//a.mp4",
)  # fmt: skip


def archives(given: Input) -> None:
    """A zip archive; what is extracted is what was packed, and lies where it should."""
    rng, file = given.rng, given.folder / "world.zip"
    packed = _write_zip(given, file)
    targets = {name: given.folder / "out" / "world" / name for name in ("a.mp4", "b.mp4")}
    if rng.random() < 0.1:
        targets["a.mp4"].parent.mkdir(parents=True)
        targets["a.mp4"].write_bytes(b"half")
    found = list(extract_members(file, targets))
    for path in found:
        require(path in targets.values() and path.is_file() and not path.is_symlink(), f"{path} was not asked for")
        require(path.read_bytes() in packed, f"{path.name} is not what was packed")
    inside = [path for path in (given.folder / "out").rglob("*") if path.is_file()]
    require(set(inside) <= set(targets.values()), f"more was written than asked: {inside}")


def _write_zip(given: Input, file: Path) -> list[bytes]:
    """An archive with two wanted members, odd ones or damage; the contents of the members that may be extracted."""
    rng = given.rng
    contents = [rng.randbytes(rng.choice((0, 10, 5000))) for _ in _MEMBERS] + [b"half"]
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in zip(_MEMBERS, contents, strict=False):
            archive.writestr(name, content)
        if rng.random() < 0.5:
            member = zipfile.ZipInfo(rng.choice(_ODD_MEMBERS))
            member.external_attr = rng.choice((0, 0o120777 << 16, 0o060000 << 16, 0o010000 << 16, 0o040777 << 16))
            archive.writestr(member, rng.choice(contents))
        if rng.random() < 0.05:
            archive.writestr("bomb/b.mp4", bytes(2**26))
    if rng.random() < 0.7:
        file.write_bytes(mutated_bytes(rng, file.read_bytes()))
    return contents


def prepare(given: Input) -> None:
    """A downloaded copy of a data set, made ready for use."""
    rng, source = given.rng, given.folder / "download"
    source.mkdir()
    scene = given.seeds / "data" / "world" / "test_000000.mp4"
    out = given.folder / "out"
    if rng.random() < 0.4:
        told = [{"scene": "scene0000_00", "question": f"How many {n}?", "answer": n + 1} for n in range(3)]
        (source / "object_counting.json").write_bytes(encoded(rng, json_text(rng, mutated_document(rng, told))))
        scans = given.folder / "scans"
        scans.mkdir()
        (scans / "scene0000_00.mp4").write_bytes(scene.read_bytes())
        prepare_vsi_100k(source, out, scannet=scans, skip_bad=rng.random() < 0.5, workers=1)
        split = "train"
    else:
        rows = [row | {"scene_name": "test_000000"} for row in ROWS]
        rows = [mutated_document(rng, row) if rng.random() < 0.1 else row for row in rows]
        (source / "test.jsonl").write_bytes(encoded(rng, "".join(json_text(rng, row) + "\n" for row in rows)))
        with zipfile.ZipFile(source / "world.zip", "w") as archive:
            archive.write(scene, "world/test_000000.mp4")
        if rng.random() < 0.4:
            (source / "world.zip").write_bytes(mutated_bytes(rng, (source / "world.zip").read_bytes()))
        if rng.random() < 0.3:
            (source / "pruned_ids.txt").write_bytes(encoded(rng, rng.choice(("0\n1\n", "0\u20281", "99", "x", "0\n0"))))
        if rng.random() < 0.3:
            out.mkdir()
            known = {"name": "world/test_000000", "bytes": 1, "sha256": "0", "frames": 4, "height": 56, "width": 56}
            (out / ".harness-videos").write_bytes(encoded(rng, json_text(rng, mutated_document(rng, known)) + "\n"))
        prepare_vsibench(source, out, part=True, workers=1)
        split = "test"
    check_dataset(read_dataset(out, split), given.folder)
