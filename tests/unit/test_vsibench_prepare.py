"""A copy of VSI-Bench is verified, unpacked once, decoded, and read in its three splits; bad copies are named."""

from __future__ import annotations

import json
import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets_kit import PRUNED_EVERY, write_vsi_bench, write_whole_vsi_bench

import harness.data.archives as archives
import harness.data.prepare as prepare_module
from harness.data.prepare_vsibench import prepare_vsibench
from harness.data.reader import read_dataset
from harness.data.sources import resolve_source
from harness.errors import UserError
from harness.io import atomic_file, read_json, sha256_file
from harness.locks import LOCK_FILE, hold
from harness.outputs import LISTED
from harness.vsibench.published import published_counts, published_scenes


@pytest.fixture
def copy(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vsi_bench(tmp_path / "hub", tmp_path_factory.getbasetemp() / "world-cache")


def prepare(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    return prepare_vsibench(source, out, part=True, workers=1, **options)


def test_a_copy_becomes_a_folder_with_three_splits(copy: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    manifest = prepare(copy, tmp_path / "out", progress=lambda *step: told.append(step))
    out, total = tmp_path / "out", sum(1 for _ in (copy / "test.jsonl").open())
    pruned = -(-total // PRUNED_EVERY)
    assert manifest["splits"] == {"full": total, "debiased": total - pruned, "pruned": pruned}
    assert manifest["total"] == {"questions": total, "scenes": 6, "videos": 6}
    assert ("extracting scannet.zip", 2, 2) in told and told[-1] == ("checking videos", 6, 6)
    for split, count in {**manifest["splits"], "test": total}.items():
        root, found = resolve_source(f"{out}#{split}", tmp_path)
        assert len(read_dataset(root, found).records) == count
    film = manifest["videos"]["scannet/scene0025_01"]
    assert film["sha256"] == sha256_file(out / "scannet" / "scene0025_01.mp4")
    assert (film["frames"], film["height"]) == (manifest["shortest_video"], 84)
    assert read_json(out / "manifest.json") == manifest
    debiased = read_dataset(copy, "debiased", check_videos=False)
    assert debiased.records == read_dataset(out, "debiased").records, "the parquet file and the list of ids agree"
    assert read_dataset(out, "full").digest == read_dataset(out, "test").digest


@pytest.mark.parametrize("old", [False, True])
def test_folders_are_linked_and_the_first_publication_has_one_split(tmp_path: Path, old: bool) -> None:
    copy = write_vsi_bench(tmp_path / "hub", tmp_path / "cache", zipped=False, old=old)
    manifest = prepare(copy, tmp_path / "out")
    assert (tmp_path / "out" / "scannetpp" / "09c1414f1b.mp4").is_symlink()
    assert ("debiased" in manifest["splits"]) is not old
    in_place = prepare(copy, copy)
    assert in_place["videos"] == manifest["videos"]
    assert len(read_dataset(tmp_path / "out").records) == len(read_dataset(copy).records)
    if old:
        with pytest.raises(UserError, match="no debiased"):
            read_dataset(tmp_path / "out", "debiased")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_damage_of_an_archive_is_a_traceback_or_a_wrong_file(tmp_path: Path, method: int) -> None:
    """Every byte of a small archive, one after another, is inverted."""
    archive, content = tmp_path / "world.zip", bytes(range(64)) * 4
    with zipfile.ZipFile(archive, "w", method) as packing:
        packing.writestr("world/a.mp4", content)
    whole = archive.read_bytes()
    refused = 0
    for place in range(len(whole)):
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        target = tmp_path / str(place) / "a.mp4"
        try:
            found = list(archives.extract_members(archive, {"a.mp4": target}))
        except UserError as error:
            assert "world.zip" in str(error)
            assert not target.exists()
            refused += 1
        else:
            assert [path.read_bytes() for path in found] in ([], [content])
    assert refused > len(whole) / 3


def test_an_empty_member_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "world.zip"
    with zipfile.ZipFile(archive, "w") as packing:
        packing.writestr("world/a.mp4", b"")
        packing.writestr("world/notes.txt", b"")  # not wanted
    with pytest.raises(UserError, match=r"world\.zip: its member 'world/a\.mp4' is empty"):
        list(archives.extract_members(archive, {"a.mp4": tmp_path / "a.mp4"}))
    assert list(archives.extract_members(archive, {"b.mp4": tmp_path / "b.mp4"})) == []
    assert not list(tmp_path.glob("*.mp4"))


def test_a_member_without_a_name_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "world.zip"
    with zipfile.ZipFile(archive, "w") as packing:
        packing.writestr("_world/a.mp4", b"x")
    archive.write_bytes(archive.read_bytes().replace(b"_world", b"\0world"))
    with pytest.raises(UserError, match=r"world\.zip: its member .* has no name"):
        list(archives.extract_members(archive, {"a.mp4": tmp_path / "a.mp4"}))


def test_an_interrupted_preparation_goes_on(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, decoded = tmp_path / "out", []

    class KilledError(Exception):
        pass

    def until(count: int) -> Any:
        def inspect(path: Path) -> Any:
            if len(decoded) == count:
                raise KilledError
            decoded.append(path.name)
            return real(path)

        return inspect

    real = prepare_module.inspect_video
    extracted: list[str] = []
    monkeypatch.setattr(archives, "atomic_file", lambda path: extracted.append(path.name) or atomic_file(path))
    monkeypatch.setattr(prepare_module, "inspect_video", until(3))
    with pytest.raises(KilledError):
        prepare(copy, out)
    assert (len(extracted), len(decoded)) == (6, 3)
    changed = out / "arkitscenes" / "41069025.mp4"
    changed.write_bytes((out / "scannet" / "scene0025_01.mp4").read_bytes())
    monkeypatch.setattr(prepare_module, "inspect_video", until(99))
    with pytest.raises(UserError, match=r"41069025\.mp4`: not the video of .*arkitscenes\.zip, so it is left alone"):
        prepare(copy, out)
    changed.unlink()
    assert prepare(copy, out)["total"]["videos"] == 6
    assert extracted[6:] == ["41069025.mp4"], "only what is not there"
    assert len(decoded) == 6 and len(set(decoded)) == 6, "no whole video is decoded twice"
    assert {path.name for path in out.glob(".*")} == {LISTED, LOCK_FILE}


@pytest.mark.parametrize("name", ["test.jsonl", "manifest.json", "pruned_ids.txt"])
def test_a_file_of_the_users_is_refused_before_any_work(copy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}`: not as the harness wrote it"):
        prepare(copy, tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "mine" and not (tmp_path / "out" / "scannet").exists()


def test_nothing_is_extracted_through_a_link(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scannet").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="out/scannet`: there is a symbolic link, which is not followed"):
        prepare(copy, tmp_path / "out")
    assert not list((tmp_path / "mine").iterdir())


def test_two_preparations_do_not_share_a_folder(copy: Path, tmp_path: Path) -> None:
    with hold(tmp_path / "out", "folder"), pytest.raises(UserError, match=r"out`: this data set's folder is in use"):
        prepare(copy, tmp_path / "out")


def test_the_whole_benchmark_passes_and_its_counts_are_required(tmp_path: Path) -> None:
    copy = write_whole_vsi_bench(tmp_path / "hub")
    manifest = prepare_vsibench(copy, tmp_path / "out", workers=2)
    assert manifest["total"] == {"questions": 5130, "scenes": 288, "videos": 288}
    assert manifest["questions"] == dict(sorted(published_counts().items()))
    assert manifest["notes"] == ["5,130 of its 5,130 questions differ from VSI-Bench's"], "the right counts only"
    assert sum(published_counts().values()) == 5130
    assert Counter(dataset for dataset, _ in published_scenes()) == {"arkitscenes": 150, "scannet": 88, "scannetpp": 50}
    lines = (copy / "test.jsonl").read_text().splitlines()
    (copy / "test.jsonl").write_text("\n".join(lines[3:]) + "\n")
    with pytest.raises(UserError, match=r"object_counting 562 instead of 565.*hf download .*or use --part"):
        prepare_vsibench(copy, tmp_path / "again", workers=1)
    moved = json.loads(lines[0]) | {"scene_name": "scene9999_00", "dataset": "scannet"}
    (copy / "test.jsonl").write_text("\n".join([json.dumps(moved), *lines[1:]]) + "\n")
    with pytest.raises(UserError, match=r"1 scenes are unknown \(scannet/scene9999_00\)"):
        prepare_vsibench(copy, tmp_path / "again", workers=1)
    assert not (tmp_path / "again").exists()


def _add(archive: Path, name: str, mode: int = 0) -> None:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(member, b"x")


@pytest.mark.parametrize(
    ("name", "mode", "words"),
    [
        ("../../evil.mp4", 0, "would be written outside"),
        ("/tmp/evil.mp4", 0, "would be written outside"),
        ("scannet\\..\\evil.mp4", 0, "would be written outside"),
        ("C:evil.mp4", 0, "would be written outside"),
        ("scannet/scene0030_01.mp4", stat.S_IFLNK | 0o777, "is a link"),
        ("other/scene0025_01.mp4", 0, "holds scene0025_01.mp4 twice"),
    ],
)
def test_a_hostile_archive_writes_nothing(copy: Path, tmp_path: Path, name: str, mode: int, words: str) -> None:
    _add(copy / "scannet.zip", name, mode)
    with pytest.raises(UserError, match=rf"scannet\.zip.*{words}"):
        prepare(copy, tmp_path / "out")
    assert not list(tmp_path.rglob("*evil*")) and not list((tmp_path / "out").glob("scannet/*"))


def test_other_members_are_left_alone(copy: Path, tmp_path: Path) -> None:
    for name in ("__MACOSX/scannet/scene0025_01.mp4", "scannet/readme.txt", "scannet/scene0099_00.mp4"):
        _add(copy / "scannet.zip", name)
    prepare(copy, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "scannet").iterdir()) == [
        "scene0025_01.mp4",
        "scene0030_02.mp4",
    ]


def test_a_truncated_archive_is_named_and_what_was_extracted_is_kept(copy: Path, tmp_path: Path) -> None:
    whole = (copy / "scannet.zip").read_bytes()
    (copy / "scannet.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"scannet\.zip: not a complete zip archive \([\d,]+ bytes.*Download it again"):
        prepare(copy, tmp_path / "out")
    assert len(list((tmp_path / "out" / "arkitscenes").glob("*.mp4"))) == 2
    damaged = bytearray(whole)
    damaged[5000:5100] = bytes(100)
    (copy / "scannet.zip").write_bytes(damaged)
    with pytest.raises(UserError, match=r"scannet\.zip: not a complete zip archive .*Bad CRC-32"):
        prepare(copy, tmp_path / "out")
    (copy / "scannet.zip").write_bytes(whole)
    assert prepare(copy, tmp_path / "out")["total"]["videos"] == 6
    assert not list((tmp_path / "out").rglob(".*.tmp"))


def test_a_full_disk_is_told_before_anything_is_extracted(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"0\.0 GiB are free; free some space or choose another folder with --out"):
        prepare(copy, tmp_path / "out")


def test_a_scene_without_a_video_and_a_damaged_one_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / "scannetpp.zip").unlink()
    with pytest.raises(UserError, match=r"no video of 2 of 6 scenes: scannetpp/09c1414f1b, .*in scannetpp\.zip"):
        prepare(copy, tmp_path / "out")
    film = tmp_path / "out" / "scannet" / "scene0030_02.mp4"
    (copy / "scannetpp").mkdir()
    for name in ("09c1414f1b", "0d2ee665be"):
        (copy / "scannetpp" / f"{name}.mp4").write_bytes(film.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"2 of 6 videos cannot be used:\n.*09c1414f1b\.mp4: .*cannot be read"):
        prepare(copy, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_files_that_disagree_on_pruning_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "pruned_ids.txt").write_text("0\n1\n")
    with pytest.raises(UserError, match=r"disagree on the pruned questions \(pruned_ids\.txt 2, test_debiased"):
        prepare(copy, tmp_path / "out")
    (copy / "pruned_ids.txt").write_text("0\n99999\n")
    with pytest.raises(UserError, match="1 ids belong to no question: 99999"):
        prepare(copy, tmp_path / "out")


def test_an_unprepared_copy_says_how_to_prepare_it(copy: Path) -> None:
    with pytest.raises(UserError, match=r"is missing; extract it from .*arkitscenes\.zip with `harness data prepare"):
        read_dataset(copy)


def test_a_question_without_a_needed_field_shows_the_keys_and_the_mapping(copy: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (copy / "test.jsonl").read_text().splitlines()]
    for row in rows:
        row["answer"] = row.pop("ground_truth")
    (copy / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"field `ground_truth` is missing among .*'answer'; rename `answer`"):
        prepare(copy, tmp_path / "out")
    with pytest.raises(UserError, match="missing among no fields at all"):
        (tmp_path / "empty.jsonl").write_text("{}\n")
        read_dataset(tmp_path / "empty.jsonl")
    data = read_dataset(copy, check_videos=False, fields={"ground_truth": "answer"})
    assert data.records[0].ground_truth == rows[0]["answer"]
    with pytest.raises(UserError, match="did you mean ground_truth"):
        read_dataset(copy, check_videos=False, fields={"groundtruth": "answer"})
