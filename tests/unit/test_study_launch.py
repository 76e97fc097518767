"""The launcher: processes beside each other, each end recorded, none stopping its neighbours."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from harness.study.launch import run_cells
from harness.study.matrix import Cell
from harness.study.process import PARENT_VARIABLE, cell_command, cell_environment, visible_gpus
from harness.study.status import State, Status, read_status, write_status

FAKE_CELL = textwrap.dedent(
    """
    import os, signal, sys, time
    from pathlib import Path
    from harness.study.process import end_with_launcher
    from harness.study.status import State, Status, write_status
    end_with_launcher()
    run_dir, name = Path(sys.argv[1]), sys.argv[2]
    folder, kind = run_dir / "cells" / name, name.split("-")[0]
    def say(state, **more): write_status(folder, Status(state=state, **more))
    def stop(*_):
        say(State.INTERRUPTED, reason="asked to")
        sys.exit(130)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if kind == "deaf" else stop)
    print("hello from", name, os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    say(State.RUNNING, phase="train", step=1, steps=2)
    (run_dir / (name + ".started")).touch()
    if kind == "good": say(State.DONE, phase="train", step=2, steps=2)
    if kind == "bad":
        say(State.FAILED, reason="loss is not finite")
        sys.exit(1)
    if kind == "silent": raise RuntimeError("no status for this")
    if kind == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if kind == "late": time.sleep(0.3); say(State.DONE)
    if kind in ("slow", "deaf"): time.sleep(60)
    """
)


def fake_command(run_dir: Path, cell_id: str) -> list[str]:
    return [sys.executable, "-c", FAKE_CELL, str(run_dir), cell_id]


def cell(kind: str, seed: int = 0) -> Cell:
    return Cell(kind, "tiny", seed, "00000000", {}, {})


def prepare(run_dir: Path, *cells: Cell) -> list[Cell]:
    for one in cells:
        write_status(one.folder(run_dir), Status())
    return list(cells)


def test_every_end_is_recorded_and_stops_nobody(tmp_path: Path) -> None:
    todo = prepare(tmp_path, cell("killed"), cell("bad"), cell("silent"), cell("good"), cell("late"))
    seen: list[tuple[str, State]] = []
    states = run_cells(
        tmp_path,
        todo,
        workers=2,
        threads=3,
        poll=0.02,
        command=fake_command,
        on_change=lambda one, status: seen.append((one.method, status.state)),
    )
    by_kind = {one.method: states[one.id] for one in todo}
    assert by_kind == {
        "killed": State.FAILED,
        "bad": State.FAILED,
        "silent": State.FAILED,
        "good": State.DONE,
        "late": State.DONE,
    }
    reasons = {one.method: read_status(one.folder(tmp_path)).reason for one in todo}
    assert reasons["bad"] == "loss is not finite"
    assert "SIGKILL" in reasons["killed"] and "memory" in reasons["killed"]
    assert "exit code 1" in reasons["silent"] and "RuntimeError: no status for this" in reasons["silent"]
    assert reasons["good"] == reasons["late"] == ""
    assert all((one.method, State.RUNNING) in seen and (one.method, states[one.id]) in seen for one in todo)
    for one in todo:
        assert f"hello from {one.id} 3" in (one.folder(tmp_path) / "log.txt").read_text()


def test_never_more_than_the_workers(tmp_path: Path) -> None:
    todo = prepare(tmp_path, *(cell("late", seed) for seed in range(4)))
    running: set[str] = set()
    most = 0

    def watch(one: Cell, status: Status) -> None:
        nonlocal most
        (running.add if status.state is State.RUNNING else running.discard)(one.id)
        most = max(most, len(running))

    run_cells(tmp_path, todo, workers=2, poll=0.02, command=fake_command, on_change=watch)
    assert most == 2


def test_a_command_that_does_not_exist_fails_its_cell_alone(tmp_path: Path) -> None:
    todo = prepare(tmp_path, cell("gone"), cell("good"))

    def command(run_dir: Path, cell_id: str) -> list[str]:
        return ["/no/such/program"] if cell_id.startswith("gone") else fake_command(run_dir, cell_id)

    states = run_cells(tmp_path, todo, workers=1, poll=0.02, command=command)
    assert list(states.values()) == [State.FAILED, State.DONE]
    assert "cannot be started" in read_status(todo[0].folder(tmp_path)).reason


def wait_for(path: Path) -> None:
    for _ in range(500):
        if path.exists():
            return
        time.sleep(0.02)
    raise TimeoutError(path)


def interrupt_when_started(run_dir: Path, cells: list[Cell], number: signal.Signals) -> None:
    """Fork a child that signals this process once the cells run."""
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "while not all(Path(p).exists() for p in sys.argv[3:]): time.sleep(0.02)\n"
        "time.sleep(0.1)\n"
        "os.kill(int(sys.argv[1]), int(sys.argv[2]))\n"
    )
    marks = [str(run_dir / f"{one.id}.started") for one in cells]
    subprocess.Popen([sys.executable, "-c", code, str(os.getpid()), str(int(number)), *marks])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_stops_and_records_all(tmp_path: Path, number: signal.Signals) -> None:
    todo = prepare(tmp_path, cell("slow"), cell("deaf"), cell("good"))
    interrupt_when_started(tmp_path, todo[:2], number)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_cells(tmp_path, todo, workers=2, poll=0.02, grace=1.0, command=fake_command)
    assert time.monotonic() - begin < 30
    slow, deaf, waiting = (read_status(one.folder(tmp_path)) for one in todo)
    assert (slow.state, slow.reason) == (State.INTERRUPTED, "asked to")
    assert (deaf.state, deaf.reason) == (State.INTERRUPTED, "stopped by the user")
    assert waiting.state is State.PENDING


LAUNCHER = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("launch_test", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
run_dir = Path(sys.argv[2])
module.run_cells(run_dir, module.prepare(run_dir, module.cell("deaf")), workers=1, command=module.fake_command)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_cells_die_with_a_killed_launcher(tmp_path: Path) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, __file__, str(tmp_path)])
    one = cell("deaf")
    wait_for(tmp_path / f"{one.id}.started")
    launcher.kill()
    launcher.wait()
    for _ in range(250):
        if read_status(one.folder(tmp_path)).state is State.INTERRUPTED:
            break
        time.sleep(0.02)
    assert read_status(one.folder(tmp_path)).state is State.INTERRUPTED


def test_the_cell_is_started_as_the_layout_says(tmp_path: Path) -> None:
    assert cell_command(tmp_path, "x") == [sys.executable, "-m", "harness.study.cell", str(tmp_path), "x"]
    environment = cell_environment(0, {"HF_HUB_OFFLINE": "1"})
    assert environment == {
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        PARENT_VARIABLE: str(os.getpid()),
    }
    assert cell_environment(4, {})["OMP_NUM_THREADS"] == "4"


def test_cells_are_spread_over_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    todo = prepare(tmp_path, *(cell("late", seed) for seed in range(4)))
    run_cells(tmp_path, todo, workers=4, poll=0.02, command=fake_command)
    gpus = sorted((one.folder(tmp_path) / "log.txt").read_text().split()[-1] for one in todo)
    assert gpus == ["2", "2", "5", "5"]


def test_the_gpus_of_a_launcher() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1, GPU-8f"}) == ["1", "GPU-8f"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert "CUDA_VISIBLE_DEVICES" not in cell_environment(0, {})
