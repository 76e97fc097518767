"""The process of a fuzz campaign that runs the inputs: one at a time, watched and within limits."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "120"}
_ROOT = Path(__file__).parents[2]
_PATHS = (str(_ROOT), str(_ROOT / "tests"), str(_ROOT / "tests" / "benchmarks"))
sys.path[:0] = [path for path in _PATHS if path not in sys.path]
os.environ["PYTHONPATH"] = os.pathsep.join(_PATHS)  # of the server that the processes are forked from

from fuzz_mutations import Input, NonsenseError  # noqa: E402
from fuzz_targets import TARGETS, make_seeds  # noqa: E402

from harness.errors import UserError  # noqa: E402

__all__ = ["SECONDS", "TARGETS", "Case", "Outcome", "make_seeds", "serve"]

SECONDS = 20
PEAK_BYTES = 2 * 2**30
_SPACE = 3 * PEAK_BYTES
"""Address space beyond the start's, which ends a runaway: more than memory, since mapped files and stacks count."""
_FILE_BYTES = 2**28
_OURS = ("harness/", "reports/", "rewards/", "algorithms/")


class Case(NamedTuple):
    """One input: what it is for, and its number."""

    target: str
    number: int


@dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Attributes:
        case: The input.
        kind: ``accepted``, ``refused`` or the kind of fault.
        detail: The message of a refusal, the traceback of a fault.
        where: Of a fault, what tells it apart from others: the exception and the last line of ours.
        seconds: What it took of the processor.
        peak: The largest resident size of its process, in bytes.
    """

    case: Case
    kind: str
    detail: str = ""
    where: str = ""
    seconds: float = 0.0
    peak: int = 0

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("accepted", "refused")


class Hang(BaseException):
    """The time limit; no ``except Exception`` may swallow it."""


class Guard:
    """Refuses and records what an input must not bring about: writing outside its folder, running code, the network."""

    _WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    _CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")

    def __init__(self, folder: Path) -> None:
        self._inside = f"{folder}/"
        self._on = False
        self.seen: list[str] = []
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.seen, self._on = [], True
        try:
            yield
        finally:
            self._on = False

    def _audit(self, event: str, values: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open" and isinstance(values[2], int) and values[2] & self._WRITES:
            self._require_inside(event, values[0])
        elif event in self._CHANGES or event == "shutil.rmtree":
            made = {"os.rename": values[:2], "os.link": values[1:2], "os.symlink": values[1:2]}
            if not any(isinstance(value, int) and value >= 0 for value in values[1:]):  # relative to an open folder
                for path in made.get(event, values[:1]):
                    self._require_inside(event, path)
        elif event == "exec" and self._is_inside(values[0].co_filename):
            self._refuse(f"exec {values[0].co_filename}")
        elif event in ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
            self._refuse(f"{event} {values}")

    def _is_inside(self, name: str) -> bool:
        return Path(name).is_absolute() and os.path.realpath(name).startswith(self._inside)  # "<string>" is a library's

    def _require_inside(self, event: str, path: Any) -> None:
        if isinstance(path, int) or os.fspath(path) in ("/dev/null", b"/dev/null"):
            return
        name = os.fsdecode(path)
        place = os.path.realpath(name if event == "open" else Path(name).parent)  # a link itself may be removed
        if not f"{place}/".startswith(self._inside):
            self._refuse(f"{event} {name}")

    def _refuse(self, what: str) -> None:
        self._on = False
        self.seen.append(f"{what}\n{''.join(traceback.format_stack(limit=12))}")
        self._on = True
        raise PermissionError(13, "not within the input's folder", what)


def serve(pipe: Connection, folder: Path, seeds: Path, seed: int) -> None:
    """Answer each case from the pipe with its outcome."""
    place = folder / "case"
    place.mkdir(parents=True, exist_ok=True)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    for name in ("HOME", "TMPDIR", "MPLCONFIGDIR", "HF_HOME", "XDG_CACHE_HOME"):
        os.environ[name] = str(place / "home")
    sys.dont_write_bytecode = True
    space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    signal.signal(signal.SIGPROF, _hang)
    guard = Guard(place)
    while True:
        try:
            case: Case = pipe.recv()
        except EOFError:
            return
        os.chdir(folder)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "home").mkdir()
        os.chdir(place)
        pipe.send(_outcome(case, Input(random.Random(f"{seed}/{case.target}/{case.number}"), place, seeds), guard))


def _hang(*_: object) -> None:
    raise Hang


def _outcome(case: Case, given: Input, guard: Guard) -> Outcome:
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    started, kind, detail, where = time.process_time(), "accepted", "", ""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor, since other work may slow this one
    try:
        with guard.watching():
            TARGETS[case.target][0](given)
    except UserError as error:
        kind, detail = "refused", str(error)
    except NonsenseError as error:
        kind, where, detail = "nonsense", str(error).partition(":")[0], str(error)
    except Hang:
        kind, where, detail = "hang", *_said()
    except MemoryError:
        kind, where, detail = "memory", *_said()
    except BaseException:
        kind, where, detail = "traceback", *_said()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, peak = time.process_time() - started, _peak()
    if guard.seen:
        kind, where, detail = "outside", guard.seen[0].splitlines()[0][:120], "\n".join(guard.seen)
    elif peak > PEAK_BYTES:
        kind, where, detail = "memory", f"{peak / 2**20:,.0f} MiB", detail
    return Outcome(case, kind, detail[-6000:], where, seconds, peak)


def _said() -> tuple[str, str]:
    """The exception and the last line of ours that it passed through; the traceback."""
    kind, _, trace = sys.exc_info()
    ours = [
        f"{name}:{frame.lineno}"
        for frame in traceback.extract_tb(trace)
        if (name := os.path.relpath(frame.filename, _ROOT)).startswith(_OURS)
    ]
    return f"{kind.__name__ if kind else ''} at {ours[-1] if ours else 'no line of ours'}", traceback.format_exc()


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
