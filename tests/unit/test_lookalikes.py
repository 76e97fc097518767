"""Copies of a benchmark's videos are found under other names, and other rooms are not taken for copies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from cli_kit import Cli
from PIL import Image

from harness.config.study import load_study
from harness.console import Console
from harness.data import lookalikes as hashing
from harness.data.lookalikes import ALIKE, frame_hash, lookalikes, video_hashes
from harness.data.reader import Dataset, read_dataset
from harness.data.video.glimpses import SECONDS, SHARES, glimpses
from harness.errors import UserError
from harness.study.lookalikes import note_lookalikes, noted_lookalikes

RATE = 10


def film(seed: int, frames: int = 60) -> np.ndarray:
    """A camera that turns over coarse shapes, (T, 72, 96, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 24, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((384, 96), Image.Resampling.BICUBIC))
    return np.stack([wide[at % 24 :][:72, 2 * at : 2 * at + 96] for at in range(frames)])


def write(path: Path, frames: np.ndarray, rate: int = RATE, size: tuple[int, int] = (96, 72), crf: int = 23) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(Image.fromarray(frame).resize(size))))
        container.mux(stream.encode())
    return path


def folder(root: Path, films: dict[str, np.ndarray], split: str) -> Dataset:
    fields = {"dataset": "mine", "question_type": "room_size_estimation", "question": "How large?"}
    lines = [{"id": key, "scene_name": room, "ground_truth": "9", **fields} for key, room in enumerate(films)]
    for room, frames in films.items():
        write(root / "mine" / f"{room}.mp4", frames)
    (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_dataset(root, split)


def test_every_kind_of_copy_is_found_and_no_other_video(tmp_path: Path) -> None:
    originals = [write(tmp_path / "D" / f"{seed}.mp4", film(seed)) for seed in range(5)]
    seen = film(3)
    stills = tmp_path / "T" / "stills"
    stills.mkdir(parents=True)
    for number, frame in enumerate(seen):
        Image.fromarray(frame).save(stills / f"{number}.jpg", quality=60)
    copies = [
        write(tmp_path / "T" / "reencoded.mp4", seen, crf=38),
        write(tmp_path / "T" / "resized.mp4", seen, size=(48, 64)),
        write(tmp_path / "T" / "every_second.mp4", seen[::2], rate=RATE // 2),
        write(tmp_path / "T" / "slowed.mp4", seen, rate=4),
        write(tmp_path / "T" / "without_start.mp4", seen[13:]),
        write(tmp_path / "T" / "without_end.mp4", seen[:-17]),
        stills,
    ]
    others = [write(tmp_path / "T" / f"other{seed}.mp4", film(seed)) for seed in range(5, 13)]
    hashes = video_hashes([*originals, *copies, *others], tmp_path / "hashes.json")
    found = lookalikes({path: hashes[path] for path in (*copies, *others)}, {path: hashes[path] for path in originals})
    assert [(one.video, one.like) for one in found] == [(copy, originals[3]) for copy in copies]
    assert all(0 <= one.differing <= ALIKE for one in found)


def test_a_hash_ignores_size_and_brightness_and_an_empty_frame_has_none() -> None:
    frame = film(1)[0]
    dimmed = (frame * 0.7 + 20).astype(np.uint8)
    small = np.asarray(Image.fromarray(frame).resize((48, 36)))
    values = [frame_hash(one) for one in (frame, dimmed, small, film(2)[0])]
    assert all(value is not None and 0 <= value < 2**63 for value in values)
    apart = [(values[0] ^ value).bit_count() for value in values[1:] if values[0] is not None and value is not None]
    assert max(apart[:2]) <= 3 and apart[2] > 15
    assert frame_hash(np.full((72, 96, 3), 90, np.uint8)) is None


def test_empty_videos_are_not_alike(tmp_path: Path) -> None:
    dark = [write(tmp_path / f"{grey}.mp4", np.full((40, 72, 96, 3), grey, np.uint8)) for grey in (0, 200)]
    hashes = video_hashes(dark, tmp_path / "hashes.json")
    assert lookalikes({dark[0]: hashes[dark[0]]}, {dark[1]: hashes[dark[1]]}) == []


def test_glimpses_are_the_frames_shown_at_these_times(tmp_path: Path) -> None:
    """Grey levels tell the frames apart: frame n of a 10 s film at 10 a second has the level 2 n."""
    frames = np.arange(0, 200, 2, dtype=np.uint8)[:, None, None, None].repeat(72, 1).repeat(96, 2).repeat(3, 3)
    expected = [*(share * 10 for share in SHARES), *SECONDS, *(10 - back for back in SECONDS)]
    for rate, scale in ((10, 1.0), (5, 1.0), (20, 1.0)):
        path = write(
            tmp_path / f"{rate}.mp4", frames[:: 10 // rate] if rate < 10 else frames.repeat(rate // 10, 0), rate
        )
        levels = [float(one.mean()) for one in glimpses(path, np.copy) if one is not None]
        assert levels == pytest.approx([20 * at * scale for at in expected], abs=4)


def test_a_short_video_has_no_frames_at_seconds_it_lacks(tmp_path: Path) -> None:
    shown = glimpses(write(tmp_path / "short.mp4", film(1, frames=10)), np.copy)  # one second
    assert [one is not None for one in shown] == [True] * 5 + [True, False, False] * 2


def test_hashes_are_kept_until_a_video_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video, broken = write(tmp_path / "a.mp4", film(1)), tmp_path / "b.mp4"
    broken.write_bytes(b"no video")
    looked: list[Path] = []
    done: list[tuple[int, int]] = []

    def counted(path: Path, keep: Callable[[np.ndarray], int | None]) -> Sequence[int | None]:
        looked.append(path)
        return glimpses(path, keep)

    monkeypatch.setattr(hashing, "glimpses", counted)
    cache = tmp_path / "hashes.json"
    first = video_hashes([video, broken, video, tmp_path / "none.mp4"], cache, progress=lambda *at: done.append(at))
    assert looked == [video, broken, tmp_path / "none.mp4"] and done == [(1, 3), (2, 3), (3, 3)]
    assert set(first[broken]) == set(first[tmp_path / "none.mp4"]) == {None} and None not in first[video]
    assert video_hashes([video, broken], cache) == {video: first[video], broken: first[broken]} and len(looked) == 3
    write(video, film(2))
    assert video_hashes([video], cache)[video] != first[video] and looked[3:] == [video]
    for damaged in ("{", '{"rules": 1, "videos": []}', cache.read_text().replace('"hashes"', '"ashes"')):
        looked.clear()
        cache.write_text(damaged)
        assert None not in video_hashes([video], cache)[video] and looked == [video]


def test_a_study_warns_of_copies_at_its_start_and_notes_them(tmp_path: Path) -> None:
    test = folder(tmp_path / "D", {"hall": film(1), "attic": film(2)}, "test")
    train = folder(tmp_path / "T", {"kitchen": film(3), "den": film(2)[5:]}, "train")
    study = load_study("tiny", changes={"data.train": str(train.root), "runtime.cache": str(tmp_path / "cache")})
    console = Console(record=True, width=200)
    note_lookalikes(study, tmp_path, train, test, console)
    text = console.export_text()
    assert "Warning: 1 videos" in text and "den.mp4 looks like" in text and "attic.mp4" in text
    assert len(noted_lookalikes(tmp_path)) == 1 and "T/mine/den.mp4" in noted_lookalikes(tmp_path)[0]
    good = train.without({"1": "a copy"})
    note_lookalikes(study, tmp_path, good, test, console)
    assert noted_lookalikes(tmp_path) == [] and "Warning" not in console.export_text()
    world = load_study("tiny", changes={"runtime.cache": str(tmp_path / "cache")})
    note_lookalikes(world, tmp_path, train, test, console)  # made, not copied
    assert noted_lookalikes(tmp_path) == []


def test_diagnose_tells_what_a_data_set_holds_and_shares(tmp_path: Path, harness: Cli) -> None:
    folder(tmp_path / "D", {"hall": film(1), "attic": film(2)}, "test")
    train = folder(tmp_path / "T", {"kitchen": film(3), "den": film(2)[5:], "hall": film(4)}, "train")
    with (train.root / "train.jsonl").open("a") as file:
        file.write('{"id": 9}\n')
    ended = harness("data", "diagnose", "--data", "T", "--benchmark-data", "D", "--cache", "cache")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert ended.code == 1 and "3 records on 3 videos of 3 rooms" in lines[0]
    assert "room_size_estimation 3 0 3" in lines and "1 records cannot be used:" in lines
    assert "mine/hall (1)" in lines
    assert [line.split()[0][-8:] for line in lines if " looks like " in line] == ["/den.mp4"]
    alone = harness("data", "diagnose", "--data", "T")
    assert alone.code == 0 and "No room of VSI-Bench" in alone.out and "--benchmark-data" in alone.out
    (train.root / "mine/kitchen.mp4").rename(train.root / "mine/scene0025_01.mp4")
    (train.root / "train.jsonl").write_text((train.root / "train.jsonl").read_text().replace("kitchen", "scene0025_01"))
    leaking = harness("data", "diagnose", "--data", "T")
    assert leaking.code == 1 and "scannet/scene0025 (1)" in leaking.out
    assert harness("data", "diagnose").code == 2


def test_a_folder_without_frames_cannot_be_glimpsed(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    assert glimpses(tmp_path / "scene", np.copy) == [None] * (len(SHARES) + 2 * len(SECONDS))
    with pytest.raises(UserError, match=r"none\.mp4"):
        glimpses(tmp_path / "none.mp4", np.copy)
