"""The tables of pairs: every confirmatory difference with its test, and the tasks as exploratory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.config.study import BASE
from harness.vsibench.types import TASKS
from reports.statistics.contrast import OVERALL, level, verdict_words
from reports.statistics.resampling import RESAMPLES
from reports.tables.captions import (
    HEADS,
    TASK_MARK,
    claim_footnotes,
    equivalence_caption,
    labels_of,
    mark_of,
    overall,
    p_text,
    records,
    test_caption,
)
from reports.tables.table import Cell, Column, Row, Table


def pairs_table(
    contrasts: pd.DataFrame,
    *,
    labels: Mapping[str, str] | None = None,
    benchmark: str = "VSI-Bench",
    alpha: float = 0.05,
) -> Table:
    """Every pair's overall difference with its test and verdict.

    Args:
        contrasts: What :func:`reports.statistics.paired.compare_all` returned, for one model.
        labels: What to call the methods; by default their names, short ones in capitals.
        benchmark: Name for the title.
        alpha: The level that the contrasts were judged at.

    Raises:
        ValueError: The contrasts are of several models.
    """
    found = overall(contrasts)
    called = labels_of(found) | dict(labels or {})
    columns = (
        Column("Comparison\n(B − A)", ("b", "a"), align="left"),
        Column(f"Difference\n[{level(alpha)} interval]", ("difference", "ci_low", "ci_high")),
        Column("SE", ("standard_error",), "{:.2f}"),
        Column("df", ("df",), "{:.0f}"),
        Column("p", ("p",)),
        Column("Holm\np", ("p_holm",)),
        Column("Verdict", ("verdict",), align="left"),
        Column("Detectable\neffect", ("mde",)),
        Column("B beats A\nin runs", ("p_b_beats_a", "run_pairs")),
        Column("Corr. of\nseeds", ("seed_correlation",), "{:.2f}"),
        Column("Compares", ("claim",), align="left"),
        Column("Seeds\nB, A", ("seeds_b", "seeds_a"), "{}, {}"),
    )
    body = [
        Row(
            (
                Cell((c["b"], c["a"]), f"{called[c['b']]} − {called[c['a']]}"),
                difference_cell(c),
                Cell((c["standard_error"],)),
                Cell((c["df"],)),
                Cell((c["p"],), p_text(c["p"])),
                Cell((c["p_holm"],), p_text(c["p_holm"])),
                Cell((c["verdict"],), verdict_words(c, called)),
                _detectable_cell(c),
                _run_pairs_cell(c),
                Cell((c["seed_correlation"],)),
                Cell((c["claim"],)),
                Cell((c["seeds_b"], c["seeds_a"])),
            ),
            "Against the base model" if c["a"] == BASE else "Between methods",
        )
        for c in found
    ]
    caption = [
        "B minus A in points; intervals are not corrected for the number of comparisons.",
        f"Margin of equivalence, declared beforehand: {found[0]['margin']:g}." if found else "",
        test_caption(found, alpha),
        "“Undecided” is not “no difference”: beside it stands the detectable effect, the true difference that this "
        "design would find with 80% power before correction.",
        "“B beats A in runs”: share of the pairs of one run each." if any(c["run_pairs"] for c in found) else "",
        "“Corr. of seeds”: correlation of both methods' scores over runs of the same seed, which the test takes as 0."
        if any(not math.isnan(c["seed_correlation"]) for c in found)
        else "",
        _checks_caption(found),
    ]
    whole = Table(
        title=f"Paired comparisons on {benchmark}",
        columns=columns,
        rows=tuple(body),
        caption=" ".join(part for part in caption if part),
        footnotes=claim_footnotes(found),
    )
    return whole.without_empty("p_b_beats_a", "seed_correlation")


def tasks_table(
    contrasts: pd.DataFrame,
    *,
    labels: Mapping[str, str] | None = None,
    benchmark: str = "VSI-Bench",
    alpha: float = 0.05,
) -> Table:
    """Every pair's difference by task, exploratory. Arguments and errors: as :func:`pairs_table`."""
    found = overall(contrasts)
    called = labels_of(found) | dict(labels or {})
    by_task = {(c["a"], c["b"], c["task"]): c for c in records(contrasts) if c["task"] != OVERALL}
    names = ("", "_low", "_high", "_p_holm", "_mde")
    columns = (
        Column("Comparison\n(B − A)", ("b", "a"), align="left"),
        *(Column(HEADS[t], tuple(f"{t}{name}" for name in names), light=True) for t in TASKS),
    )
    body = [
        Row(
            (
                Cell((c["b"], c["a"]), f"{called[c['b']]} − {called[c['a']]}"),
                *(_task_cell(by_task.get((c["a"], c["b"], t))) for t in TASKS),
            ),
            "Against the base model" if c["a"] == BASE else "Between methods",
        )
        for c in found
    ]
    caption = [
        f"B minus A in points, exploratory. {TASK_MARK} p < {alpha:g} after Holm within the pair's tasks.",
        "In brackets, where undecided: the true difference that would be found with 80% power.",
        f"{equivalence_caption(found)}." if any(c["verdict"] == "equivalent" for c in by_task.values()) else "",
    ]
    return Table(
        title=f"Differences by task on {benchmark}",
        columns=columns,
        rows=tuple(body),
        caption=" ".join(part for part in caption if part),
    )


def difference_cell(c: dict[str, Any]) -> Cell:
    """Difference with its interval and the mark of its verdict."""
    values = (c["difference"], c["ci_low"], c["ci_high"])
    text = f"{values[0]:+z.1f}"
    if not math.isnan(values[1]):
        text += f" [{values[1]:z.1f}, {values[2]:z.1f}]"
    return Cell(values, text, mark=mark_of(c), note=c["note"])


def _detectable_cell(c: dict[str, Any]) -> Cell:
    shown = c["verdict"] == "undecided" and not math.isnan(c["mde"])
    return Cell((c["mde"],), f"{c['mde']:.1f}" if shown else "")


def _run_pairs_cell(c: dict[str, Any]) -> Cell:
    if not c["run_pairs"]:
        return Cell((None, None))
    return Cell((c["p_b_beats_a"], c["run_pairs"]), f"{100 * c['p_b_beats_a']:.0f}% of {c['run_pairs']}")


def _task_cell(c: dict[str, Any] | None) -> Cell:
    if c is None:
        return Cell((None,) * 5)
    values = (c["difference"], c["ci_low"], c["ci_high"], c["p_holm"], c["mde"])
    detectable = c["verdict"] == "undecided" and not math.isnan(c["mde"])
    text = f"{c['difference']:+z.1f}" + (f" ({c['mde']:.1f})" if detectable else "")
    return Cell(values, text, mark=mark_of(c), note=c["note"])


def _checks_caption(found: list[dict[str, Any]]) -> str:
    made = {c["resamples"] for c in found if c["resamples"]}
    if not made:
        return ""
    draws, seed = max(made, default=RESAMPLES), next(c["resampling_seed"] for c in found if c["resamples"])
    what = f"a permutation and a BCa bootstrap of the rooms ({draws:,} draws each, seed {seed})"
    disagree = sum("cross-check" in c["note"] for c in found)
    verdict = "which agree with it in every pair" if not disagree else f"with a disagreement in {disagree}, noted"
    return f"The t-test over rooms was checked by {what}, {verdict}."
