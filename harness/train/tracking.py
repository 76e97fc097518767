"""Metrics: one JSON line per step, and any experiment tracker that transformers supports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from torch import nn

from harness.errors import UserError
from harness.io import append_lines, parse_json, problems_of, whole_lines, write_text

METRICS_FILE = "metrics.jsonl"

MISSED = "missed"
"""The share of a step's sampled completions whose answer tolerant reading finds and the study's scorer does not."""

_MANY = 0.1

_LINE = TypeAdapter(dict[str, int | float | None])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The numbers of each step of ``metrics.jsonl``, ``step`` among them; [] without a file.

    Raises:
        UserError: A line is something else.
    """
    found = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            numbers = _LINE.validate_python(parse_json(line))
            if not isinstance(numbers.get("step"), int):
                raise ValueError("`step` is missing")
        except ValueError as error:
            why = problems_of(error) if isinstance(error, ValidationError) else error
            raise UserError(
                f"`{path}`, line {number}: not the numbers of a training step: {why}. Delete the file, whose numbers "
                "are only drawn"
            ) from error
        found.append(numbers)
    return found


class Misses(NamedTuple):
    """The share of sampled answers that the scorer misses, in the first and in the last tenth of the steps."""

    first: float
    last: float

    @property
    def grew(self) -> bool:
        """Whether training moves away from the form of answers that is scored."""
        return self.last > max(_MANY, 2 * self.first)


def misses(steps: Sequence[Mapping[str, Any]]) -> Misses | None:
    """How many answers the scorer missed while a method trained; None if it samples none.

    Args:
        steps: The numbers of each step, as :func:`read_metrics` has them.
    """
    shares = [one[MISSED] for one in steps if one.get(MISSED) is not None]
    some = max(1, len(shares) // 10)
    return Misses(fmean(shares[:some]), fmean(shares[-some:])) if shares else None


class Metrics:
    """Writes ``metrics.jsonl`` and forwards to trackers.

    Args:
        path: The JSONL file.
        logged: What the steps before the one that training resumes from logged; the file is made to hold just that.
        report_to: Tracker names, as in transformers' ``report_to``.
        model: Handed to trackers.

    Raises:
        UserError: A tracker is unknown or not installed.
    """

    def __init__(
        self, path: Path, logged: Sequence[dict[str, Any]], report_to: Sequence[str], model: nn.Module
    ) -> None:
        self._path, self.logged = path, list(logged)
        write_text(path, "".join(json.dumps(one) + "\n" for one in self.logged))
        self._callbacks: list[Any] = []
        if report_to:
            self._connect(report_to, path.parent / "trackers", model)

    def _connect(self, names: Sequence[str], folder: Path, model: nn.Module) -> None:
        """Begin transformers' own reporting callbacks, which our loop calls."""
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.integrations import get_reporting_integration_callbacks

        try:
            self._callbacks = [callback() for callback in get_reporting_integration_callbacks(list(names))]
        except (ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"`train.report_to` = {', '.join(names)}: {error}") from error
        self._args = TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True, disable_tqdm=True)
        self._state = TrainerState(is_world_process_zero=True, is_local_process_zero=True)
        self._control, self._model = TrainerControl(), model
        self._send("on_train_begin")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in numbers.items()}
        self.logged.append({"step": step, **finite})
        append_lines(self._path, [json.dumps(self.logged[-1])])
        if self._callbacks:
            self._state.global_step = step
            self._send("on_log", logs=dict(numbers))

    def close(self) -> None:
        self._send("on_train_end")

    def _send(self, event: str, **values: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, event)(self._args, self._state, self._control, model=self._model, **values)
