"""Do the tests notice a wrong line? Each mutation changes one line of the source; the tests beside it must then fail.

Run by hand, from the root of a checkout::

    python tests/benchmarks/mutate.py                 # all, two at a time
    python tests/benchmarks/mutate.py clip --jobs 1   # those whose source file or text contains the word

Every mutation is made in a copy of the checkout, so the working tree stays as it is. A mutation whose line is no longer
there, or is there more than once, is an error: the table (``mutations.toml``) has to follow the code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from harness.console import Console

ROOT = Path(__file__).parents[2]
COPIED = ("harness", "algorithms", "rewards", "reports", "tests")
SECONDS = 600
NO_TEST_RAN = (4, 5)
"""Pytest's exit codes for a wrong command line and for no test collected: neither says anything about the mutation."""


@dataclass(frozen=True)
class Mutation:
    """One changed line.

    Attributes:
        file: The source file, from the root.
        old: Text that stands in it exactly once.
        new: What it becomes.
        tests: What pytest is given.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def run(self) -> str:
        """``caught``, or ``survived``.

        Raises:
            ValueError: The line is not there exactly once, or no test ran.
        """
        source = (ROOT / self.file).read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file}: {self.old!r} is there {source.count(self.old)} times, not once")
        with tempfile.TemporaryDirectory(prefix="mutation-") as name:
            copy = Path(name)
            for part in COPIED:
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "examples"))
            for part in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile"):
                shutil.copy(ROOT / part, copy / part)
            (copy / self.file).write_text(source.replace(self.old, self.new), encoding="utf-8")
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *self.tests]
            environment = os.environ | {"PYTHONPATH": name, "OMP_NUM_THREADS": "1"}
            ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS)
        if ended.returncode in NO_TEST_RAN:
            raise ValueError(f"{self.file}: no test ran: {ended.stdout[-300:]}{ended.stderr[-300:]}")
        return "caught" if ended.returncode else "survived"


def read_mutations() -> list[Mutation]:
    """The table beside this file."""
    document = tomllib.loads((Path(__file__).parent / "mutations.toml").read_text(encoding="utf-8"))
    return [Mutation(row["file"], row["old"], row["new"], tuple(row["tests"])) for row in document["mutation"]]


def main() -> int:
    """Run the mutations and print a table; 1 if one survives or cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("word", nargs="?", default="", help="only mutations whose file or text contains it")
    parser.add_argument("--jobs", type=int, default=2, help="mutations at a time")
    options = parser.parse_args()
    chosen = [one for one in read_mutations() if options.word in f"{one.file} {one.old} {one.new}"]

    def outcome(one: Mutation) -> str:
        try:
            found = one.run()
        except (ValueError, subprocess.TimeoutExpired) as error:
            found = f"error: {error}"
        print(f"{found:10.10} {one.file}: {one.new.strip()[:80]}", file=sys.stderr, flush=True)
        return found

    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(outcome, chosen))
    table = Table("file", "line", "becomes", "outcome")
    for one, found in zip(chosen, outcomes, strict=True):
        table.add_row(one.file, one.old.strip(), one.new.strip(), found)
    console = Console(width=200)
    console.print(table)
    console.print(f"{sum(found == 'caught' for found in outcomes)} of {len(chosen)} caught")
    return int(any(found != "caught" for found in outcomes))


if __name__ == "__main__":
    sys.exit(main())
