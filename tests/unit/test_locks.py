"""One process at a time; the second is told who is the first."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.io import read_json, write_json
from harness.life import PATIENCE, Writer
from harness.locks import LOCK_FILE, hold

HOLDER = """
import sys
import threading
import time
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


def held_elsewhere(folder: Path, age: float, **changes: object) -> None:
    """What a holder on another host leaves while it runs, where that host's locks do not show."""
    with hold(folder, "run directory"):
        pass
    holding = read_json(folder / LOCK_FILE)
    assert not holding["held"]
    holder = holding["holder"] | {"boot": "other", "host": "node7"} | changes
    write_json(folder / LOCK_FILE, holding | {"holder": holder, "held": True})
    os.utime(folder / LOCK_FILE, (time.time() - age, time.time() - age))


def test_a_holder_on_another_host_is_believed_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    held_elsewhere(tmp_path, age=30)
    with (
        pytest.raises(UserError, match=r"in use by process \d+ on node7 .*last sign of life 3\d s ago.*--out"),
        hold(tmp_path, "run directory", elsewhere=True),
    ):
        pass
    held_elsewhere(tmp_path, age=2 * PATIENCE)
    with hold(tmp_path, "run directory", elsewhere=True) as taken:
        assert "node7 for 10 minutes" in taken and "taken over" in taken
    with hold(tmp_path, "run directory", elsewhere=True) as taken:
        assert not taken


def test_a_killed_holder_in_a_container_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    held_elsewhere(tmp_path, age=0, boot=Writer.here().boot, namespace="pid:[1]")
    with hold(tmp_path, "run directory", elsewhere=True) as taken:
        assert not taken


def test_a_held_lock_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.life.BEAT", 0.01)
    with hold(tmp_path, "cell"):
        os.utime(tmp_path / LOCK_FILE, (0, 0))
        end = time.monotonic() + 5
        while (tmp_path / LOCK_FILE).stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
    assert time.time() - (tmp_path / LOCK_FILE).stat().st_mtime < 60
