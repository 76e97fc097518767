"""Damaged videos with --skip-bad: left out, counted, remembered; and without it refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_small_dataset
from PIL import Image
from study_kit import QUIET, small_study

from harness.data import broken
from harness.data.broken import without_broken_videos
from harness.data.reader import Dataset, read_dataset
from harness.data.video.decode import inspect_video
from harness.errors import UserError
from harness.study.planning import make_plan
from harness.study.setup import load_data


def cut(path: Path) -> bytes:
    content = path.read_bytes()
    path.write_bytes(content[:-300])
    return content


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return read_dataset(write_small_dataset(tmp_path / "data"))


def test_whole_videos_leave_the_data_as_it_is(data: Dataset, tmp_path: Path) -> None:
    assert without_broken_videos(data, 16, tmp_path / "videos.json") is data


def test_records_of_a_damaged_video_are_left_out_and_counted(data: Dataset, tmp_path: Path) -> None:
    cut(data.root / "world" / "test_000001.mp4")
    found = without_broken_videos(data, 4, tmp_path / "videos.json")
    assert [record.id for record in found.records] == [0, 1, 2, 6, 7, 8]
    assert found.digest != data.digest
    assert [line.split(":")[0] for line in found.skipped] == ["record 3", "record 4", "record 5"]
    assert all("test_000001.mp4" in line and "cannot be read completely" in line for line in found.skipped)


@pytest.mark.parametrize("change", ['"frames": 16|"frames": 2', '"problem": ""|"problem": "bad"', ": 16|: null", "{|["])
def test_verdicts_that_were_changed_are_made_again(data: Dataset, tmp_path: Path, change: str) -> None:
    verdicts = tmp_path / "videos.json"
    without_broken_videos(data, 16, verdicts)
    whole, (old, new) = verdicts.read_text(), change.split("|")
    verdicts.write_text(whole.replace(old, new, 1))
    assert verdicts.read_text() != whole
    assert without_broken_videos(data, 16, verdicts) is data and verdicts.read_text() == whole


def test_a_video_that_is_too_short_is_left_out_where_more_frames_are_asked_for(data: Dataset, tmp_path: Path) -> None:
    verdicts = tmp_path / "videos.json"
    with pytest.raises(UserError, match=r"no video can be used.*has 16 frames and 18 are needed"):
        without_broken_videos(data, 18, verdicts)
    assert without_broken_videos(data, 16, verdicts) is data


def test_a_verdict_is_remembered_until_the_file_changes(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts, looked = tmp_path / "cache" / "videos.json", []
    inspect = broken.inspect_video
    monkeypatch.setattr(broken, "inspect_video", lambda path, frames: looked.append(path.name) or inspect(path, frames))
    path = data.root / "world" / "test_000002.mp4"
    whole = cut(path)
    assert len(without_broken_videos(data, 4, verdicts).records) == 6 and len(looked) == 3
    assert len(without_broken_videos(data, 4, verdicts).records) == 6 and len(looked) == 3
    path.write_bytes(whole)
    assert without_broken_videos(data, 4, verdicts) is data
    assert looked[3:] == ["test_000002.mp4"]
    verdicts.write_text("torn")
    assert without_broken_videos(data, 4, verdicts) is data


def test_a_study_skips_them_only_when_asked(tmp_path: Path) -> None:
    strict = small_study(tmp_path)
    cut(tmp_path / "data" / "world" / "train_000000.mp4")
    cut(tmp_path / "data" / "world" / "test_000002.mp4")
    lenient = small_study(tmp_path, data={"skip_bad": True})
    train, benchmark = load_data(lenient)
    assert train is not None
    assert (
        (len(train.records), len(benchmark.records)) == (6, 6) == (9 - len(train.skipped), 9 - len(benchmark.skipped))
    )
    assert make_plan(lenient, QUIET).train.digest == train.digest != make_plan(strict, QUIET).train.digest


def test_every_still_that_a_study_takes_is_looked_at(tmp_path: Path) -> None:
    """The fourth of twelve is neither the first nor the middle nor the last."""
    for number in range(12):
        Image.new("RGB", (56, 56), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    assert inspect_video(tmp_path).frames == 12
    with pytest.raises(UserError, match=r"3\.png: the image cannot be read"):
        inspect_video(tmp_path, 4)
