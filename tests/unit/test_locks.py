"""One process at a time; the second is told who is the first."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.locks import LOCK_FILE, hold

HOLDER = """
import sys
import threading
from pathlib import Path
from harness.locks import hold
with hold(Path(sys.argv[1]), "run directory"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen) -> None:
    with pytest.raises(UserError) as caught, hold(tmp_path, "run directory"):
        pass
    message = str(caught.value)
    assert str(tmp_path) in message
    assert f"process {holder.pid} on " in message
    assert "since 20" in message
    assert f"-c {tmp_path}" in message
    assert "--out" in message


def test_a_killed_holder_holds_nothing(tmp_path: Path, holder: subprocess.Popen) -> None:
    holder.kill()
    holder.wait()
    with hold(tmp_path, "run directory"):
        assert (tmp_path / LOCK_FILE).is_file()


def test_a_lock_is_free_after_use_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "new", "cell"):
        raise ZeroDivisionError
    with hold(tmp_path / "new", "cell"):
        pass


def test_a_holder_that_is_not_known_is_still_a_holder(tmp_path: Path, holder: subprocess.Popen) -> None:
    (tmp_path / LOCK_FILE).write_text("")
    with pytest.raises(UserError, match="another process"), hold(tmp_path, "cell"):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file`: cannot be written or locked.*--out"),
        hold(tmp_path / "file", "run directory"),
    ):
        pass


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_is_not_written_behind_a_link(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mine").write_text("mine")
    if kind == "link":
        (tmp_path / LOCK_FILE).symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(tmp_path / LOCK_FILE)
    with pytest.raises(UserError, match=rf"{LOCK_FILE}`: there is a"), hold(tmp_path, "cell"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_second_process_can_wait(tmp_path: Path, holder: subprocess.Popen) -> None:
    threading.Timer(0.2, holder.kill).start()
    with hold(tmp_path, "report", wait=30):
        assert holder.wait(timeout=5)
