"""The command line and its cells: what compare and train compute, compute again, and leave alone."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_kit import Cli, mistake

from harness.config.study import ReportSection, StudyConfig, load_study
from harness.console import Console
from harness.data.reader import Dataset
from harness.errors import UserError
from harness.io import read_json, write_json
from harness.locks import hold
from harness.study import compare as comparing
from harness.study.launch import run_cells
from harness.study.status import State, Status, read_status, write_status

FAKE_CELL = """
import sys
from pathlib import Path
from harness.io import read_json, write_json, write_sealed
from harness.study.status import State, Status, write_status
folder = Path(sys.argv[1]) / "cells" / sys.argv[2]
config = read_json(folder / "config.json")
if config["method"] == FAILS:
    write_status(folder, Status(state=State.FAILED, reason="loss is not finite"))
    sys.exit(1)
if config["method"] != "base":
    write_json(folder / "compute.json", {"examples": 960})
with (folder / "runs").open("a") as file:
    file.write("x")
holds = {"weights": {"step-000000": "w"}, "answers": {}, "files": {}}
holds |= {"method": config["method"], "seed": config["seed"]}
write_sealed(folder / "finished.json", {"cell": folder.name, **holds})
write_status(folder, Status(state=State.DONE, phase="evaluate"))
"""


class FakeReport:
    """Writes the ids of the matrix's done cells."""

    def check_output(self, run_dir: Path, study: StudyConfig) -> None:
        pass

    def settled(self, study: StudyConfig, benchmark: Dataset) -> ReportSection:
        return study.report.model_copy(update={"pairs": (), "margin": 1.0})

    def write(self, run_dir: Path, console: Console, **_: object) -> list[Path]:
        cells = read_json(run_dir / "matrix.json")["cells"]
        done = [c["id"] for c in cells if read_status(run_dir / "cells" / c["id"]).state is State.DONE]
        write_json(run_dir / "report" / "scores.json", done)
        console.print("THE TABLE")
        return [run_dir / "report" / "scores.json"]


@pytest.fixture
def fake_cells(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let cells and report be fakes; name the method that fails."""

    def fake(fails: str = "") -> None:
        code = FAKE_CELL.replace("FAILS", repr(fails))

        def run(*args, **options):
            return run_cells(*args, **options, poll=0.02, command=lambda d, c: [sys.executable, "-c", code, str(d), c])

        monkeypatch.setattr(comparing, "run_cells", run)

    monkeypatch.setattr(comparing, "load_report", FakeReport)
    return fake


def runs_of(run_dir: Path) -> dict[str, int]:
    """How often each cell was computed to its end."""
    return {file.parent.name.split("-")[0]: len(file.read_text()) for file in run_dir.glob("cells/*/runs")}


def files_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_compare_computes_what_is_missing_and_nothing_twice(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    run_dir, arguments = tmp_path / "out", ["compare", "--out", "out", *train_and_test, "--methods"]
    fake_cells(fails="dpo")
    ended = harness(*arguments, "sft,dpo")
    assert ended.code == 1, ended
    assert "loss is not finite" in ended.out and "log.txt" in ended.out
    assert "THE TABLE" in ended.out and "scores.json" in ended.out
    assert runs_of(run_dir) == {"base": 1, "sft": 1}

    fake_cells()
    assert harness(*arguments, "sft,dpo").code == 0
    assert runs_of(run_dir) == {"base": 1, "sft": 1, "dpo": 1}
    ended = harness(*arguments, "sft,dpo")
    assert (ended.code, runs_of(run_dir)) == (0, {"base": 1, "sft": 1, "dpo": 1})
    assert "every cell is done" in ended.out

    assert harness(*arguments, "sft,grpo").code == 0
    assert runs_of(run_dir) == {"base": 1, "sft": 1, "dpo": 1, "grpo": 1}
    reported = [name.split("-")[0] for name in read_json(run_dir / "report" / "scores.json")]
    assert reported == ["base", "sft", "grpo"]


def test_failed_cells_without_a_comparison_exit_1(
    harness: Cli, train_and_test: list[str], fake_cells: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_yet(self: FakeReport, run_dir: Path, console: Console, **_: object) -> list[Path]:
        raise UserError("the base model is not evaluated")

    fake_cells(fails="base")
    monkeypatch.setattr(FakeReport, "write", nothing_yet)
    ended = harness("compare", "--methods", "sft", *train_and_test)
    assert ended.code == 1
    assert "loss is not finite" in ended.out and "the base model is not evaluated" in ended.out


def test_train_computes_one_cell_that_compare_reuses(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    fake_cells()
    ended = harness("train", "sft", "--seed", "1", "--out", "out", *train_and_test)
    assert ended.code == 0, ended
    assert runs_of(tmp_path / "out") == {"sft": 1}
    assert not (tmp_path / "out" / "matrix.json").exists()
    harness("compare", "--methods", "sft", "--seeds", "2", "--out", "out", *train_and_test)
    assert sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "out" / "cells").iterdir()) == [
        "base-tiny-s0",
        "sft-tiny-s0",
        "sft-tiny-s1",
    ]
    assert all(len(file.read_text()) == 1 for file in (tmp_path / "out").glob("cells/*/runs"))


def test_a_dry_run_shows_the_matrix_and_writes_nothing(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    fake_cells()
    ended = harness("compare", "--methods", "sft", "--dry-run", *train_and_test)
    assert ended.code == 0, ended
    assert "train, evaluate" in ended.out and "unknown" in ended.out
    assert not list(tmp_path.iterdir())
    harness("compare", "--methods", "sft", *train_and_test)
    before = files_below(tmp_path)
    ended = harness("compare", "--methods", "sft,dpo", "--seeds", "2", "--dry-run", *train_and_test)
    rows = {tuple(line.split()[:2]): line for line in ended.out.splitlines() if line.strip()}
    assert "nothing" in rows["base", "done"] and "nothing" in rows["sft", "0"]
    assert "train, evaluate" in rows["sft", "1"] and "train, evaluate" in rows["dpo", "0"]
    assert files_below(tmp_path) == before


def test_a_dry_run_without_the_world_does_not_build_it(harness: Cli, tmp_path: Path) -> None:
    ended = harness("compare", "--dry-run")
    assert ended.code == 0, ended
    assert "world:test" in ended.out and "generated" in ended.out
    assert not list(tmp_path.iterdir())


def test_the_second_process_on_a_run_directory_is_told(
    harness: Cli, tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None]
) -> None:
    fake_cells()
    with hold(tmp_path / "out", "run directory"):
        mistake(harness("compare", "--out", "out", *train_and_test), "run directory is in use by process", "--out")


def test_compare_says_that_it_can_go_on_after_an_interruption(
    tmp_path: Path, train_and_test: list[str], fake_cells: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_cells", interrupted)
    out = io.StringIO()
    changes = {"data.train": train_and_test[1], "data.benchmark": train_and_test[3]}
    with pytest.raises(KeyboardInterrupt):
        comparing.compare(load_study("tiny", changes=changes), tmp_path, dry_run=False, console=Console(file=out))
    assert "Run the same command to resume" in out.getvalue()


def test_a_report_without_anything_done_is_an_error_not_a_crash(tmp_path: Path) -> None:
    write_status(tmp_path, Status())
    with pytest.raises(UserError):
        comparing.write_report(tmp_path, Console(file=io.StringIO()))
