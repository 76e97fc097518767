"""Worker processes: none outlives its parent or writes after it, and a killed one is told."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.errors import UserError
from harness.processes import in_processes

JOBS = 8
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")


def hold_the_interpreter(folder: str) -> None:
    """Native code that lets no other thread run, then a file."""
    Path(folder, f"{os.getpid()}.begun").touch()
    ctypes.PyDLL(None).sleep(2)
    Path(folder, f"{os.getpid()}.written").touch()


def be_killed(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


PARENT = """
import sys
from harness.processes import in_processes
from test_processes import JOBS, hold_the_interpreter
if __name__ == "__main__":
    list(in_processes(hold_the_interpreter, [sys.argv[1]] * JOBS, 2))
"""


@pytest.fixture
def parent(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    yield process
    process.kill()
    process.wait()


def kin_of(process: subprocess.Popen, folder: Path, begun: int) -> list[psutil.Process]:
    """All descendants, once so many workers are busy."""
    deadline = time.monotonic() + 30
    while len(list(folder.glob("*.begun"))) < begun:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return psutil.Process(process.pid).children(recursive=True)


def ended(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all end in time; nobody need have asked how."""

    def alive(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    deadline = time.monotonic() + seconds
    while any(map(alive, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@linux
def test_workers_end_at_once_in_native_code_and_when_stopped(tmp_path: Path, parent: subprocess.Popen) -> None:
    kin = kin_of(parent, tmp_path, begun=2)
    busy = [int(file.stem) for file in tmp_path.glob("*.begun")]
    os.kill(busy[0], signal.SIGSTOP)
    parent.kill()
    parent.wait()
    assert ended(kin, 1.5)  # before the native code is over
    assert not list(tmp_path.glob("*.written"))


@linux
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_none_is_left_of_a_parent_killed_while_they_start(
    tmp_path: Path, parent: subprocess.Popen, share: float
) -> None:
    deadline, kin = time.monotonic() + 30, []
    while len(kin) < 3:  # two workers and multiprocessing's resource tracker
        assert time.monotonic() < deadline
        kin = psutil.Process(parent.pid).children(recursive=True)
    time.sleep(share * 0.3)
    parent.kill()
    parent.wait()
    assert ended(kin, 10)
    assert not list(tmp_path.glob("*.written"))


def test_a_killed_worker_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"worker processes was killed .*same command goes on"):
        list(in_processes(be_killed, range(JOBS), 2))


def test_a_child_whose_parent_is_dead_ends() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    code = f"from harness.processes import end_with_parent\nend_with_parent({dead.pid})\nprint('still here')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"")
