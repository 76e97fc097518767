"""Does anything but a clear refusal come of a damaged input? Mutated files and words go through the product's doors.

Run by hand, from the root of a checkout::

    python tests/benchmarks/fuzz.py                              # 10,000 inputs, all targets
    python tests/benchmarks/fuzz.py --inputs 500 --seed 7 --jobs 1
    python tests/benchmarks/fuzz.py --target records --only 17   # one input again, with its traceback

An input is accepted, refused (a ``UserError``) or a fault: any other exception, something nonsensical that was
accepted, more than 20 seconds of the processor or 2 GB, a write outside the input's folder, a connection to the
network, or the end of the process. What an input is depends on the seed, the target and its number alone. A table is
printed; the folders of faults are kept, and the exit code is 1 if there are any.

The inputs are mutations of valid files, made by hand in ``fuzz_mutations.py`` and not by hypothesis: what is wanted is
not a smallest example but a process to end when it hangs, grows or dies.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz_worker import SECONDS, TARGETS, Case, Outcome, make_seeds, serve
from rich.table import Table

from harness.console import Console

_PATIENCE = 60
"""Seconds beyond the limit, by the clock on the wall, until a process that does not end its case itself is killed."""


class Worker:
    """A process that works on one case at a time; a new one takes its place when it hangs or dies."""

    def __init__(self, folder: Path, seeds: Path, seed: int) -> None:
        self.folder, self._arguments = folder, (folder, seeds, seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["fuzz_worker"])
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, case: Case) -> Outcome:
        started = time.monotonic()
        self._pipe.send(case)
        try:
            if self._pipe.poll(SECONDS + _PATIENCE):
                found: Outcome = self._pipe.recv()
                return found
            kind = "hang"
        except EOFError:
            kind = "crash"
        self._process.kill()
        self._process.join()
        code = self._process.exitcode
        self._start()
        return Outcome(case, kind, f"the process ended with exit code {code}", kind, time.monotonic() - started)

    def end(self) -> None:
        self._pipe.close()  # which ends its loop
        self._process.join(_PATIENCE)
        self._process.kill()


def cases(inputs: int, shares: dict[str, float]) -> Iterator[Case]:
    """The inputs of a campaign: each target's share of them, interleaved, so that a short campaign touches all."""
    counts = {name: max(1, round(inputs * share / sum(shares.values()))) for name, share in shares.items()}
    for number in range(max(counts.values())):
        yield from (Case(name, number) for name, count in counts.items() if number < count)


def campaign(work: Sequence[Case], seed: int, jobs: int, root: Path, keep: Path) -> list[Outcome]:
    """The outcomes of some cases, in any order."""
    seeds = root / "seeds"
    maker = multiprocessing.get_context("forkserver").Process(target=make_seeds, args=(seeds,))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit("the valid files could not be made")
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    workers = [Worker(root / f"worker-{number}", seeds, seed) for number in range(jobs)]
    for worker in workers:
        free.put(worker)

    def run(case: Case) -> Outcome:
        worker = free.get()
        try:
            outcome = worker.run(case)
            if outcome.is_fault:
                _keep(worker.folder / "case", keep / f"{case.target}-{case.number}", outcome)
            return outcome
        finally:
            free.put(worker)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(run, work))
    finally:
        for worker in workers:
            worker.end()


def _keep(folder: Path, place: Path, outcome: Outcome) -> None:
    shutil.rmtree(place, ignore_errors=True)
    if folder.is_dir():
        with contextlib.suppress(shutil.Error):  # pipes are left out
            shutil.copytree(folder, place, symlinks=True)
    place.mkdir(parents=True, exist_ok=True)
    (place / "FAULT.txt").write_text(f"{outcome.kind}\n{outcome.detail}\n", encoding="utf-8", errors="replace")


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """One row a target, and their sum."""
    table = Table("target", *("inputs", "accepted", "refused", "faults", "slowest, s", "peak memory, MiB"))
    for column in table.columns[1:]:
        column.justify = "right"
    targets = list(dict.fromkeys(one.case.target for one in outcomes))
    for name in (*targets, "all"):
        mine = [one for one in outcomes if name in ("all", one.case.target)]
        accepted, refused = (sum(one.kind == kind for one in mine) for kind in ("accepted", "refused"))
        numbers = (len(mine), accepted, refused, sum(one.is_fault for one in mine))
        slowest, peak = max(one.seconds for one in mine), max(one.peak for one in mine)
        table.add_row(
            name,
            *(f"{number:,}" for number in numbers),
            f"{slowest:.1f}",
            f"{peak / 2**20:,.0f}",
            style="bold" if name == "all" else "",
        )
    return table


def main() -> int:
    """Run a campaign and print its table; 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs of all targets together")
    parser.add_argument("--seed", type=int, default=0, help="what the mutations are drawn from")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; repeatable")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="only this input of the target")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="where the folders of faults go")
    options = parser.parse_args()
    shares = {name: share for name, (_, share) in TARGETS.items() if not options.target or name in options.target}
    work = list(cases(options.inputs, shares))
    if options.only is not None:
        work = [Case(name, options.only) for name in shares]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        outcomes = campaign(work, options.seed, options.jobs, Path(name).resolve(), options.keep.resolve())
    console = Console(width=max(120, Console().width))
    console.print(table_of(outcomes))
    console.print(f"seed {options.seed}, {options.jobs} processes, {time.monotonic() - started:.0f} s", highlight=False)
    if options.only is not None:
        for one in outcomes:
            detail = one.detail.encode(errors="replace").decode()
            console.print(f"{one.case.target} {one.case.number}: {one.kind}\n{detail}", markup=False)
    faults: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if one.is_fault:
            faults.setdefault(f"{one.case.target}: {one.kind}: {one.where}", []).append(one)
    for name, found in sorted(faults.items(), key=lambda item: len(item[1]), reverse=True):
        example = found[0].case
        console.print(f"{len(found)} x {name} (--target '{example.target}' --only {example.number})", markup=False)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
