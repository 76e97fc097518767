"""What a study declares before its first result, ``plan.json``, and what was changed after that.

``harness compare`` writes the plan before the first cell trains. A later command that says otherwise appends an
amendment: when, which key, from what to what, and how many cells had answers by then. So a reader sees which parts of a
comparison were chosen with results at hand. The seal guards against accidents and edits by hand; that a study was
repeated in another folder no file can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, ConfigDict, Field

from harness.api.config import StrictConfig
from harness.config.layers import leaves
from harness.config.study import ReportSection, StudyConfig
from harness.console import Console
from harness.errors import UserError
from harness.io import digest_of, json_text, read_sealed
from harness.outputs import Outputs
from harness.study.matrix import CELLS, DECLARATION, STUDY_FILE

_DECIDE_NOTHING = ("name", "runtime", "tune", "report.with_published")
"""Parts of a study that are no part of its plan: they change neither results nor what is tested."""

_LEFT_OPEN = ("report.pairs", "report.margin", "evaluation.scorer")
"""Where a study says nothing, the plan has what was worked out."""

_FIX = "Move it away and run `harness compare` again: the new plan says how many cells had answers when it was written"


class Amendment(StrictConfig):
    """A change of one quantity after the plan was written.

    Attributes:
        time: When, in UTC.
        key: The study key, or one of ``digests``.
        before: What it was, as JSON; ``from`` in the file.
        after: What it became; ``to`` in the file.
        known: Cells with answers by then.
        cells: Cells of the study by then, as it was declared until then.
    """

    model_config = ConfigDict(populate_by_name=True)

    time: AwareDatetime
    key: str
    before: Any = Field(alias="from")
    after: Any = Field(alias="to")
    known: int = Field(ge=0)
    cells: int = Field(ge=0)

    @property
    def words(self) -> str:
        """The change in words."""
        change = f"{self.key} from {value_in_words(self.key, self.before)} to {value_in_words(self.key, self.after)}"
        return f"{_date(self.time)}, {_known(self.known, self.cells)}: {change}"


class Declaration(StrictConfig):
    """``plan.json``.

    Attributes:
        time: When it was written, in UTC.
        known: Cells with answers by then; 0 where it was written before the first.
        cells: Cells of the study by then.
        quantities: By dotted key: the settings of the study, defaults included, that decide results or tests; the
            pairs and the margin as worked out; ``digests`` of model, data, methods and scorers; the product's version.
        amendments: In the order of time.
    """

    time: AwareDatetime
    known: int = Field(ge=0)
    cells: int = Field(ge=0)
    quantities: dict[str, Any]
    amendments: tuple[Amendment, ...] = ()

    @property
    def current(self) -> dict[str, Any]:
        """The quantities with all amendments."""
        return self.quantities | {one.key: one.after for one in self.amendments}

    @property
    def amended(self) -> list[str]:
        """The keys whose values are not those first declared."""
        now = self.current
        return [key for key in dict.fromkeys(one.key for one in self.amendments) if now[key] != self._first(key)]

    @property
    def amended_knowingly(self) -> list[str]:
        """Those of them that were changed when there were answers."""
        return [key for key in self.amended if any(one.known for one in self._changes(key))]

    @property
    def written(self) -> str:
        """When the plan was written and what was known by then, in words."""
        if self.known:
            return f"declared on {_date(self.time)}, {_known(self.known, self.cells)}"
        return f"declared before the first cell on {_date(self.time)}"

    def words(self, key: str) -> str:
        """When a quantity was declared or amended, as it follows its value in a caption.

        Args:
            key: A study key, such as ``report.margin``.
        """
        changes = self._changes(key)
        if key not in self.amended:
            return self.written + (", changed later and changed back" if changes else "")
        last = changes[-1]
        often = f"amended {len(changes)} times, last on" if len(changes) > 1 else "amended on"
        declared = f"declared was {value_in_words(key, self._first(key))}"
        if self.known:
            declared += f", and that {_known(self.known, self.cells)}"
        return f"{often} {_date(last.time)}, {_known(last.known, last.cells)}; {declared}"

    def pairs_added(self) -> list[tuple[str, str]]:
        """The present pairs that were not declared at first."""
        first = {tuple(pair) for pair in self._first("report.pairs") or ()}
        return [(a, b) for a, b in self.current["report.pairs"] if (a, b) not in first]

    def tests(self, section: ReportSection) -> ReportSection:
        """A study's tests with what it leaves open."""
        now = self.current
        pairs = tuple((a, b) for a, b in now["report.pairs"])
        return section.model_copy(update={"pairs": pairs, "margin": now["report.margin"]})

    def check(self, study: StudyConfig, folder: Path) -> None:
        """Refuse a study that says something else than the plan and its amendments.

        Raises:
            UserError: It does; the key is named.
        """
        now = self.current
        for key, value in _settings(study).items():
            if now.get(key) != value and not (value is None and key in _LEFT_OPEN):
                raise UserError(
                    f"`{folder / STUDY_FILE}`: its `{key}` is not what {DECLARATION} says; run `harness compare` "
                    "again, which records the change"
                )

    def _first(self, key: str) -> Any:
        return self.quantities.get(key)

    def _changes(self, key: str) -> list[Amendment]:
        return [one for one in self.amendments if one.key == key]


def declare(run_dir: Path, study: StudyConfig, worked_out: Mapping[str, Any], console: Console) -> Declaration:
    """Write the plan of a study, or append to it what is different now; print the amendments.

    Args:
        run_dir: The run directory, which the caller holds.
        study: The resolved study.
        worked_out: What the study leaves open, and the digests of model, data and code, by dotted key.
        console: For messages.

    Raises:
        UserError: The plan there was edited or damaged.
    """
    known, now = cells_with_answers(run_dir), datetime.now(UTC).replace(microsecond=0)
    quantities = {**_settings(study), **worked_out}
    found = read_declaration(run_dir) if (run_dir / DECLARATION).exists() else None
    if found is None:
        cells = max(_cells(quantities), known)
        found = Declaration(time=now, known=known, cells=cells, quantities=quantities)
        if known:
            console.say(f"{DECLARATION} is {found.written}: nothing in it was declared beforehand", style="yellow")
        if study.report.margin is None:
            margin = value_in_words("report.margin", quantities["report.margin"])
            console.say(f"Equivalence margin: {margin} points, the least that the study can resolve ({DECLARATION})")
    else:
        before = found.current
        if known and study.report.margin is None:  # never worked out again with results at hand
            quantities["report.margin"] = before["report.margin"]
        cells = max(_cells(before), known)
        new = [
            Amendment(time=now, key=key, before=before.get(key), after=quantities.get(key), known=known, cells=cells)
            for key in sorted(before.keys() | quantities.keys())
            if before.get(key) != quantities.get(key)
        ]
        for one in new:
            console.say(f"Amended in {DECLARATION} on {one.words}", style="yellow")
        found = found.model_copy(update={"amendments": (*found.amendments, *new)})
    document = found.model_dump(mode="json", by_alias=True)
    text = json_text({"seal": digest_of(document), **document})  # indented: people read it
    Outputs(run_dir).write(DECLARATION, text.encode())
    return found


def read_declaration(run_dir: Path) -> Declaration:
    """Read a run directory's plan.

    Raises:
        UserError: There is none, or it was edited or damaged.
    """
    if not (run_dir / DECLARATION).is_file():
        raise UserError(
            f"`{run_dir}`: it has no {DECLARATION}, which says what was declared and when; run `harness compare` again "
            "with the run directory's study.toml. The new plan says how many cells had answers when it was written"
        )
    return read_sealed(Declaration, run_dir / DECLARATION, _FIX)


def cells_with_answers(run_dir: Path) -> int:
    """Cells of the run directory, of this study or an earlier one, that have answered anything, finished or not."""
    return sum(any(folder.glob("*/step-*/samples.jsonl")) for folder in (run_dir / CELLS).glob("*"))


def value_in_words(key: str, value: Any) -> str:
    """A quantity's value as a sentence has it."""
    if value is None:
        return "not set"
    if key == "report.pairs":
        return f"{len(value)} pair{'' if len(value) == 1 else 's'}"
    if key.startswith("digests."):
        return str(value)[:12]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(study: StudyConfig) -> dict[str, Any]:
    """The settings that decide results or tests, by dotted key."""
    found = dict(leaves(study.model_dump(mode="json")))
    return {
        k: v for k, v in found.items() if not any(k == part or k.startswith(f"{part}.") for part in _DECIDE_NOTHING)
    }


def _cells(quantities: Mapping[str, Any]) -> int:
    """The base model, and each method with each seed, up to the last look."""
    seeds = quantities["seeds"]
    return 1 + len(quantities["methods"]) * (seeds if isinstance(seeds, int) else max(seeds))


def _date(time: datetime) -> str:
    return f"{time.day} {time:%B %Y}"


def _known(known: int, cells: int) -> str:
    return f"when {known} of {cells} cells were known" if known else "before any cell was known"
