"""A short part of the fuzz campaign (tests/benchmarks/fuzz.py): no damaged input is more than refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"


@pytest.mark.slow
def test_damaged_inputs_are_refused_or_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--inputs", "90", "--seed", "15", "--jobs", "1", "--keep", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "checkpoints" in done.stdout and not list(tmp_path.iterdir())


def test_the_guard_and_the_limits_find_what_they_are_for(tmp_path: Path) -> None:
    """Each kind of fault, made on purpose by a target of its own."""
    code = f"""
import os, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import fuzz_worker, fuzz_targets, random
from fuzz_mutations import Input, require
from pathlib import Path
from harness.errors import UserError

def raises(error):
    raise error

faults = {{
    "refused": lambda given: raises(UserError("no")),
    "accepted": lambda given: (given.folder / "a").write_text("inside"),
    "traceback": lambda given: raises(KeyError("x")),
    "nonsense": lambda given: require(False, "a: b"),
    "outside": lambda given: (given.folder.parent / "b").write_text("outside"),
    "outside code": lambda given: exec(compile("1", str(given.folder / "x.py"), "exec")),
    "outside program": lambda given: os.system("true"),
    "hang": lambda given: sum(1 for _ in iter(int, 1)),
    "memory": lambda given: bytearray(2**31 + 2**28),
}}
fuzz_worker.TARGETS = {{name: (one, 1) for name, one in faults.items()}}
fuzz_worker.SECONDS = 1
folder = Path({str(tmp_path)!r}).resolve() / "case"
folder.mkdir()
guard = fuzz_worker.Guard(folder)
import signal
signal.signal(signal.SIGPROF, fuzz_worker._hang)
for name in faults:
    outcome = fuzz_worker._outcome(fuzz_worker.Case(name, 0), Input(random.Random(0), folder, folder), guard)
    print(name, outcome.kind)
    assert outcome.kind == name.split()[0], outcome
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("\n") == 9 and not (tmp_path / "b").exists()
