"""The manifest of an evaluation, and what it asked, for whoever scores its answers later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.api.benchmark import Benchmark
from harness.api.config import StrictConfig
from harness.data.reader import Dataset, read_dataset
from harness.data.sources import is_ready, resolve_source
from harness.errors import UserError, first_few
from harness.io import digest_of, read_json, read_sealed, sha256_file, write_sealed
from harness.plugins import registry
from harness.vsibench.records import Record

SAMPLES = "samples.jsonl"
MANIFEST = "manifest.json"

DEFAULT_RULES = "vsibench"
"""The benchmark whose rules score answers of unknown origin."""

_FIX = "name the very records that were evaluated (--benchmark; in a run directory, restore them)"


class Asked(StrictConfig):
    """What was asked.

    Attributes:
        benchmark: The registered name of the benchmark, whose rules score the answers.
        options: Its options.
        source: Where the questions were read from, as ``data.benchmark`` names it; empty if unknown.
        mode: The prompt mode; it decides which part of an answer is scored.
        ids: The questions, in their order.
        questions: Digest of what they ask.
    """

    benchmark: str = DEFAULT_RULES
    options: dict[str, Any] = Field(default_factory=dict)
    source: str = ""
    mode: str
    ids: tuple[str, ...]
    questions: str

    def of(self, records: Sequence[Record], path: Path) -> list[Record]:
        """The records that were asked, out of a benchmark's.

        Args:
            records: The benchmark's.
            path: The file of answers, for messages.

        Raises:
            UserError: Some are not there, or ask something else.
        """
        by_key = {record.key: record for record in records}
        if lacking := [key for key in self.ids if key not in by_key]:
            raise UserError(
                f"{path}: the benchmark lacks {len(lacking)} of the {len(self.ids)} questions that were asked "
                f"({first_few(lacking)}); {_FIX}"
            )
        found = [by_key[key] for key in self.ids]
        if digest_of_questions(found) != self.questions:
            raise UserError(f"{path}: other questions were asked than the benchmark has under their ids; {_FIX}")
        return found


class EvaluationManifest(StrictConfig):
    """``manifest.json`` of the answers of one checkpoint to one benchmark.

    Attributes:
        identity: What the answers depend on.
        n: Questions.
        asked: What was asked; None in those of older versions.
        complete: Whether all are answered.
        samples: SHA-256 of the answers; set when they are complete.
    """

    identity: dict[str, str]
    n: int = Field(ge=0)
    asked: Asked | None = None
    complete: bool
    samples: str | None = None

    @staticmethod
    def read(folder: Path) -> EvaluationManifest:
        """Read that of a folder of answers.

        Raises:
            UserError: It is missing or damaged.
        """
        path = folder / MANIFEST
        return read_sealed(EvaluationManifest, path, f"To evaluate again, delete {folder} and run the same command")

    def write(self, folder: Path) -> None:
        """Write it into a folder of answers."""
        write_sealed(folder / MANIFEST, self.model_dump(mode="json", exclude_none=True))

    def is_of(self, samples: Path) -> bool:
        """Whether a file holds the answers that the evaluation wrote."""
        return samples.is_file() and self.samples == sha256_file(samples)


def digest_of_questions(records: Sequence[Record]) -> str:
    """SHA-256 of what some records ask, and of the right answers."""
    return digest_of([[r.key, r.question_type, r.question, r.options, r.ground_truth] for r in records])


def read_asked(path: Path) -> Asked | None:
    """What the evaluation asked that wrote a file of answers; None if the file is not an evaluation's own.

    Raises:
        UserError: The evaluation is not complete, or the file was changed since.
    """
    beside = path.with_name(MANIFEST)
    if path.name != SAMPLES or not beside.is_file():
        return None
    document = read_json(beside)
    if not isinstance(document, dict) or "asked" not in document:
        return None
    manifest = EvaluationManifest.read(path.parent)
    if (asked := manifest.asked) is None:
        return None
    if not manifest.complete:
        raise UserError(
            f"`{path}`: this evaluation of {len(asked.ids)} questions is not complete; run the same command again to "
            "complete it"
        )
    if not manifest.is_of(path):
        raise UserError(
            f"`{path}`: its content is not what the evaluation wrote (digest differs); copy a file that was edited on "
            "purpose to another name"
        )
    return asked


def rules_and_questions(
    files: Sequence[Path], wanted: str | None, split: str | None, cache: Path | None
) -> tuple[Benchmark, Dataset]:
    """The benchmark that files of answers are scored by, and its questions.

    Args:
        files: The answers; where an evaluation wrote them, its manifest names the benchmark.
        wanted: ``SOURCE``, ``NAME`` or ``NAME=SOURCE``, where NAME is a registered benchmark.
        split: The split of the source, if it names none itself.
        cache: Folder for generated data.

    Raises:
        UserError: The files answer different benchmarks, or the questions cannot be found.
    """
    told = {path: asked for path in files if (asked := read_asked(path)) is not None}
    names = {asked.benchmark: path for path, asked in told.items()}
    if len(names) > 1:
        raise UserError(
            "the files answer different benchmarks and must not be compared: "
            + ", ".join(f"{path} {name}" for name, path in names.items())
        )
    first = next(iter(told.values()), None)
    name, options, source = (first.benchmark, first.options, first.source) if first else (DEFAULT_RULES, {}, "")
    if wanted is not None:
        head, _, source = wanted.partition("=")
        if head not in registry.names("benchmarks") or Path(wanted).exists():
            head, source = name, wanted
        if names and head != name:
            raise UserError(f"`--benchmark {wanted}`: {names[name]} has answers to {name}, not to {head}")
        name = head
    if source and (wanted or first is None) and registry.load("benchmarks", name).own_questions:
        options = {**options, "file": source}
    if wanted is not None and not registry.load("benchmarks", name).own_questions:
        options = {}
    _refuse_to_fetch(wanted, str(options.get("file") or ""), next(iter(told), None), cache or Path("cache"))
    rules: Benchmark = registry.create("benchmarks", name, options)
    if (own := rules.questions()) is not None:
        return rules, Dataset(Path(own.source), name, own.records)
    if not source:
        raise UserError("`--benchmark`: name the records that were answered, for example --benchmark data/vsi-bench")
    if split and ("#" in source or source.startswith("world:")):
        raise UserError(f"`--split {split}`: `{source}` names its split itself; leave one out")
    named, cache = source if split is None else f"{source}#{split}", cache or Path("cache")
    _refuse_to_fetch(wanted, named, next(iter(told), None), cache)
    root, found = resolve_source(named, cache)
    # Which questions count is known where an evaluation wrote the files, so a bad record was not among them.
    return rules, read_dataset(root, found, check_videos=False, skip_bad=bool(told), types=rules.types)


def _refuse_to_fetch(wanted: str | None, named: str, file: Path | None, cache: Path) -> None:
    """Refuse questions that only a file of answers names, and that would be generated or downloaded.

    Raises:
        UserError: They would be.
    """
    if wanted is None and named and not is_ready(named, cache):
        raise UserError(
            f"`{file}`: it answers {named}, which is not here, and is neither generated nor downloaded "
            f"because a file says so; ask for it with --benchmark {named}"
        )
