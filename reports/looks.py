"""Declared looks: which one a report is at, and at which level it tests."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.sections import Spending
from harness.config.study import ReportSection
from reports.collect import Collected
from reports.statistics import look_level


@dataclass(frozen=True)
class Look:
    """One of a study's declared looks.

    Attributes:
        looks: Seeds per method at each.
        seeds: Those of this one.
        spent: The level of the study, which all looks share.
        alpha: The level of this one.
        spending: How they share it.
        begun: Of the further cells of the next look, those that are done and all, if any of them has begun.
    """

    looks: tuple[int, ...]
    seeds: int
    spent: float
    alpha: float
    spending: Spending
    begun: tuple[int, int] | None

    @property
    def number(self) -> int:
        return self.looks.index(self.seeds) + 1


def look_of(collected: Collected) -> Look | None:
    """The look that a run directory's results allow; None for a study without looks."""
    study, seeds = collected.study, collected.seeds
    if len(study.looks) == 1:
        return None
    report = study.report
    alpha = look_level(study.looks, seeds, report.alpha, len(report.pairs or ()), report.spending)
    return Look(study.looks, seeds, report.alpha, alpha, report.spending, collected.begun)


def tests_of(collected: Collected) -> ReportSection:
    """A run directory's tests, at the level of the look that they are made at."""
    look, report = look_of(collected), collected.study.report
    return report if look is None else report.model_copy(update={"alpha": look.alpha})
