"""The status file: a closed set of states, and `running` only while the writer lives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.io import read_json, write_json
from harness.study.status import STATUS_FILE, State, Status, read_status, recorded_status, write_status


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def rewrite(folder: Path, **changes: object) -> None:
    write_json(folder / STATUS_FILE, read_json(folder / STATUS_FILE) | changes)


def test_states_are_the_closed_set() -> None:
    assert {state.value for state in State} == {"pending", "running", "done", "failed", "interrupted"}
    with pytest.raises(ValidationError):
        Status.model_validate({"state": "finished"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = write_status(
        tmp_path, Status(state=State.FAILED, reason="why", phase="train", step=3, steps=9, numbers={"loss": 0.5})
    )
    assert read_status(tmp_path) == written
    assert written.pid == os.getpid()
    assert written.updated > 0


def test_a_cell_without_status_is_pending(tmp_path: Path) -> None:
    assert read_status(tmp_path / "none").state is State.PENDING


def test_numbers_that_json_lacks_are_left_out(tmp_path: Path) -> None:
    numbers = {"loss": float("nan"), "reward": float("inf"), "done": 2.0}
    assert write_status(tmp_path, Status(numbers=numbers)).numbers == {"done": 2.0}


def test_running_is_believed_while_the_writer_lives(tmp_path: Path) -> None:
    write_status(tmp_path, Status(state=State.RUNNING))
    assert read_status(tmp_path).state is State.RUNNING


def test_running_of_a_dead_process_reads_as_interrupted(tmp_path: Path) -> None:
    write_status(tmp_path, Status(state=State.RUNNING, phase="train", step=4))
    pid = dead_pid()
    rewrite(tmp_path, pid=pid)
    found = read_status(tmp_path)
    assert (found.state, found.phase, found.step) == (State.INTERRUPTED, "train", 4)
    assert str(pid) in found.reason
    assert recorded_status(tmp_path).state is State.RUNNING


def test_a_process_that_took_over_the_number_is_not_the_writer(tmp_path: Path) -> None:
    write_status(tmp_path, Status(state=State.RUNNING))
    rewrite(tmp_path, updated=1_000_000_000.0)
    assert read_status(tmp_path).state is State.INTERRUPTED


@pytest.mark.parametrize("content", ["{torn", '{"state": "finished"}', "[]"])
def test_a_broken_status_reads_as_interrupted_and_says_why(tmp_path: Path, content: str) -> None:
    (tmp_path / STATUS_FILE).write_text(content)
    found = read_status(tmp_path)
    assert found.state is State.INTERRUPTED
    assert STATUS_FILE in found.reason
