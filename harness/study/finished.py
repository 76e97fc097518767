"""What a finished cell consists of: its checkpoints and answers by digest, sealed when the last evaluation is complete.

A cell counts as done only while its folder holds just that, so a result is never taken from another checkpoint, another
cell or an edited file. The digests guard against accidents and edits by hand, not against who recomputes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from harness.api.config import StrictConfig
from harness.errors import UserError
from harness.io import read_sealed, sha256_file, write_sealed
from harness.study.asked import MANIFEST, SAMPLES, EvaluationManifest
from harness.study.setup import ENVIRONMENT_FILE
from harness.study.status import State, Status, read_status
from harness.train.meter import COMPUTE_FILE
from harness.train.tracking import METRICS_FILE

FINISHED = "finished.json"
Name = Annotated[str, Field(pattern=r"^[^./\\\x00][^/\\\x00]*$")]
"""Of a file or folder in the one that is read, and nowhere else."""
AGAIN = "run the same `harness compare` again, which restores it"


class Finished(StrictConfig):
    """``finished.json`` of a cell.

    Attributes:
        cell: Its id, the name of its folder.
        method: As the study names it, or ``base``.
        seed: The repetition.
        weights: What identifies the weights of each checkpoint, by its folder's name, in the order of training.
        answers: SHA-256 of the answers by benchmark, in the order of ``weights``.
        files: SHA-256 of what was recorded of training and of the machine, by file name.
    """

    cell: str
    method: str
    seed: int = Field(ge=0)
    weights: dict[Annotated[str, Field(pattern=r"^step-\d{6,18}$")], str] = Field(min_length=1)
    answers: dict[Name, tuple[str, ...]]
    files: dict[Name, str]

    @model_validator(mode="after")
    def _answers_are_of_the_weights(self) -> Finished:
        if any(len(digests) != len(self.weights) for digests in self.answers.values()):
            raise ValueError("`answers` are not one for each of the `weights`")
        return self

    def evaluations(self, folder: Path, benchmark: str) -> list[Path]:
        """The folders of a benchmark's answers, in the order of training; none if the cell was not asked."""
        return [folder / benchmark / name for name in self.weights] if benchmark in self.answers else []

    def check(self, folder: Path) -> None:
        """Refuse a cell's folder that holds something else.

        Raises:
            UserError: It is another cell's; or a file of it is missing, stale or was changed.
        """
        if self.cell != folder.name:
            raise UserError(f"`{folder / FINISHED}`: it is that of the cell {self.cell}; {AGAIN}")
        for name, digest in self.files.items():
            if not (folder / name).is_file() or sha256_file(folder / name) != digest:
                raise UserError(f"`{folder / name}`: missing, or not what the cell wrote; {AGAIN}")
        for benchmark, digests in self.answers.items():
            for evaluation, weights, digest in zip(
                self.evaluations(folder, benchmark), self.weights.values(), digests, strict=True
            ):
                if not (evaluation / MANIFEST).is_file():
                    raise UserError(f"`{evaluation}`: its answers are missing; {AGAIN}")
                manifest = EvaluationManifest.read(evaluation)
                if (manifest.identity.get("weights"), manifest.samples) != (weights, digest):
                    raise UserError(f"`{evaluation}`: its answers are not those of this checkpoint; {AGAIN}")
                if not manifest.is_of(evaluation / SAMPLES):
                    raise UserError(f"`{evaluation / SAMPLES}`: missing, or not what the evaluation wrote; {AGAIN}")


def write_finished(folder: Path, method: str, seed: int, weights: Mapping[str, str], benchmarks: Iterable[str]) -> None:
    """Seal a cell whose evaluations are all complete.

    Args:
        folder: The cell's.
        method: As the study names it, or ``base``.
        seed: The repetition.
        weights: As :class:`Finished` has it.
        benchmarks: Those that were answered.
    """
    document = Finished(
        cell=folder.name,
        method=method,
        seed=seed,
        weights=dict(weights),
        answers={
            name: tuple(EvaluationManifest.read(folder / name / step).samples or "" for step in weights)
            for name in benchmarks
        },
        files={
            name: sha256_file(folder / name)
            for name in (COMPUTE_FILE, METRICS_FILE, ENVIRONMENT_FILE)
            if (folder / name).is_file()
        },
    )
    write_sealed(folder / FINISHED, document.model_dump(mode="json"))


def read_finished(folder: Path) -> Finished:
    """Read what a cell consists of, and check that its folder holds it.

    Raises:
        UserError: The cell is not finished, or its folder holds something else; the file is named.
    """
    if not (folder / FINISHED).exists():
        raise UserError(f"`{folder / FINISHED}`: missing, or this folder is of an older version; {AGAIN}")
    found = read_sealed(Finished, folder / FINISHED, f"To restore it, {AGAIN}")
    found.check(folder)
    return found


def checked_status(folder: Path) -> Status:
    """A cell's status, where ``done`` is believed only if the folder holds all that the finished cell consists of."""
    status = read_status(folder)
    if status.state is State.DONE:
        try:
            read_finished(folder)
        except UserError as error:
            return status.model_copy(update={"state": State.INTERRUPTED, "reason": str(error)})
    return status
