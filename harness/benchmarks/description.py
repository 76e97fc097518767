"""The description of a benchmark: types and their metrics, tasks and their mean, prompts, clusters, files.

It is data, in TOML or JSON, and runs no code. The files beside this module are the built-in ones and serve as examples;
`vsibench.toml` is VSI-Bench itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.benchmarks.metrics import THRESHOLDS, Metric, Read, worth
from harness.benchmarks.readings import READINGS
from harness.errors import UserError, closest, first_few
from harness.io import parse_json, read_text
from harness.vsibench.prompts import Wording
from harness.vsibench.records import Record

SUFFIXES = (".toml", ".json")
"""Endings of a description's file."""

_MOST_PROBLEMS = 10


class Part(BaseModel):
    """Base of all parts of a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QuestionType(Part):
    """A type of question.

    Attributes:
        metric: What a right answer is worth; see :mod:`harness.benchmarks.metrics`.
        thresholds: Of ``mra``: the name of a set, or the confidence thresholds themselves.
        zero: Of ``mra``: answers below it are right where the truth is 0 (``exact``: only 0 is); without, a truth
            must be above 0.
        whole: Whether the truth is a whole number.
        free: Whether questions without options are asked too, with an answer in words.
        unit: The unit that a number is asked for in, for rules that understand units.
        prefix: The words before its questions, where they are not the benchmark's.
        names: Further names in the published files.
    """

    metric: Metric
    thresholds: str | tuple[float, ...] = "vsi-bench"
    zero: Annotated[float, Field(gt=0)] | Literal["exact"] | None = None
    whole: bool = False
    free: bool = False
    unit: str | None = None
    prefix: str | None = None
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _thresholds_known(self) -> QuestionType:
        if isinstance(self.thresholds, str):
            if self.thresholds not in THRESHOLDS:
                raise ValueError(
                    f"thresholds = {self.thresholds!r}: no such name{closest(self.thresholds, THRESHOLDS)}"
                )
        elif not self.thresholds or not all(0 <= one < 1 for one in self.thresholds):
            raise ValueError("thresholds: name numbers from 0 to below 1")
        if self.metric != "mra" and (self.zero is not None or self.thresholds != "vsi-bench"):
            raise ValueError(f"thresholds and zero belong to the metric mra, not to {self.metric}")
        return self

    def worth(self, found: Read, record: Record) -> float:
        """The score of what was read in an answer.

        Raises:
            UserError: The record needs a number as its truth and has none.
        """
        levels = THRESHOLDS[self.thresholds] if isinstance(self.thresholds, str) else self.thresholds
        return worth(self.metric, found, record, levels, None if self.zero == "exact" else self.zero)


class TaskPart(Part):
    """A task: a column of the tables. Title and head follow from the name unless given."""

    name: str = Field(min_length=1)
    title: str = ""
    head: str = ""
    types: tuple[str, ...] = ()


class MeanPart(Part):
    """A further mean, over some of the tasks."""

    head: str
    tasks: tuple[str, ...] = Field(min_length=1)


class Publication(Part):
    """How the benchmark is published, for ``harness data prepare``.

    Attributes:
        hub: Its data set on the hub.
        questions: How many there are; a copy with another number needs ``--part``. None where it is not known.
        splits: By split, the files of its questions below the copy's folder, as patterns; the first that fits.
        fields: Our field names, and the keys of a record: a key, a path of keys (``list.0.path``), or a text that holds
            them in braces. Several are tried in order.
        video: Where a video goes below the prepared folder, likewise: its data set's name, then its scene's.
        source: Its path below the folder or archive of videos, likewise.
        folders: Folders of videos below the copy's.
        archives: Zip archives of videos, as patterns.
        one: Keys of lists that must have one element: a prompt has one video.
        none: Keys of lists that must be empty, such as images to be shown as well.
    """

    hub: str
    questions: int | None = None
    splits: dict[str, tuple[str, ...]] = Field(min_length=1)
    fields: dict[str, str | tuple[str, ...]]
    video: str | tuple[str, ...]
    source: str | tuple[str, ...]
    folders: tuple[str, ...] = (".",)
    archives: tuple[str, ...] = ()
    one: tuple[str, ...] = ()
    none: tuple[str, ...] = ()


class Description(Part):
    """A benchmark of VSI-Bench's kind.

    Attributes:
        name: What it is called on the command line.
        title: What tables call it.
        summary: One line for ``harness list``.
        sources: Where its rules were looked up.
        cluster: What questions of one cluster share, in one word.
        average: ``tasks``: a task is the mean of its types, the overall score the mean of the tasks, as in VSI-Bench;
            ``questions``: all are plain means over questions.
        average_words: The overall score in words, where the usual ones do not say it.
        means_caption: The further means in words.
        scorers: Names of scorers in tables, the headline's first, and the rule that each reads by
            (:mod:`harness.benchmarks.readings`).
        prompt: Its own words around a question.
        tasks: In the order of tables; without any, every type is one.
        means: Further means, by name.
        types: Its types of questions, by name.
        budget: For questions whose truth holds for a number of frames: the name of their data set, with ``{frames}``.
        corrects: The benchmark whose labels it corrects.
        publication: How it is published; None for one that has nothing to prepare.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = Field(min_length=1)
    summary: str
    sources: tuple[str, ...] = ()
    cluster: str = "video"
    average: Literal["tasks", "questions"] = "questions"
    average_words: str = ""
    means_caption: str = ""
    scorers: dict[str, str] = Field(
        default_factory=lambda: {"official": "official", "tolerant": "tolerant"}, min_length=1
    )
    prompt: dict[str, str] = Field(default_factory=dict)
    tasks: tuple[TaskPart, ...] = ()
    means: dict[str, MeanPart] = Field(default_factory=dict)
    types: dict[str, QuestionType] = Field(min_length=1)
    budget: str = ""
    corrects: str = ""
    publication: Publication | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Description:
        for name, rule in self.scorers.items():
            if rule not in READINGS:
                raise ValueError(f"scorers.{name} = {rule!r}: no such rule{closest(rule, READINGS)}")
        for key in self.prompt:
            if key not in Wording.__dataclass_fields__:
                raise ValueError(f"prompt.{key}: no such key{closest(key, Wording.__dataclass_fields__)}")
        self._check_tasks()
        if "overall" in self.types:
            raise ValueError("types.overall: the headline score is called so; rename the type")
        if self.budget and self.budget.count("{frames}") != 1:
            raise ValueError("budget: write {frames} once, where the number of frames stands")
        return self

    def _check_tasks(self) -> None:
        members = [kind for task in self.tasks for kind in task.types or (task.name,)]
        if unknown := [kind for kind in members if kind not in self.types]:
            hint = closest(unknown[0], self.types)
            raise ValueError(f"types.{unknown[0]}: a task has this type, and it has no metric; add it{hint}")
        if self.tasks and (alone := [kind for kind in self.types if members.count(kind) != 1]):
            raise ValueError(f"tasks: each type belongs to one task, but not {first_few(alone)}")
        names = {task.name for task in self.tasks} or set(self.types)
        for name, mean in self.means.items():
            if other := [task for task in mean.tasks if task not in names]:
                raise ValueError(f"means.{name}.tasks: {other[0]}: no such name{closest(other[0], names)}")

    @property
    def members(self) -> Mapping[str, tuple[str, ...]]:
        """The types of each task, in the order of tables."""
        if not self.tasks:
            return {name: (name,) for name in self.types}
        return {task.name: task.types or (task.name,) for task in self.tasks}

    def wording(self, record: Record) -> Wording:
        """The words around one of its questions."""
        own = self.types[record.question_type].prefix if record.question_type in self.types else None
        return Wording(**(self.prompt if own is None else {**self.prompt, "prefix": own}))


def read_description(path: Path | Traversable) -> Description:
    """Read a description.

    Raises:
        UserError: The file is missing or unreadable, or a key is missing, unknown or wrong; each is named.
    """
    try:
        text = read_text(path)
        content: Any = parse_json(text) if path.name.endswith(".json") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"`{path}`: not valid {'JSON' if path.name.endswith('.json') else 'TOML'}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"`{path}`: a table of a benchmark's description is expected")
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        lines = [_problem(path, problem) for problem in problems[:_MOST_PROBLEMS]]
        more = [f"and {len(problems) - len(lines)} more"] if len(problems) > len(lines) else []
        raise UserError("\n".join([*lines, *more])) from error


def _problem(path: Path | Traversable, problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        what = "it is missing"
        if key.endswith(".metric"):
            what = "the type has no metric; name one of mra, choice, exact, chance"
    elif problem["type"] == "extra_forbidden":
        what = "no such key"
    else:
        what = problem["msg"].removeprefix("Value error, ")
    return f"`{path}`: `{key}`: {what}" if key else f"`{path}`: {what}"
