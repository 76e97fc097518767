"""Splits on disk: complete, reproducible, resumable, safe against a second process and against bad input."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.data.video.decode import decode_frames, inspect_video
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.outputs import LISTED, write_listed
from harness.vsibench.records import Record
from harness.vsibench.types import QUESTION_TYPES
from harness.world import build
from harness.world.build import SPLITS, build_split
from harness.world.camera import FRAMES, SAMPLED
from harness.world.renderer import render_scene
from harness.world.sheet import contact_sheet
from harness.world.video import write_video, yuv420

SCENES = 5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_split("dev", tmp_path_factory.mktemp("world"), SCENES, workers=1)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != LISTED)
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.stat().st_size}


def building(root: Path, scenes: int, workers: int) -> list[str]:
    """The command of another process that builds the dev split."""
    script = (
        "from pathlib import Path; from harness.world.build import build_split;"
        f"build_split('dev', Path({str(root)!r}), {scenes}, workers={workers})"
    )
    return [sys.executable, "-c", script]


def test_layout_and_records(built: Path) -> None:
    expected = {"dev.jsonl", "dev_free.jsonl", "dev.manifest.json"}
    assert set(contents(built)) == expected | {f"world/dev_{i:06d}.mp4" for i in range(SCENES)}
    lettered, free = (
        [Record(**json.loads(line)) for line in (built / name).read_text().splitlines()]
        for name in ("dev.jsonl", "dev_free.jsonl")
    )
    assert {record.room for record in lettered} == {f"world/dev_{i:06d}" for i in range(SCENES)}
    assert any(record.options for record in lettered) and not any(record.options for record in free)
    assert [record.answer_words for record in lettered] == [record.ground_truth for record in free]
    assert len({record.key for record in lettered + free}) == 2 * len(lettered)
    manifest = json.loads((built / "dev.manifest.json").read_text())
    assert manifest["questions"] == len(lettered) and manifest["scenes"] == SCENES
    for index, seed in enumerate(manifest["seeds"]):
        assert seed in SPLITS["dev"].candidates(index)


def test_videos_show_the_whole_walk(built: Path) -> None:
    for index in range(2):
        path = built / f"world/dev_{index:06d}.mp4"
        frames, scene = decode_frames(path, FRAMES), SPLITS["dev"].scene(index)
        assert frames.shape == (FRAMES, 84, 84, 3)
        assert np.abs(frames.astype(int) - render_scene(scene, 84, tuple(range(FRAMES)))[0]).mean() < 4
        sampled = decode_frames(path, 16)
        assert np.array_equal(sampled, frames[list(SAMPLED)])
        assert np.abs(sampled.astype(int) - render_scene(scene)[0]).mean((1, 2, 3)).max() < 5


def test_encoding_is_reproducible_in_another_process(built: Path, tmp_path: Path) -> None:
    frames = render_scene(SPLITS["dev"].scene(0), 84, tuple(range(FRAMES)))[0]
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames)
    script = (
        "import sys; from pathlib import Path; from harness.world.build import SPLITS;"
        "from harness.world.renderer import render_scene; from harness.world.video import write_video;"
        f"write_video(Path(sys.argv[1]), render_scene(SPLITS['dev'].scene(0), 84, tuple(range({FRAMES})))[0])"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "c.mp4")], check=True)
    decoded = [decode_frames(tmp_path / name, FRAMES) for name in ("a.mp4", "b.mp4", "c.mp4")]
    decoded.append(decode_frames(built / "world/dev_000000.mp4", FRAMES))
    assert all(np.array_equal(decoded[0], other) for other in decoded[1:])


def test_yuv_conversion_of_known_colours() -> None:
    """Reference values of ITU-R BT.601 in limited range for the primaries."""
    expected = {(255, 0, 0): (81, 90, 240), (0, 255, 0): (145, 54, 34), (0, 0, 255): (41, 240, 110)}
    expected |= {(255, 255, 255): (235, 128, 128), (0, 0, 0): (16, 128, 128)}
    for colour, (y, u, v) in expected.items():
        planes = yuv420(np.full((1, 8, 8, 3), colour, np.uint8))[0]
        assert (set(planes[:8].flat), set(planes[8:10].flat), set(planes[10:].flat)) == ({y}, {u}, {v})


def test_second_build_does_nothing(built: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in built.rglob("*.*4")}
    calls: list[tuple[int, int]] = []
    build_split("dev", built, SCENES, workers=1, progress=lambda *at: calls.append(at))
    assert calls == [] and stamps == {path: path.stat().st_mtime_ns for path in built.rglob("*.*4")}


def test_two_workers_write_what_one_writes(built: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    build_split("dev", tmp_path, 9, workers=2, progress=lambda *at: calls.append(at))
    assert calls == [(i, 9) for i in range(1, 10)]
    for index in range(SCENES):
        name = f"world/dev_{index:06d}.mp4"
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()
    lines = (built / "dev.jsonl").read_text().splitlines()
    assert (tmp_path / "dev.jsonl").read_text().splitlines()[: len(lines)] == lines


def test_resumes_after_losses(built: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built, root)
    manifest = read_json(root / "dev.manifest.json")  # killed before it was whole
    write_json(root / "dev.manifest.json", {key: manifest[key] for key in ("world_version", "size")})
    (root / "dev_free.jsonl").unlink()
    (root / "world/dev_000001.mp4").unlink()
    (root / f"world/.dev_000003.mp4.{uuid.uuid4().hex}.tmp").write_bytes(b"half a video")
    kept = (root / "world/dev_000000.mp4").stat().st_mtime_ns
    build_split("dev", root, SCENES, workers=1)
    assert contents(root) == contents(built)
    assert (root / "world/dev_000000.mp4").stat().st_mtime_ns == kept


@pytest.mark.parametrize("name", ["dev.jsonl", "world/dev_000004.mp4"])
def test_a_missing_file_is_made_again_and_an_altered_one_is_left(built: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built, root)
    (root / name).write_bytes(b"altered")
    with pytest.raises(UserError, match=rf"{name}`: not as the harness wrote it"):
        build_split("dev", root, SCENES, workers=1)
    assert contents(root) == contents(built) | {name: b"altered"}
    (root / name).unlink()
    build_split("dev", root, SCENES, workers=1)
    assert contents(root) == contents(built)


def test_the_users_files_are_left_and_links_are_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "world" / "dev_notes.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    build_split("dev", tmp_path / "mine", 1, workers=1)
    assert mine.read_bytes() == b"mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "world").symlink_to(mine.parent)
    with pytest.raises(UserError, match="other/world`: there is a symbolic link"):
        build_split("dev", tmp_path / "other", 2, workers=1)
    (tmp_path / "third" / "world").mkdir(parents=True)
    (tmp_path / "third" / "world" / "dev_000001.mp4").write_bytes(mine.with_name("dev_000000.mp4").read_bytes())
    with pytest.raises(UserError, match=r"dev_000001\.mp4`: not as the harness wrote it"):
        build_split("dev", tmp_path / "third", 2, workers=1)
    assert not (tmp_path / "third" / "dev.jsonl").exists()


def test_killed_build_goes_on(built: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(building(tmp_path, 400, workers=2))
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("world/*.mp4"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2 and not psutil.wait_procs(workers, timeout=20)[1]  # none is left behind
    whole = list(tmp_path.glob("world/*.mp4"))
    assert len(whole) >= 3 and set(read_json(tmp_path / "dev.manifest.json")) == {"world_version", "size"}
    assert all(inspect_video(path).frames == FRAMES for path in whole)
    build_split("dev", tmp_path, SCENES, workers=1)
    made, expected = contents(tmp_path), contents(built)
    assert {name: made[name] for name in expected} == expected


def test_two_processes_share_one_folder(built: Path, tmp_path: Path) -> None:
    processes = [subprocess.Popen(building(tmp_path, SCENES, workers=1)) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert contents(tmp_path) == contents(built)


def test_another_version_is_replaced_with_a_warning(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(built, root)
    write_listed(root, "world/dev_000099.mp4", b"of the old version")
    (root / "world/dev_mine.mp4").write_bytes(b"the user's own")
    before = (root / "world/dev_000000.mp4").stat().st_mtime_ns
    monkeypatch.setattr(build, "WORLD_VERSION", "next")
    with pytest.warns(UserWarning, match=r"split dev was made with .*'next'.*making it again"):
        build_split("dev", root, SCENES, workers=1)
    assert (root / "world/dev_000000.mp4").stat().st_mtime_ns > before
    assert not (root / "world/dev_000099.mp4").exists() and (root / "world/dev_mine.mp4").exists()
    assert json.loads((root / "dev.manifest.json").read_text())["world_version"] == "next"


def test_larger_frames(tmp_path: Path) -> None:
    build_split("dev", tmp_path, 1, workers=1, size=112)
    assert decode_frames(tmp_path / "world/dev_000000.mp4", FRAMES).shape == (FRAMES, 112, 112, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tset", 1), r"no such name; did you mean test\?"),
        (("dev", 0), r"`scenes = 0`: split dev can have 1 to 100,000 scenes"),
        (("test", 10**7), r"`scenes = 10000000`"),
    ],
)
def test_bad_requests(tmp_path: Path, arguments: tuple[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_split(arguments[0], tmp_path, arguments[1])


@pytest.mark.parametrize("size", [28, 90])
def test_bad_frame_sizes(tmp_path: Path, size: int) -> None:
    with pytest.raises(UserError, match=rf"`size = {size}`: frames must be a multiple of 28"):
        build_split("dev", tmp_path, 1, size=size)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write the world there .*choose another folder"):
        build_split("dev", tmp_path / "file", 1)


def test_words_split_is_the_same_build(built: Path) -> None:
    assert build_split("dev_free", built, SCENES) == built


def test_contact_sheet(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    contact_sheet(SPLITS["dev"].scene(0).seed, path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 50_000
    with pytest.raises(UserError, match="a seed is a whole number"):
        contact_sheet(-1, path)
    with pytest.raises(UserError, match="cannot be written"):
        contact_sheet(SPLITS["dev"].scene(0).seed, tmp_path / "sheet.xyz")
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"mine\.png`: there is another file"):
        contact_sheet(SPLITS["dev"].scene(0).seed, tmp_path / "mine.png")
    rejected = next(s for s in range(100) if build.sample_scene(s) is None)
    with pytest.raises(UserError, match="the next accepted seed is"):
        contact_sheet(rejected, path)


def test_command_line(tmp_path: Path) -> None:
    runner = CliRunner()
    outcome = runner.invoke(
        app, ["world", "render", "--split", "dev", "--scenes", "2", "--out", str(tmp_path), "--workers", "1"]
    )
    assert outcome.exit_code == 0 and str(tmp_path / "dev.jsonl") in outcome.output
    assert len(list((tmp_path / "world").glob("dev_*.mp4"))) == 2
    outcome = runner.invoke(app, ["world", "audit", "--train-scenes", "20", "--test-scenes", "5", "--json"])
    scores = json.loads(re.search(r"\{.*\}", outcome.stdout, re.S)[0])  # type: ignore[index]
    assert set(scores["room_size_estimation"]) == {"chance", "constant", "text_prior", "text_prior_se", "n"}


def test_the_audit_table_names_every_type_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"chance": 25.0, "constant": 25.0, "text_prior": 25.0, "text_prior_se": 10.0, "n": 400}
    scores = pd.DataFrame(columns, index=list(QUESTION_TYPES))
    monkeypatch.setattr("harness.world.audit.audit", lambda *_, **__: scores)
    outcome = CliRunner().invoke(app, ["world", "audit"])
    assert outcome.exit_code == 0 and all(name in outcome.stdout for name in QUESTION_TYPES)
