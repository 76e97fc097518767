"""The matrix of a study: its cells, their folders, and what each still has to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version
from pydantic import Field, model_validator

from harness.api.config import StrictConfig
from harness.config.sections import RuntimeSection
from harness.config.study import BASE, StudyConfig, load_study
from harness.data.video.decode import DECODING
from harness.errors import UserError
from harness.io import digest_of, json_text, read_as, read_json, refuse_special, sha256_file, toml_text, write_json
from harness.outputs import Outputs, refuse_links
from harness.study.finished import FINISHED, Name, checked_status
from harness.study.identity import EvaluationIdentity, evaluation_identities, training_identity
from harness.study.status import State, Status, record_state
from harness.train.meter import COMPUTE_FILE, Consumption

PACKAGE = "vlm-harness"
CELLS = "cells"
MATRIX_FILE = "matrix.json"
CONFIG_FILE = "config.json"
LOG_FILE = "log.txt"
STUDY_FILE, STUDY_TOML = "study.json", "study.toml"
DESCRIPTION = "description.json"
"""What a report says of the data and the benchmarks, see :mod:`harness.study.description`."""
DECLARATION = "plan.json"
"""What was declared, and when, see :mod:`harness.study.declared`."""
AGAIN = "run `harness compare` again, with the run directory's study.toml"
"""What restores a document of a run directory."""


@dataclass(frozen=True)
class Cell:
    """One method on one model with one seed; the base model is the method ``base`` with seed 0.

    Attributes:
        method: A method or a variant of one, as the study names it, or ``base``.
        model: The model's name, made fit for a file name.
        seed: The repetition.
        hash8: The first 8 hex digits of the identity's digest.
        identity: All that the trained weights depend on; not the evaluation and not the machine.
        evaluation: All that the answers depend on, by benchmark.
        rollouts: Completions sampled per prompt, which decides the cost.
        suffix: Distinguishes its folder from that of a cell with the same training and another evaluation.
    """

    method: str
    model: str
    seed: int
    hash8: str
    identity: dict[str, Any] = field(compare=False, repr=False)
    evaluation: Mapping[str, EvaluationIdentity] = field(compare=False, repr=False)
    rollouts: int = field(default=0, compare=False)
    suffix: str = ""

    @property
    def algorithm(self) -> str:
        """The registered method, without a variant's changes, which are in the hash."""
        return self.method.partition(":")[0]

    @property
    def training(self) -> str:
        """Equal for cells with the same training."""
        return f"{self.algorithm}-{self.model}-s{self.seed}-{self.hash8}"

    @property
    def id(self) -> str:
        """The name of its folder."""
        return self.training + self.suffix

    @property
    def is_base(self) -> bool:
        return self.method == BASE

    def folder(self, run_dir: Path) -> Path:
        return run_dir / CELLS / self.id


class CellDocument(StrictConfig):
    """A cell's ``config.json``: all that its process needs to know.

    Attributes:
        cell: Its id.
        method: As the study names it, or ``base``.
        seed: The repetition.
        study: The study as the method sees it.
        identity: What the weights depend on.
        evaluation: What the answers depend on, by benchmark.
        plugins: SHA-256 of the plugin files that the study uses, by path.
    """

    cell: str
    method: str
    seed: int
    study: StudyConfig
    identity: dict[str, Any]
    evaluation: dict[str, EvaluationIdentity]
    plugins: dict[str, str] = Field(default_factory=dict)

    @property
    def base_digest(self) -> str:
        """What identifies the base model's weights."""
        return str(self.identity["model"]["digest"])

    @property
    def training(self) -> str:
        """What identifies the training; the checkpoints' manifests hold it."""
        return digest_of(self.identity)

    @property
    def elsewhere(self) -> StudyConfig:
        """The study without what its run directory says of the machine, except for what decides results."""
        own = self.study.runtime
        runtime = RuntimeSection(threads=own.threads, plugins=own.plugins)
        return self.study.model_copy(update={"runtime": runtime})

    @staticmethod
    def read(folder: Path) -> CellDocument:
        """Read that of a cell's folder.

        Raises:
            UserError: There is none, another version of this package wrote it, or it is not that of this cell.
        """
        found = read_as(CellDocument, folder / CONFIG_FILE, f"Another version wrote it; {AGAIN}")
        if found.cell != folder.name or f"-{found.training[:8]}" not in found.cell:
            raise UserError(f"`{folder / CONFIG_FILE}`: it is not that of this cell, or was edited; {AGAIN}")
        return found


class MatrixRow(StrictConfig):
    """A cell in ``matrix.json``, with the attributes of :class:`Cell`; ``id`` names its folder."""

    id: Name
    method: str
    model: str
    seed: int = Field(ge=0)
    hash8: str

    @model_validator(mode="after")
    def _is_named_by_its_parts(self) -> MatrixRow:
        name = Cell(self.method, self.model, self.seed, self.hash8, {}, {}).training
        if self.id != name and not self.id.startswith(f"{name}-"):
            raise ValueError(f"`id` is not {name}, as its other keys say")
        return self


class Matrix(StrictConfig):
    """``matrix.json``: what a run directory is about.

    Attributes:
        study: The study's name.
        data: Digests of the records, ``train`` and ``benchmark``.
        cells: In the order of the table.
        version: That of the package that wrote the run directory.
    """

    study: str
    data: dict[str, str]
    version: str = ""
    cells: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class CellWork:
    """What a cell still has to do.

    Attributes:
        cell: The cell.
        status: Its present status.
        trained: Whether its training is complete (always so for the base model).
        evaluated: Whether its answers to these benchmarks, with these settings, are complete.
    """

    cell: Cell
    status: Status
    trained: bool
    evaluated: bool

    @property
    def complete(self) -> bool:
        return self.trained and self.evaluated


def cells_of(
    study: StudyConfig, *, model_digest: str = "", train_digest: str = "", questions: Mapping[str, str] | None = None
) -> list[Cell]:
    """The cells of a study in the order of its table: the base model, then each method with each seed.

    Args:
        study: The resolved study.
        model_digest: What identifies the base model's weights. Without this and the following digests, cells have
            no valid ids and serve for counting and estimating only.
        train_digest: What identifies the training records.
        questions: What identifies each benchmark's questions.
    """
    questions = questions or {}
    model = study.model.model_dump(mode="json") | {"digest": model_digest}
    package = version(PACKAGE)
    data = study.data.model_dump(mode="json", exclude={"benchmark", "split", "benchmark_limit"}) | {
        "digest": train_digest,
        "decoding": DECODING,
    }
    evaluation = evaluation_identities(study, questions)
    cells = [_cell(study, 0, {"method": BASE, "model": model, "version": package}, evaluation)]
    for method in study.methods:
        algorithm, own = study.algorithm(method), study.for_method(method)
        shared = training_identity(own, method, algorithm) | {"model": model, "data": data, "version": package}
        turns = "-two-turns" if own.evaluation.two_turns else ""
        apart = (own.prompt.evaluation, own.evaluation) != (study.prompt.evaluation, study.evaluation)
        suffix = f"-{own.prompt.evaluation}{own.evaluation.max_new_tokens}{turns}" if apart else ""
        answers = evaluation_identities(own, questions)
        for seed in range(study.first_seed, study.first_seed + study.runs):
            cell = _cell(study, seed, shared | {"seed": seed}, answers)
            cells.append(replace(cell, method=method, rollouts=algorithm.needs.rollouts, suffix=suffix))
    return cells


def launch_order(works: Iterable[CellWork]) -> list[CellWork]:
    """The slow cells first, so that none runs alone at the end: methods that sample, other methods, base."""
    return sorted(works, key=lambda work: 2 if work.cell.is_base else 0 if work.cell.rollouts else 1)


def remaining_work(run_dir: Path, cells: Iterable[Cell]) -> list[CellWork]:
    """Whether each cell is trained and evaluated, from what its folder holds; the run directory need not exist."""
    found = []
    for cell in cells:
        folder = cell.folder(run_dir)
        status = checked_status(folder)
        done = status.state is State.DONE
        trained = cell.is_base or done or budget_spent(folder, cell)
        found.append(CellWork(cell, status, trained, done and _recorded_evaluation(folder) == _plain(cell.evaluation)))
    return found


def write_cell(run_dir: Path, study: StudyConfig, cell: Cell) -> None:
    """Prepare a cell's folder: what it needs to run, and the status ``pending``.

    What it consisted of with other settings is forgotten, so that it is not taken for finished with these.
    """
    folder = cell.folder(run_dir)
    (folder / FINISHED).unlink(missing_ok=True)
    record_state(folder, State.PENDING)
    document = CellDocument(
        cell=cell.id,
        method=cell.method,
        seed=cell.seed,
        study=study if cell.is_base else study.for_method(cell.method),
        identity=cell.identity,
        evaluation=dict(cell.evaluation),
        plugins={str(file): sha256_file(file) for file in study.runtime.plugins},
    )
    write_json(folder / CONFIG_FILE, document.model_dump(mode="json"))


def write_matrix(
    run_dir: Path, study: StudyConfig, cells: Iterable[Cell], *, train_digest: str, benchmark_digest: str
) -> None:
    """Write ``study.toml``, ``study.json`` and ``matrix.json``, which the report is built from.

    A ``study.toml`` of the user's that says the same stays as it is.

    Raises:
        UserError: As :func:`check_output`.
    """
    check_output(run_dir, study)
    document, outputs = study.model_dump(mode="json"), Outputs(run_dir)
    if not _is_described(run_dir, study):
        outputs.write(STUDY_TOML, toml_text(document).encode())
    outputs.write(STUDY_FILE, json_text(document).encode())
    rows = [MatrixRow(id=c.id, method=c.method, model=c.model, seed=c.seed, hash8=c.hash8) for c in cells]
    digests = {"train": train_digest, "benchmark": benchmark_digest}
    found = Matrix(study=study.name, data=digests, cells=tuple(rows), version=version(PACKAGE))
    outputs.write(MATRIX_FILE, json_text(found.model_dump(mode="json")).encode())


def check_output(run_dir: Path, study: StudyConfig) -> None:
    """Refuse a run directory in which files of the user's are in the way of the study's.

    Raises:
        UserError: As :meth:`harness.outputs.Outputs.check`; or a newer version wrote it.
    """
    names = [
        STUDY_FILE,
        MATRIX_FILE,
        DESCRIPTION,
        DECLARATION,
        *([] if _is_described(run_dir, study) else [STUDY_TOML]),
    ]
    Outputs(run_dir).check(names)
    if (run_dir / MATRIX_FILE).is_file():
        _refuse_newer(run_dir / MATRIX_FILE)
    check_cells(run_dir)


def check_cells(run_dir: Path) -> None:
    """Refuse cells that are elsewhere, behind a link.

    Raises:
        UserError: There is a link; it is named.
    """
    refuse_links(run_dir, CELLS, besides=["trackers"])  # some trackers make links themselves
    for log in run_dir.glob(f"{CELLS}/*/{LOG_FILE}"):
        refuse_special(log)


def _is_described(run_dir: Path, study: StudyConfig) -> bool:
    """Whether the run directory's ``study.toml`` says the same as the study, perhaps with the user's comments."""
    path = run_dir / STUDY_TOML
    if not path.is_file() or path.is_symlink():
        return False
    try:
        found = load_study(str(path), run_plugins=False)
    except UserError:
        return False
    threads = found.runtime.threads or study.runtime.threads  # 0: those of the run directory
    return found.model_copy(update={"runtime": found.runtime.model_copy(update={"threads": threads})}) == study


def read_matrix(run_dir: Path) -> Matrix:
    """Read ``matrix.json``.

    Raises:
        UserError: The folder is not a run directory, a newer version wrote it, or the file is damaged.
    """
    path = run_dir / MATRIX_FILE
    if not path.is_file():
        below = " ".join(str(one.parent) for one in sorted(run_dir.glob(f"*/{MATRIX_FILE}")))
        fix = f"name those in it: {below}" if below else "`harness compare` makes one"
        raise UserError(f"`{run_dir}`: not a run directory (it has no {MATRIX_FILE}); {fix}")
    _refuse_newer(path)
    return read_as(Matrix, path, f"Delete it and {AGAIN}")


def _refuse_newer(path: Path) -> None:
    """Of a newer version nothing but its number is read."""
    document = read_json(path)
    written = document.get("version") if isinstance(document, dict) else None
    with suppress(InvalidVersion):
        if isinstance(written, str) and Version(written) > Version(version(PACKAGE)):
            raise UserError(
                f"`{path}`: {PACKAGE} {written} wrote this run directory, and this is {version(PACKAGE)}; install that "
                "version, or choose another folder with --out"
            )


def _cell(
    study: StudyConfig, seed: int, identity: dict[str, Any], evaluation: Mapping[str, EvaluationIdentity]
) -> Cell:
    model = model_folder(study.model.name)
    return Cell(identity["method"], model, seed, digest_of(identity)[:8], identity, evaluation)


def model_folder(name: str) -> str:
    """A model's name, made fit for a file name."""
    return re.sub(r"[^\w.+]+", "_", name.rstrip("/").rsplit("/", 1)[-1]) or "model"


def budget_spent(folder: Path, cell: Cell) -> bool:
    """Whether a cell's training is complete, by its recorded consumption."""
    path, budget = folder / COMPUTE_FILE, cell.identity["budget"]
    return path.is_file() and getattr(read_consumption(folder), budget["kind"]) >= budget["amount"]


def read_consumption(folder: Path) -> Consumption:
    """What a cell's training has consumed.

    Raises:
        UserError: There is no record of it, or it is damaged.
    """
    return read_as(Consumption, folder / COMPUTE_FILE, f"Delete it and {AGAIN}")


def _recorded_evaluation(folder: Path) -> Any:
    """As JSON: a document that cannot be read in full, because of a missing plugin, still answers this."""
    path = folder / CONFIG_FILE
    return read_as(dict[str, Any], path, f"Delete it and {AGAIN}").get("evaluation") if path.is_file() else None


def _plain(evaluation: Mapping[str, EvaluationIdentity]) -> dict[str, Any]:
    return {name: one.model_dump() for name, one in evaluation.items()}
