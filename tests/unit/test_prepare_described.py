"""Published benchmarks become folders that are ready for use, or are refused with the file, the line and the fix."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from published_kit import WRITERS, write_mmsi_video, write_osi, write_revsi, write_sti

from harness.cli import app as cli
from harness.data.prepare_described import prepare_described
from harness.data.reader import Dataset, read_dataset
from harness.errors import UserError
from harness.plugins import registry
from reports.benchmarks.published import MMSIVideoBench, OSIBench, ReVSI, STIBench


def prepared(name: str, root: Path, **options: Any) -> dict[str, Any]:
    told = registry.load("benchmarks", name).description
    return prepare_described(told, root / "copy", root / "out", **{"part": True, "workers": 1, **options})


def read(name: str, root: Path, split: str = "test") -> Dataset:
    return read_dataset(root / "out", split, types=registry.load("benchmarks", name).types)


def test_revsi_has_a_split_for_each_number_of_frames(tmp_path: Path) -> None:
    write_revsi(tmp_path / "copy")
    manifest = prepared("revsi", tmp_path)
    assert manifest["splits"] == {"16_frame": 18, "32_frame": 18, "64_frame": 18, "all_frame": 18}
    sixteen, every = (read("revsi", tmp_path, split) for split in ("16_frame", "all_frame"))
    assert (sixteen.records[0].ground_truth, every.records[0].ground_truth) == ("3", "4")
    rooms = {"scannet/scene0084", "scannetpp/0cac75b1d6", "arkitscenes/41069025"}
    assert {record.room for record in sixteen.records} == rooms
    assert all(sixteen.video_path(record).is_file() for record in sixteen.records)
    ReVSI().check_budget(sixteen.records, 16)
    ReVSI().check_budget(every.records, 12)
    with pytest.raises(UserError, match="its truths hold for 16 frames, and 12 are shown"):
        ReVSI().check_budget(sixteen.records, 12)


def test_questions_that_show_more_than_one_video_are_left_out_and_counted(tmp_path: Path) -> None:
    write_mmsi_video(tmp_path / "copy")
    manifest = prepared("mmsi-video-bench", tmp_path)
    assert manifest["notes"] == [
        "1 questions were left out: they show several videos (`video_list`)",
        "1 questions were left out: they show further images (`ref_images`)",
    ]
    data = read("mmsi-video-bench", tmp_path)
    assert [record.question_type for record in data.records[:2]] == ["camera_motion", "memory_update"]
    assert MMSIVideoBench().title(data.records) == "MMSI-Video-Bench (6 of its 1,106 questions)"
    with pytest.raises(UserError, match="8 questions instead of 1,106"):
        prepared("mmsi-video-bench", tmp_path, part=False)


def test_osi_bench_keeps_truths_of_zero(tmp_path: Path) -> None:
    write_osi(tmp_path / "copy")
    assert prepared("osi-bench", tmp_path)["total"] == {"questions": 10, "scenes": 2, "videos": 2}
    data = read("osi-bench", tmp_path)
    assert [record.ground_truth for record in data.records[:4]] == ["0.0", "12.5", "0", "B"]
    scored = OSIBench().question_scores(data.records, {"0": "0.2", "1": "12.5", "2": "0", "3": "B"}, "official")
    assert [one.score for one in scored[:4]] == [1, 1, 1, 1]


def test_sti_bench_asks_about_the_seconds(tmp_path: Path) -> None:
    write_sti(tmp_path / "copy")
    prepared("sti-bench", tmp_path)
    first = read("sti-bench", tmp_path).records[0]
    assert first.question == "From 0.0 seconds to 1.5 seconds. How far is it?"
    assert first.options == ("A. 1 m", "B. 2 m", "C. 3 m", "D. 4 m", "E. 5 m")
    assert STIBench().score("(E)", first, "official").score == 1


def edit(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    rows = pd.read_parquet(path).to_dict("records")
    change(rows)
    pd.DataFrame(rows).to_parquet(path, index=False)


def _type(rows: list[dict[str, Any]]) -> None:
    rows[1]["category"] = "absolute_sped"


def _options(rows: list[dict[str, Any]]) -> None:
    rows[3]["options"] = None


def _truth(rows: list[dict[str, Any]]) -> None:
    rows[0]["answer"] = "fast"


def _twice(rows: list[dict[str, Any]]) -> None:
    rows[1]["index"] = 0


def _outside(rows: list[dict[str, Any]]) -> None:
    rows[0]["video"] = "../../secret"


def _no_question(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["query"] = row.pop("question")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_type, r"data.parquet, row 2: `question_type: absolute_sped`: no such name; did you mean absolute_speed?"),
        (
            _options,
            r"row 4: relative_distance is answered by an option's letter, but the record has no options; add them",
        ),
        (_truth, r"row 1: ground_truth 'fast' of absolute_speed is not a number in plain digits"),
        (_twice, r"row 2: id 0 was used before, at .*row 1; make ids unique"),
        (_outside, r"row 1: video '\.\./\.\./secret.mp4' leads out of the folder of videos|leads out of the data set"),
        (_no_question, r"row 1: field `question` is missing"),
    ],
)
def test_bad_records_are_named_with_file_line_and_fix(
    change: Callable[[list[dict[str, Any]]], None], told: str, tmp_path: Path
) -> None:
    edit(write_osi(tmp_path / "copy") / "data.parquet", change)
    with pytest.raises(UserError, match=told):
        prepared("osi-bench", tmp_path)
    assert not (tmp_path / "out").exists()


def test_bad_records_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    edit(write_osi(tmp_path / "copy") / "data.parquet", _type)
    manifest = prepared("osi-bench", tmp_path, skip_bad=True)
    assert manifest["total"]["questions"] == 9 and "1 entries were left out" in manifest["notes"][0]


def test_a_frame_budget_without_truth_is_named(tmp_path: Path) -> None:
    def without(rows: list[dict[str, Any]]) -> None:
        rows[0]["ground_truth"] = None

    edit(next((write_revsi(tmp_path / "copy") / "16_frame").glob("*.parquet")), without)
    with pytest.raises(UserError, match="row 1: it has no truth for 16 frames, so it cannot be asked with so many"):
        prepared("revsi", tmp_path)


def test_missing_files_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(UserError, match=r"no questions of STI-Bench .qa.parquet.*hf download MINT-SJTU/STI-Bench"):
        prepared("sti-bench", tmp_path)
    write_sti(tmp_path / "copy")
    (tmp_path / "copy" / "video" / "camera_1.mp4").unlink()
    with pytest.raises(UserError, match=r"no video of 1 of 2 scenes: camera_1.mp4. They are looked for in video/"):
        prepared("sti-bench", tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_the_command_prepares_it_and_a_second_time_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    WRITERS[name](tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["harness", "data", "prepare", name, "--from", "copy", "--part"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        assert "videos decoded" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "data" / name / "manifest.json").read_text())
    assert manifest["name"] == registry.load("benchmarks", name).description.publication.hub
