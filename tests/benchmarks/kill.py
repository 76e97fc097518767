"""Does a killed study end as an untouched one, and does nothing lie or live on in between? A campaign of signals.

Run by hand, from the root of a checkout (Linux)::

    python tests/benchmarks/kill.py                                   # 100 studies, 250 signals
    python tests/benchmarks/kill.py --studies 6 --signals 15 --seed 7 --jobs 1 --keep kept

Every study is ``harness compare`` on one of five designs, hit by signals at random moments of its life and started
again until it is done. A signal counts if what it was sent to was alive. After each end the processes of the run must
be gone, no status may say ``running``, what is said to be done must be as in the untouched run, and reading the results
must refuse or show finished cells alone; at the last end all must be as in the untouched run, and no temporary file
left. The exit code is 1 after any fault; the folders of faulty studies stay in ``--keep``, with the log of each.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from kill_kit import (
    Phase,
    answers,
    differences,
    left_after,
    leftovers,
    log_of,
    phases_of,
    start,
    write_study,
)

from harness.errors import UserError, first_few
from harness.study.status import State, read_status
from reports.collect import collect

DESIGNS: dict[str, tuple[str, ...]] = {
    "sft": ("sft",),
    "grpo": ("grpo",),
    "dpo": ("dpo",),
    "guest": ("trl-sft",),
    "variants": ("grpo", "grpo:beta=0"),
}
STEPS, CHECKPOINTS = 6, 3
ROOT, ROOMS, CODE = Path(__file__).parents[2], ("harness", "algorithms", "rewards", "reports"), "code"
FRESH_CACHE = 5
"""Every so many studies one makes its data itself."""

WAIT: dict[Phase, float] = {
    Phase.START: 3.5,
    Phase.DATA: 2.5,
    Phase.CELL: 3.5,
    Phase.TRAIN: 0.8,
    Phase.CHECKPOINT: 0.05,
    Phase.EVALUATE: 1.0,
    Phase.SCORE: 0.05,
    Phase.REPORT: 3.0,
}
"""Phases in their order, and the seconds after the beginning of each within which the signal comes."""

SIGNALS = ("KILL", "KILL", "TERM", "HUP", "INT", "STOP, CONT", "STOP, KILL")
PATIENCE = 150.0
"""Seconds after which a command that neither ends nor gets anywhere hangs."""

_reading = threading.Lock()


@dataclass(frozen=True)
class Hit:
    """A signal that was sent to live processes."""

    phase: Phase
    signal: str
    target: str

    def __str__(self) -> str:
        return f"{self.signal} to {self.target} in {self.phase}"


@dataclass
class Story:
    """What happened to one study."""

    number: int
    design: str
    hits: list[Hit] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def fault(self, kind: str, text: str) -> None:
        """Note a fault: ``difference``, ``orphan``, ``lie``, ``leftover`` or ``hang``."""
        after = f" after {self.hits[-1]}" if self.hits else ""
        self.faults.append((kind, text + after))


class Study:
    """One study, from its first signal to its comparison with the untouched run.

    Args:
        folder: Of this study.
        story: Where to note what happens.
        whole: The untouched run of its design.
        cache: The cache to use.
        rng: Decides on signals.
        seed: Of the repetition, as in the untouched run.
    """

    def __init__(self, folder: Path, story: Story, whole: Path, cache: Path, rng: random.Random, seed: int) -> None:
        folder.mkdir(parents=True)
        self.story, self.whole, self.cache, self.rng = story, whole, cache, rng
        self.run_dir = folder / "run"
        self.file = study_of(folder, story.design, cache, seed)
        self.process: subprocess.Popen[bytes] | None = None
        self.code = 1

    def live(self, signals: int, fresh: bool) -> None:
        """Hit it so many times, finish it, compare it."""
        wishes = self.rng.choices(list(WAIT), (0, 0, 2, 3, 3, 3, 1, 2), k=signals)
        if fresh:
            wishes[0] = Phase.DATA
        wishes.sort(key=list(WAIT).index)
        for at in self.rng.sample(range(signals), signals // 3):
            wishes[at] = self.rng.choice([Phase.START, Phase.CELL])
        for wish in wishes:
            for _ in range(3):
                if self._strike(wish):
                    break
                if self._end() == 0:
                    wish = self.rng.choice([Phase.START, Phase.REPORT])  # all that is left of its life
        for _ in range(4):
            if self._end() == 0:
                break
            self._begin()
        self._compare()

    def _begin(self) -> subprocess.Popen[bytes]:
        self.process = self.process or start(self.file, self.run_dir, self.whole.parents[1] / CODE)
        return self.process

    def _strike(self, wish: Phase) -> bool:
        """Wait for a phase and send a signal in or after it; whether it hit."""
        process, end = self._begin(), time.monotonic() + PATIENCE
        while wish not in phases_of(process.pid, self.run_dir):
            if process.poll() is not None:
                return False
            if time.monotonic() > end:
                self._hang()
                return False
            time.sleep(0.004 if WAIT[wish] < 0.1 else 0.02)
        time.sleep(self.rng.uniform(0, WAIT[wish]))
        now = phases_of(process.pid, self.run_dir)
        phase = wish if wish in now else max(now, key=list(WAIT).index)
        name, (target, send) = self.rng.choice(SIGNALS), self._target(process)
        before, *after = (signal.Signals[f"SIG{one}"] for one in name.split(", "))
        if process.poll() is not None or not send(before):
            return False
        self.story.hits.append(Hit(phase, name, target))
        for number in after:
            time.sleep(self.rng.uniform(0.1, 0.6))
            send(number)
        if name != "STOP, CONT" and target != "cell":
            self._end()
        return True

    def _target(self, process: subprocess.Popen[bytes]) -> tuple[str, Callable[[signal.Signals], bool]]:
        """Which processes get the signal, and how to send it; whether any was alive."""
        try:
            parent = [psutil.Process(process.pid)]
            kin = parent[0].children(recursive=True)
        except psutil.NoSuchProcess:
            return "parent", lambda number: False
        children = [one for one in kin if "resource_tracker" not in " ".join(_words(one))]
        name = self.rng.choice(["parent", "parent", "group", "tree", *["child"] * 3])
        if name == "child" and children:
            child = self.rng.choice(children)
            name = "cell" if "harness.study.cell" in _words(child) else "worker"
            return name, lambda number: _send([child], number)
        if name == "group":  # as a terminal does; cells are in groups of their own
            return name, lambda number: _send_group(process, number)
        if name == "tree":
            everyone = self.rng.sample([*parent, *kin], len(kin) + 1)
            return name, lambda number: _send(everyone, number)
        return "parent", lambda number: _send(parent, number)

    def _end(self) -> int:
        """Wait for the command's end and look at what it left; its exit code, or that of the last one."""
        if self.process is None:
            return self.code
        try:
            self.code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._hang()
            self.code = 1
        self.process = None
        if left := left_after(self.run_dir, 5):
            self.story.fault("orphan", "; ".join(" ".join(_words(one)) or str(one) for one in left))
            _send(left, signal.SIGKILL)
        self._look_for_lies()
        return self.code

    def _hang(self) -> None:
        self.story.fault("hang", "the command neither ended nor came to the phase")
        _send(left_after(self.run_dir, 0), signal.SIGKILL)

    def _look_for_lies(self) -> None:
        done = set()
        for folder in self.run_dir.glob("cells/*"):
            end = time.monotonic() + 5
            while (status := read_status(folder)).state is State.RUNNING and time.monotonic() < end:
                time.sleep(0.05)  # the kernel is still taking the process apart
            if status.state is State.RUNNING:
                self.story.fault("lie", f"{folder.name} is said to run")
            if status.state is State.DONE:
                done.add(folder.name)
                whole = self.whole / "cells" / folder.name
                for path in [*answers(whole), *whole.rglob("*.safetensors")]:
                    mine = folder / path.relative_to(whole)
                    if not mine.is_file() or mine.read_bytes() != path.read_bytes():
                        self.story.fault("lie", f"{folder.name} is said to be done without its {path.name}")
        try:
            with _reading:
                shown = {cell.cell for cell in collect(self.run_dir).cells if cell.identity}
        except UserError:
            return
        except Exception as error:
            self.story.fault("lie", f"reading the results ends in {type(error).__name__}: {error}")
            return
        if shown - done:
            self.story.fault("lie", f"the report shows {shown - done}, which are not done")

    def _compare(self) -> None:
        for one in differences(self.run_dir, self.whole):
            self.story.fault("difference", one)
        for one in leftovers(self.run_dir, *([self.cache] if self.cache.parent == self.file.parent else [])):
            self.story.fault("leftover", one)


def study_of(folder: Path, design: str, cache: Path, seed: int) -> Path:
    """Write the study file of a design."""
    file = folder / "study.toml"
    return write_study(file, DESIGNS[design], cache, seed=seed, steps=STEPS, checkpoints=CHECKPOINTS, scenes=8)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _send(processes: list[psutil.Process], number: signal.Signals) -> bool:
    """Send a signal to what is alive; whether anything was."""
    hit = False
    for one in processes:
        try:
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                one.send_signal(number)
                hit = True
        except psutil.Error:
            continue
    return hit


def _send_group(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def untouched(design: str, folder: Path, cache: Path, seed: int) -> Path:
    """Run a design without a signal; its run directory."""
    folder.mkdir(parents=True)
    run_dir = folder / "run"
    if code := start(study_of(folder, design, cache, seed), run_dir, folder.parent / CODE).wait(600):
        raise RuntimeError(f"{design}: exit code {code} without any signal: {log_of(run_dir).read_text()}")
    return run_dir


def campaign(root: Path, studies: int, signals: int, seed: int, jobs: int, console: Console) -> list[Story]:
    """All studies, the untouched ones first."""
    for room in ROOMS:  # the checkout may change meanwhile
        shutil.copytree(ROOT / room, root / CODE / room, ignore=shutil.ignore_patterns("__pycache__"))
    cache, first = root / "cache", random.Random(seed).randrange(1000)
    with ThreadPoolExecutor(jobs) as pool:
        names = list(DESIGNS)[: min(studies, len(DESIGNS))]
        runs = list(pool.map(lambda name: untouched(name, root / name, cache, first), names))
        whole = dict(zip(names, runs, strict=True))
        console.print(f"{len(whole)} untouched studies are done")

        def one(number: int) -> Story:
            rng = random.Random(f"{seed} {number}")
            story, folder = Story(number, names[number % len(names)]), root / f"study-{number:03d}"
            fresh = number % FRESH_CACHE == FRESH_CACHE - 1 - number // FRESH_CACHE % FRESH_CACHE
            study = Study(folder, story, whole[story.design], folder / "cache" if fresh else cache, rng, first)
            share = (signals * (number + 1)) // studies - (signals * number) // studies
            study.live(min(max(share + rng.choice([0, 0, 1]), 2), 4), fresh)
            if not story.faults:
                shutil.rmtree(folder)
            told = first_few([f"{kind}: {text}" for kind, text in story.faults], "; ") or "as untouched"
            console.print(f"study {number} ({story.design}): {len(story.hits)} signals, {told}", highlight=False)
            return story

        return list(pool.map(one, range(studies)))


def table_of(stories: list[Story]) -> Table:
    """By phase, signal and target: signals that hit; and faults of the studies that they hit."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("Phase", "Signal", "Target", "Hits", "Differences", "Orphans", "Lies", "Leftovers", "Hangs"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("Phase", "Signal", "Target") else "right")
    kinds = ("difference", "orphan", "lie", "leftover", "hang")
    hits = Counter(hit for story in stories for hit in story.hits)
    for hit in sorted(hits, key=lambda one: (list(WAIT).index(one.phase), one.signal, one.target)):
        faults = Counter(kind for story in stories if hit in story.hits for kind, _ in story.faults)
        table.add_row(hit.phase, hit.signal, hit.target, str(hits[hit]), *(str(faults[kind]) for kind in kinds))
    faults = Counter(kind for story in stories for kind, _ in story.faults)
    table.add_row("all", "", "", str(hits.total()), *(str(faults[kind]) for kind in kinds), style="bold")
    return table


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--signals", type=int, default=250, help="over all studies, 2 to 4 each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where the folders of faulty studies stay")
    options = parser.parse_args()
    console, began = Console(width=120), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="kill-"))
    stories = campaign(root, options.studies, options.signals, options.seed, options.jobs, console)
    console.print(table_of(stories))
    faulty = [story for story in stories if story.faults]
    hits = sum(len(story.hits) for story in stories)
    console.print(f"{len(stories)} studies, {hits} signals that hit, {len(faulty)} studies with faults")
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes", highlight=False)
    if faulty and options.keep:
        shutil.copytree(root, options.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("cache", CODE))
        console.print(f"kept in {options.keep}", highlight=False)
    shutil.rmtree(root)
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
