"""The matrix of a study: which cells it has, what identifies each, and what is left to do."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from harness.api.algorithm import Algorithm, Method
from harness.api.guest import GuestTrainer
from harness.config.study import BASE, StudyConfig
from harness.config.variants import parse_variant
from harness.errors import UserError
from harness.io import digest_of, read_json, toml_text, write_json, write_text
from harness.plugins import registry
from harness.study.status import State, Status, read_status, recorded_status, write_status
from harness.vsibench.prompts import prompts_digest

CELLS = "cells"
MATRIX_FILE = "matrix.json"
CONFIG_FILE = "config.json"
COMPUTE_FILE = "compute.json"


@dataclass(frozen=True)
class Cell:
    """One method on one model with one seed; the base model is the method ``base`` with seed 0.

    Attributes:
        method: A method or a variant of one, as the study names it, or ``base``.
        model: The model's name, made fit for a file name.
        seed: The repetition.
        hash8: The first 8 hex digits of the identity's digest.
        identity: All that the trained weights depend on; evaluation and machine are no part of it.
        rollouts: Completions sampled per prompt, which decides what it costs.
        evaluation: What of the evaluation's identity is its own, where a variant is evaluated in another prompt mode.
        suffix: Tells its folder from that of a cell with the same training and another evaluation.
    """

    method: str
    model: str
    seed: int
    hash8: str
    identity: dict[str, Any] = field(compare=False, repr=False)
    rollouts: int = field(default=0, compare=False)
    evaluation: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    suffix: str = ""

    @property
    def algorithm(self) -> str:
        """The registered method, without what a variant changes: that is in the hash."""
        return self.method.partition(":")[0]

    @property
    def training(self) -> str:
        """What is equal for cells that train the same."""
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


@dataclass(frozen=True)
class Work:
    """What is left to do of one cell.

    Attributes:
        cell: The cell.
        status: Its status as it reads now.
        trained: Whether its training is complete (always so for the base model).
        evaluated: Whether its answers to this benchmark, with these settings, are complete.
    """

    cell: Cell
    status: Status
    trained: bool
    evaluated: bool

    @property
    def complete(self) -> bool:
        return self.trained and self.evaluated


def plan(study: StudyConfig, *, model_digest: str, train_digest: str) -> list[Cell]:
    """The cells of a study in the order of its table: the base model, then each method with each seed.

    Args:
        study: The resolved study.
        model_digest: What identifies the base model's weights.
        train_digest: What identifies the training records.
    """
    model = study.model.model_dump(mode="json") | {"digest": model_digest}
    package = version("vlm-harness")
    data = study.data.model_dump(mode="json", exclude={"benchmark", "split", "benchmark_limit"}) | {
        "digest": train_digest
    }
    cells = [_cell(study, 0, {"method": BASE, "model": model, "version": package})]
    for method in study.methods:
        algorithm, own = study.algorithm(method), study.for_method(method)
        shared = _method_identity(own, method, algorithm) | {"model": model, "data": data, "version": package}
        apart = {key: value for key, value in _evaluated(own).items() if value != _evaluated(study)[key]}
        turns = "-two-turns" if own.evaluation.two_turns else ""
        suffix = f"-{own.prompt.evaluation}{own.evaluation.max_new_tokens}{turns}" if apart else ""
        for seed in seeds_of(study):
            cell = _cell(study, seed, shared | {"seed": seed})
            cells.append(
                replace(cell, method=method, rollouts=algorithm.needs.rollouts, evaluation=apart, suffix=suffix)
            )
    return cells


def seeds_of(study: StudyConfig) -> range:
    """The seeds of every method of a study."""
    return range(study.first_seed, study.first_seed + study.seeds)


def launch_order(cells: Iterable[Cell]) -> list[Cell]:
    """The costly cells first, so that no slow one is left alone at the end: rollouts, training, base."""

    def cost_class(cell: Cell) -> int:
        return 2 if cell.is_base else 0 if cell.rollouts else 1

    return sorted(cells, key=cost_class)


def evaluation_identity(study: StudyConfig, benchmark_digest: str) -> dict[str, Any]:
    """What the stored answers depend on beside the weights. The scorer is not part of it: answers are raw."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    more = {name: _more(name, options) for name, options in study.evaluation.more.items()}
    found = {
        "engine": f"transformers {version('transformers')}, torch {version('torch')}, {device}",
        "frames": study.data.model_dump(mode="json", include={"frames", "min_pixels", "max_pixels", "stills_rate"}),
        "digest": benchmark_digest,
    }
    return _evaluated(study) | found | ({"more": more} if more else {})


def missing_work(run_dir: Path, cells: Iterable[Cell], evaluation: dict[str, Any]) -> list[Work]:
    """Say of each cell whether it is trained and whether it is evaluated, from what its folder holds.

    Args:
        run_dir: The run directory; it need not exist.
        cells: The cells of the plan.
        evaluation: As :func:`evaluation_identity` gives it; what is a cell's own replaces it.
    """
    found = []
    for cell in cells:
        folder = cell.folder(run_dir)
        status = read_status(folder)
        done = status.state is State.DONE
        trained = cell.is_base or done or budget_spent(folder, cell)
        evaluated = done and _stored_evaluation(folder) == evaluation | cell.evaluation
        found.append(Work(cell, status, trained, evaluated))
    return found


def write_cell(run_dir: Path, study: StudyConfig, cell: Cell, evaluation: dict[str, Any]) -> None:
    """Prepare a cell's folder: what it needs to run, and the status ``pending``."""
    folder = cell.folder(run_dir)
    status = recorded_status(folder)
    write_status(folder, status.model_copy(update={"state": State.PENDING, "reason": ""}))
    document = {
        "cell": cell.id,
        "method": cell.method,
        "seed": cell.seed,
        "study": (study if cell.is_base else study.for_method(cell.method)).model_dump(mode="json"),
        "identity": cell.identity,
        "evaluation": evaluation | cell.evaluation,
    }
    write_json(folder / CONFIG_FILE, document)


def write_matrix(
    run_dir: Path, study: StudyConfig, cells: Iterable[Cell], *, train_digest: str, benchmark_digest: str
) -> None:
    """Write ``study.toml``, ``study.json`` and ``matrix.json``, from which the report is rebuilt."""
    document = study.model_dump(mode="json")
    write_text(run_dir / "study.toml", toml_text(document))
    write_json(run_dir / "study.json", document)
    rows = [{"id": c.id, "method": c.method, "model": c.model, "seed": c.seed, "hash8": c.hash8} for c in cells]
    digests = {"train": train_digest, "benchmark": benchmark_digest}
    write_json(run_dir / MATRIX_FILE, {"study": study.name, "data": digests, "cells": rows})


def read_matrix(run_dir: Path) -> dict[str, Any]:
    """The matrix as :func:`write_matrix` wrote it.

    Raises:
        UserError: The folder is not a run directory.
    """
    path = run_dir / MATRIX_FILE
    if not path.is_file():
        raise UserError(f"`{run_dir}`: not a run directory (it has no {MATRIX_FILE}); `harness compare` makes one")
    matrix: dict[str, Any] = read_json(path)
    return matrix


def _cell(study: StudyConfig, seed: int, identity: dict[str, Any]) -> Cell:
    model = re.sub(r"[^\w.+]+", "_", study.model.name.rstrip("/").rsplit("/", 1)[-1]) or "model"
    return Cell(identity["method"], model, seed, digest_of(identity)[:8], identity)


def _more(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the answers to a further benchmark depend on; reading its questions finds a wrong file early."""
    found = registry.create("benchmarks", name, options).dataset()
    return {"options": options, "digest": None if found is None else found.digest}


def _evaluated(study: StudyConfig) -> dict[str, Any]:
    """What answers depend on and a variant may have for itself."""
    return {
        "settings": study.evaluation.model_dump(mode="json", exclude={"scorer", "more"}),
        "prompt": f"{study.prompt.evaluation}/{prompts_digest()}",
    }


def _method_identity(study: StudyConfig, method: str, algorithm: Method) -> dict[str, Any]:
    """By resolved values: ``grpo`` and ``grpo:beta=0.0001`` are one cell. ``study`` is the method's own view of it."""
    versions = {"versions": dict(algorithm.versions())} if isinstance(algorithm, GuestTrainer) else {}
    return versions | {
        "method": parse_variant(method).method,
        "hyper_parameters": algorithm.config.model_dump(mode="json"),
        "method_source": _source_digest(type(algorithm)),
        "train": study.train_for(method).model_dump(mode="json"),
        "prompt": {"train": study.prompt.train},
        "reward": study.reward.model_dump(mode="json"),
        "rollout": study.rollout.model_dump(mode="json"),
        "budget": study.budget.model_dump(mode="json"),
    }


def _source_digest(cls: type) -> str:
    """Of the files of a method and of the methods that it inherits from."""
    own_classes = (Method, Algorithm, GuestTrainer)
    digest = hashlib.sha256()
    files: dict[str, None] = {}
    for part in cls.__mro__:
        if part not in own_classes and issubclass(part, Method):
            file = inspect.getsourcefile(part)
            if file is None:
                raise UserError(f"{part.__module__}.{part.__qualname__}: its source file is not to be found")
            files[file] = None
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def budget_spent(folder: Path, cell: Cell) -> bool:
    """Whether a cell's training is complete, by what it recorded of its consumption."""
    path, budget = folder / COMPUTE_FILE, cell.identity["budget"]
    return path.is_file() and float(read_json(path).get(budget["kind"], 0)) >= budget["amount"]


def _stored_evaluation(folder: Path) -> Any:
    path = folder / CONFIG_FILE
    return read_json(path).get("evaluation") if path.is_file() else None
