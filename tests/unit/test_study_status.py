"""The status file: a closed set of states, and `running` only while the writer lives."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.io import read_json, write_json
from harness.life import PATIENCE, Writer
from harness.locks import LOCK_FILE
from harness.study.status import STATUS_FILE, State, Status, read_status, recorded_status, write_status


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def rewrite_writer(folder: Path, **changes: object) -> None:
    status = read_json(folder / STATUS_FILE)
    write_json(folder / STATUS_FILE, status | {"writer": status["writer"] | changes})


def test_states_are_the_closed_set() -> None:
    assert {state.value for state in State} == {"pending", "running", "done", "failed", "interrupted"}
    with pytest.raises(ValidationError):
        Status.model_validate({"state": "finished"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = write_status(
        tmp_path, Status(state=State.FAILED, reason="why", phase="train", step=3, steps=9, numbers={"loss": 0.5})
    )
    assert read_status(tmp_path) == written
    assert written.writer.pid == os.getpid() and written.writer.host == socket.gethostname()
    assert written.updated > 0


def test_a_cell_without_status_is_pending(tmp_path: Path) -> None:
    assert read_status(tmp_path / "none").state is State.PENDING


def test_numbers_that_json_lacks_are_left_out(tmp_path: Path) -> None:
    numbers = {"loss": float("nan"), "reward": float("inf"), "done": 2.0}
    assert write_status(tmp_path, Status(numbers=numbers)).numbers == {"done": 2.0}


def test_running_is_believed_while_the_writer_lives(tmp_path: Path) -> None:
    write_status(tmp_path, Status(state=State.RUNNING))
    found = read_status(tmp_path)
    assert found.state is State.RUNNING and f"process {os.getpid()}" in found.reason


def test_running_of_a_dead_process_reads_as_interrupted(tmp_path: Path) -> None:
    write_status(tmp_path, Status(state=State.RUNNING, phase="train", step=4))
    pid = dead_pid()
    rewrite_writer(tmp_path, pid=pid)
    found = read_status(tmp_path)
    assert (found.state, found.phase, found.step) == (State.INTERRUPTED, "train", 4)
    assert str(pid) in found.reason
    assert recorded_status(tmp_path).state is State.RUNNING


def test_a_process_that_took_over_the_number_is_not_the_writer(tmp_path: Path) -> None:
    write_status(tmp_path, Status(state=State.RUNNING))
    rewrite_writer(tmp_path, began=Writer.here().began - 100)
    assert read_status(tmp_path).state is State.INTERRUPTED


def test_setting_the_clock_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_status(tmp_path, Status(state=State.RUNNING))
    os.utime(tmp_path / STATUS_FILE, (0, 0))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert read_status(tmp_path).state is State.RUNNING


def test_a_stopped_process_and_a_zombie(tmp_path: Path) -> None:
    code = f"import sys; from pathlib import Path; sys.path[:] = {sys.path!r}\n" + WRITER
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 5
    while "is stopped" not in read_status(tmp_path).reason and time.monotonic() < end:
        time.sleep(0.01)
    found = read_status(tmp_path)
    assert found.state is State.RUNNING and f"kill -CONT {process.pid}" in found.reason
    process.kill()
    process.stdout.read()  # it has ended, and nobody has asked how
    while read_status(tmp_path).state is State.RUNNING and time.monotonic() < end:
        time.sleep(0.01)
    assert read_status(tmp_path).state is State.INTERRUPTED
    process.wait()


WRITER = """
from harness.life import PATIENCE, Writer
from harness.locks import LOCK_FILE
from harness.study.status import State, Status, write_status
write_status(Path(sys.argv[1]), Status(state=State.RUNNING))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("elsewhere", [{"boot": "other", "host": "node7"}, {"namespace": "pid:[1]", "host": "node7"}])
def test_from_another_host_or_container_signs_of_life_count(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    write_status(tmp_path, Status(state=State.RUNNING, phase="train", step=4))
    rewrite_writer(tmp_path, pid=dead_pid(), **elsewhere)
    found = read_status(tmp_path)
    assert found.state is State.RUNNING and "node7, last sign of life" in found.reason
    long_ago = time.time() - 2 * PATIENCE
    os.utime(tmp_path / STATUS_FILE, (long_ago, long_ago))
    found = read_status(tmp_path)
    assert found.state is State.INTERRUPTED and "node7 for 10 minutes" in found.reason
    (tmp_path / LOCK_FILE).touch()  # the cell's heartbeat
    assert read_status(tmp_path).state is State.RUNNING


@pytest.mark.parametrize("content", ["{torn", '{"state": "finished"}', "[]"])
def test_a_broken_status_reads_as_interrupted_and_says_why(tmp_path: Path, content: str) -> None:
    (tmp_path / STATUS_FILE).write_text(content)
    found = read_status(tmp_path)
    assert found.state is State.INTERRUPTED
    assert STATUS_FILE in found.reason
