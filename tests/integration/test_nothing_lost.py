"""Through the command line: what the user has in a folder stays as it is, and is named before any work is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_kit import Cli, mistake
from conftest import write_small_dataset
from matplotlib.figure import Figure
from page_kit import fabricate_run

from harness.config.study import load_study
from harness.io import read_json, read_text
from harness.locks import LOCK_FILE, hold
from harness.outputs import LISTED, Outputs
from harness.study import compare as comparing
from reports.page.figures import Drawing


def tree(folder: Path) -> dict[str, Any]:
    """All below a folder but locks: content and time of each file, and where each link leads."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.name != LOCK_FILE):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            found[name] = (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not drawn, which costs most of a report."""

    def drawn(figure: Figure, name: str, caption: str) -> Drawing:
        return Drawing(name, caption, "<svg></svg>", {f"{name}.{kind}": b"drawn" for kind in ("svg", "pdf")})

    monkeypatch.setattr("reports.page.page.drawn", drawn)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_small_dataset(root, scenes=4, split="test")
    return write_small_dataset(root, scenes=2, seed=1, split="train")


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    sources = {"train": f"{data}#train", "benchmark": f"{data}#test", "cache": runs / "cache"}
    return fabricate_run(runs / "demo", methods=("sft",), seeds=1, checkpoints=1, metrics=False, **sources)


@pytest.fixture
def run_dir(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "demo")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.pdf").write_bytes(b"mine")
    return tmp_path / "elsewhere"


def test_a_report_leaves_the_users_files(harness: Cli, run_dir: Path, tmp_path: Path) -> None:
    report = run_dir / "report"
    (report / "figures").mkdir(parents=True)
    (report / "figures" / "mine.pdf").write_bytes(b"mine")
    (report / "figures" / "empty").mkdir()
    assert harness("report", str(run_dir)).code == 0
    stale = report / "figures" / "forest-sft-base.pdf"
    assert stale.exists() and (report / "figures" / "mine.pdf").read_bytes() == b"mine"
    (report / "scores.md").write_text("edited")
    before = tree(tmp_path)
    mistake(harness("report", str(run_dir)), f"{report / 'scores.md'}`: not as the harness wrote it", "--out")
    assert tree(tmp_path) == before
    Outputs(tmp_path / "paper").write("notes.txt", b"of another command")
    ended = harness("report", str(run_dir), "--out", "paper")
    ended = harness("report", str(run_dir), "--out", "paper")
    assert (tmp_path / "paper" / "notes.txt").exists()
    assert ended.code == 0 and (tmp_path / "paper" / "index.html").is_file()
    (report / "scores.md").unlink()
    assert harness("report", str(run_dir)).code == 0
    assert (report / "figures" / "empty").is_dir() and (report / "figures" / "mine.pdf").read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["report", "report/figures", "report/figures/tasks.svg", "report/scores.md"])
def test_a_report_follows_no_link(harness: Cli, run_dir: Path, mine: Path, tmp_path: Path, place: str) -> None:
    assert harness("report", str(run_dir)).code == 0
    link = run_dir / place
    shutil.rmtree(link) if link.is_dir() else link.unlink()
    link.symlink_to(mine if "." not in place else mine / "mine.pdf")
    before = tree(tmp_path)
    mistake(harness("report", str(run_dir)), f"{link}`: there is a symbolic link, which is not followed")
    assert tree(tmp_path) == before
    (tmp_path / "link").symlink_to(mine)
    assert harness("report", str(run_dir), "--out", "link").code == 0
    assert (mine / "scores.md").is_file() and (mine / "mine.pdf").read_bytes() == b"mine"


def test_a_pipe_in_the_place_of_a_file_does_not_hang(harness: Cli, run_dir: Path) -> None:
    (run_dir / "report").mkdir()
    os.mkfifo(run_dir / "report" / "scores.md")
    mistake(harness("report", str(run_dir)), "scores.md`: there is a pipe or a device")


def test_a_report_waits_for_another_one_and_then_refuses(
    harness: Cli, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.comparison.WAIT", 0.05)
    with hold(run_dir / "report", "report"):
        mistake(harness("report", str(run_dir)), f"{run_dir / 'report'}`: this report is in use by process")
    with hold(run_dir, "run directory"):  # a comparison is running
        assert harness("report", str(run_dir)).code == 0


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often work was begun; cells are not run."""
    begun = []

    def compute(*_: Any) -> bool:
        begun.append(1)
        return True

    real = comparing.make_plan
    monkeypatch.setattr(comparing, "_compute", compute)
    monkeypatch.setattr(comparing, "make_plan", lambda *args: (begun.append(1), real(*args))[1])
    monkeypatch.setattr(comparing, "write_report", lambda *_: None)
    return lambda: len(begun)


@pytest.mark.parametrize("place", ["cells", "cells/sft-1", "cells/sft-1/checkpoints", "cells/sft-1/log.txt"])
@pytest.mark.parametrize("command", ["compare --methods", "train"])
def test_cells_behind_links_are_refused_before_any_work(
    harness: Cli, mine: Path, tmp_path: Path, no_work: Callable[[], int], command: str, place: str
) -> None:
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(mine)
    before = tree(tmp_path)
    mistake(harness(*command.split(), "sft", "--out", "run"), f"run/{place}`: there is a symbolic link")
    assert no_work() == 0 and tree(tmp_path) == before


@pytest.mark.parametrize("command", ["compare --dry-run", "plan", "doctor", "tune --dry-run"])
def test_what_only_reads_writes_nothing(harness: Cli, data: Path, tmp_path: Path, command: str) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "run").mkdir()
    options = ["--methods", "sft", "--data", "data#train", "--benchmark-data", "data#test", "--skip-bad"]
    out = [] if command == "doctor" else ["--out", "run"]
    more = ["--development", "data#train"] if command.startswith("tune") else []
    before = tree(tmp_path)
    ended = harness(*command.split(), *options, *out, *more)
    assert "Traceback" not in ended.err and tree(tmp_path) == before, ended


@pytest.mark.parametrize("name", ["samples.jsonl", "manifest.json", "scores.json"])
def test_answers_do_not_replace_files_of_the_users(harness: Cli, mine: Path, tmp_path: Path, name: str) -> None:
    (mine / name).write_text("mine")
    before = tree(tmp_path)
    mistake(harness("evaluate", str(mine), "--study", "tiny", "--out", "elsewhere"), name, "Move it away")
    assert tree(tmp_path) == before


STUDY = (
    '# Mine.\nextends = "tiny"\nmethods = ["sft"]  # only one\n[data]\ntrain = "{0}#train"\nbenchmark = "{0}#test"\n'
)


def test_a_study_file_is_never_replaced(harness: Cli, data: Path, tmp_path: Path, no_work: Callable[[], int]) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(data))
    for _ in range(2):
        assert harness("compare", "--study", "study.toml", "--out", ".").code == 0
        assert study.read_text() == STUDY.format(data) and (tmp_path / "study.json").is_file()
    done, before = no_work(), tree(tmp_path)
    mistake(
        harness("compare", "--study", "study.toml", "--seeds", "2", "--out", "."), "study.toml`: not as the harness"
    )
    assert no_work() == done and tree(tmp_path) == before


def test_the_study_of_a_run_directory_is_run_again_with_the_users_comments(
    harness: Cli, data: Path, tmp_path: Path, no_work: Callable[[], int]
) -> None:
    options = ("--study", "mine.toml", "--out", "run")
    (tmp_path / "mine.toml").write_text(STUDY.format(data))
    assert harness("compare", *options).code == 0
    study = tmp_path / "run" / "study.toml"
    assert load_study(str(study)) == load_study(str(tmp_path / "mine.toml"))
    study.write_text("# Why: see the paper.\n" + read_text(study).replace("seeds = 1", "seeds = 2"))
    assert harness("compare", "--study", "run/study.toml", "--out", "run").code == 0
    assert read_text(study).startswith("# Why") and read_json(tmp_path / "run" / "study.json")["seeds"] == 2
    mistake(harness("compare", *options), "run/study.toml`: not as the harness wrote it")
    study.unlink()
    assert harness("compare", *options).code == 0


@pytest.mark.parametrize(
    "name", ["matrix.json", "study.json", "report/scores.md", "report/figures/forest-sft-base.svg"]
)
def test_a_study_is_refused_before_any_work(
    harness: Cli, data: Path, tmp_path: Path, no_work: Callable[[], int], name: str
) -> None:
    (tmp_path / "mine.toml").write_text(STUDY.format(data))
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("mine")
    before = tree(tmp_path)
    mistake(harness("compare", "--study", "mine.toml", "--out", "run"), f"run/{name}`: not as the harness wrote it")
    assert no_work() == 0 and tree(tmp_path) == before
    (tmp_path / "run" / name).unlink()
    assert harness("compare", "--study", "mine.toml", "--out", "run").code == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"study.toml", LISTED, LOCK_FILE}
