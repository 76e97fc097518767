"""The status of a cell: a small file that the cell writes and others read."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import UserError
from harness.io import read_as, write_json
from harness.life import Writer, age_of, is_alive
from harness.locks import LOCK_FILE

STATUS_FILE = "status.json"


class State(StrEnum):
    """All states of a cell."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Status(BaseModel):
    """A cell's state and progress.

    Attributes:
        state: Its state.
        reason: Why it failed or was interrupted; otherwise empty.
        phase: The present or last phase.
        step: Optimiser steps done.
        steps: Total optimiser steps; 0 if unknown (a budget in seconds).
        numbers: For display: ``loss``, ``reward``, ``missed`` (the share of sampled answers that the scorer misses,
            once it grew), ``examples_per_second``, ``done`` and ``of`` (questions of the evaluation), ``overall`` (the
            headline score).
        writer: The process that wrote it.
        updated: Unix time of writing, by its clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State = State.PENDING
    reason: str = ""
    phase: Literal["", "train", "evaluate"] = ""
    step: int = 0
    steps: int = 0
    numbers: dict[str, float] = Field(default_factory=dict)
    writer: Writer = Writer()
    updated: float = 0.0


def write_status(cell_dir: Path, status: Status) -> Status:
    """Write a cell's status atomically with this process and the time, without numbers that are not finite.

    Returns:
        The status as written.
    """
    finite = {name: value for name, value in status.numbers.items() if abs(value) < float("inf")}
    stamped = status.model_copy(update={"numbers": finite, "writer": Writer.here(), "updated": time.time()})
    write_json(cell_dir / STATUS_FILE, stamped.model_dump(mode="json"))
    return stamped


def record_state(cell_dir: Path, state: State, reason: str = "") -> Status:
    """Record a cell's new state and its reason; step, phase and numbers stay."""
    return write_status(cell_dir, recorded_status(cell_dir).model_copy(update={"state": state, "reason": reason}))


def read_status(cell_dir: Path) -> Status:
    """A cell's status; ``pending`` without a file, ``interrupted`` if it says ``running`` but its process is gone.

    A cell gives signs of life on its lock. Its reason says how a running cell is known to be alive.
    """
    status = recorded_status(cell_dir)
    if status.state is not State.RUNNING:
        return status
    alive, why = is_alive(status.writer, age_of(cell_dir / STATUS_FILE, cell_dir / LOCK_FILE))
    return status.model_copy(update={"state": State.RUNNING if alive else State.INTERRUPTED, "reason": why})


def recorded_status(cell_dir: Path) -> Status:
    """A cell's status as last written, whether or not its process is alive."""
    path = cell_dir / STATUS_FILE
    if not path.exists():
        return Status()
    try:
        return read_as(Status, path, "Delete it and run `harness compare` again")
    except UserError as error:
        return Status(state=State.INTERRUPTED, reason=f"not a valid status: {error}")
