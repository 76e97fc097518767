"""The tables of pairs: every confirmatory difference with its test, and the tasks as exploratory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.config.study import BASE
from reports.results import Results
from reports.statistics import (
    FEW_CLUSTERS,
    OVERALL,
    SEEDS_FOR_METHODS,
    Contrast,
    disagreements,
    level,
    overall,
    verdict_words,
)
from reports.tables.table import MISSING, Cell, Column, Row, Table
from reports.text import count, sentences

MARKS = {"methods": "*", "checkpoints": "†"}
"""Follows a significant confirmatory difference, by what was compared."""

CLAIMS = {"methods": "methods", "checkpoints": "checkpoints, not methods"}

TASK_MARK = "‡"
"""Follows a significant exploratory difference."""

EQUIVALENT_MARK = "="
"""Follows a difference shown to lie within the margin, in either family."""


UNCORRECTED = "not corrected for multiple comparisons"
"""What captions say of intervals that hold for one comparison each."""

_RUN_PAIRS = ("p_b_beats_a", "run_pairs", "p_b_beats_a_low", "p_b_beats_a_high")

COMPARISON = Column("Comparison\n(B − A)", ("b", "a"), align="left")


def pairs_table(results: Results, contrasts: Sequence[Contrast]) -> Table:
    """Every pair's overall difference with its test and verdict."""
    found, labels, alpha = overall(contrasts), results.short_labels, results.report.alpha
    several = len(found) > 1
    columns: list[tuple[Column, Callable[[Contrast], Cell]]] = [
        (Column(f"Difference\n[{level(alpha)} CI]", ("difference", "ci_low", "ci_high")), difference_cell),
        *(
            [(Column(f"Simultaneous\n[{level(alpha)} CI]", ("joint_low", "joint_high")), _joint_cell)]
            * (len(found) > 1)
        ),
        (Column("SE", ("standard_error",), "{:.2f}"), lambda c: Cell((c.standard_error,))),
        (Column("df", ("df",), "{:.0f}"), lambda c: Cell((c.df,))),
        (Column("p", ("p",)), lambda c: Cell((c.p,), p_text(c.p))),
        (Column("Holm\np", ("p_holm",)), lambda c: Cell((c.p_holm,), p_text(c.p_holm))),
        (Column("Verdict", ("verdict",), align="left"), lambda c: Cell((c.verdict,), verdict_words(c, labels))),
        (Column("Detectable\neffect", ("mde",)), lambda c: Cell((c.mde,), f"{c.mde:.1f}" if _detectable(c) else "")),
        (Column(f"B beats A in runs\n[{level(alpha)} CI]", _RUN_PAIRS), _run_pairs_cell),
        (Column("Seed\ncorr.", ("seed_correlation",), "{:.2f}"), lambda c: Cell((c.seed_correlation,))),
        (Column("Compares", ("claim",), align="left"), lambda c: Cell((c.claim,))),
        (Column("Seeds\nB, A", ("seeds_b", "seeds_a"), "{}, {}"), lambda c: Cell((c.seeds_b, c.seeds_a))),
    ]
    caption = sentences(
        f"Differences are B minus A in points; their intervals are {UNCORRECTED}, and the simultaneous ones hold for "
        f"all {count(len(found), 'pair')} together (Bonferroni)."
        if several
        else "Differences are B minus A in points.",
        f"Equivalence margin: {found[0].margin:g}{results.told('report.margin')}." if found else "",
        test_caption(results, found),
        "“Undecided” does not mean “no difference”: the detectable effect is the true difference that this design "
        "would find with 80% power, after correction.",
        "“B beats A in runs”: share of the pairs of one run each, with an interval for the probability that a new run "
        "of B scores higher than one of A (exact, for the worst case of the runs' distributions)."
        if any(c.run_pairs for c in found)
        else "",
        "“Seed corr.”: correlation of the two methods' scores across runs with the same seed, which the test assumes "
        f"to be 0{' where they are not pairs' if any(c.paired_seeds for c in found) else ''}."
        if any(not math.isnan(c.seed_correlation) for c in found)
        else "",
        _checks_caption(found, alpha),
    )
    rows = [_pair_row(c, labels, *(cell(c) for _, cell in columns)) for c in found]
    return Table(
        f"Paired comparisons on {results.title}",
        (COMPARISON, *(column for column, _ in columns)),
        tuple(rows),
        caption,
    ).without_empty("joint_low", "p_b_beats_a", "seed_correlation")


def tasks_table(results: Results, contrasts: Sequence[Contrast]) -> Table:
    """Every pair's difference in the tasks that have columns, exploratory."""
    tasks, labels, alpha = results.tasks, results.short_labels, results.report.alpha
    by_task = {(c.a, c.b, c.task): c for c in contrasts if c.task != OVERALL}
    suffixes = ("", "_low", "_high", "_p_holm", "_mde")
    columns = [Column(task.head, tuple(f"{task.name}{suffix}" for suffix in suffixes), light=True) for task in tasks]
    rows = [
        _pair_row(c, labels, *(_task_cell(by_task.get((c.a, c.b, task.name))) for task in tasks))
        for c in overall(contrasts)
    ]
    caption = sentences(
        f"Differences are B minus A in points and exploratory. {TASK_MARK} p < {alpha:g} after Holm correction over "
        f"{count(sum(c.task != OVERALL for c in contrasts), 'difference')}: all tasks of all pairs.",
        "In parentheses, where undecided: the true difference that would be found with 80% power, after correction.",
        _equivalence_caption(by_task.values()),
    )
    return Table(f"Differences by task on {results.title}", (COMPARISON, *columns), tuple(rows), caption)


def test_caption(results: Results, found: Sequence[Contrast], pairs: int | None = None) -> str:
    """What was tested, how and on what: test, clusters, correction, questions and seeds.

    Args:
        results: What was answered.
        found: The contrasts shown.
        pairs: Size of their family, where not all of it is shown.
    """
    if not found:
        return ""
    claims, cluster = {c.claim for c in found}, found[0].cluster
    error = f"standard errors clustered by {cluster}"
    if "methods" in claims:
        error += " plus the variance between training runs (Welch-Satterthwaite degrees of freedom)"
    if len(claims) > 1:
        error += f", the latter only where each method has at least {SEEDS_FOR_METHODS} seeds"
    seeds = [seeds for c in found for method, seeds in ((c.a, c.seeds_a), (c.b, c.seeds_b)) if method != BASE]
    parts = [
        f"Differences are paired by question: least squares on question types, {error}, two-sided t-tests,",
        f"p Holm-corrected over {count(pairs or len(found), 'pair')}{results.told('report.pairs')};",
        f"{_range([c.n_questions for c in found], 'question')} in",
        f"{_range([c.n_rooms for c in found], found[0].cluster)} (clusters), {_range(seeds, 'seed')} per method.",
    ]
    paired = [c for c in found if c.paired_seeds]
    parts += [
        "The variance between runs is estimated from the pair's own runs and from those of all methods; the larger p "
        "counts."
        if "methods" in claims
        else "",
        "Runs of equal seeds are compared as pairs, because they share starting weights and order of data"
        f"{'' if len(paired) == len(found) else ', where both are variants of one method'}."
        if paired
        else "",
        f"Where {cluster}s are few or unequal (fewer than {FEW_CLUSTERS:g} effective ones), sign flips over {cluster}s "
        "are made too, and the larger p counts."
        if any(c.effective_rooms < FEW_CLUSTERS for c in found)
        else "",
    ]
    alpha = results.report.alpha
    marks = [f"{mark} p < {alpha:g}, comparing {CLAIMS[claim]}" for claim, mark in MARKS.items() if claim in claims]
    return sentences(*parts, f"{'; '.join(marks)}.", _equivalence_caption(found))


def difference_cell(c: Contrast) -> Cell:
    """The difference with its interval and the mark of its verdict."""
    return Cell((c.difference, c.ci_low, c.ci_high), difference_text(c), mark=_mark(c), note=c.note)


def difference_text(c: Contrast) -> str:
    """The difference with its interval, where there is one: ``+1.5 [0.2, 2.8]``."""
    interval = "" if math.isnan(c.ci_low) else f" [{c.ci_low:z.1f}, {c.ci_high:z.1f}]"
    return f"{c.difference:+z.1f}{interval}"


def p_text(p: float) -> str:
    """A p-value in a table's cell."""
    return MISSING if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _pair_row(c: Contrast, labels: Mapping[str, str], *cells: Cell) -> Row:
    name = Cell((c.b, c.a), f"{labels[c.b]} − {labels[c.a]}")
    return Row((name, *cells), "Against the base model" if c.a == BASE else "Between methods")


def _joint_cell(c: Contrast) -> Cell:
    known = not math.isnan(c.joint_low)
    return Cell((c.joint_low, c.joint_high), f"[{c.joint_low:z.1f}, {c.joint_high:z.1f}]" if known else MISSING)


def _run_pairs_cell(c: Contrast) -> Cell:
    if not c.run_pairs:
        return Cell((None,) * 4)
    interval = f" [{c.p_b_beats_a_low:.0%}, {c.p_b_beats_a_high:.0%}]" if not math.isnan(c.p_b_beats_a_low) else ""
    values = c.p_b_beats_a, c.run_pairs, c.p_b_beats_a_low, c.p_b_beats_a_high
    return Cell(values, f"{c.p_b_beats_a:.0%} of {c.run_pairs}{interval}")


def _task_cell(c: Contrast | None) -> Cell:
    if c is None:
        return Cell((None,) * 5)
    text = f"{c.difference:+z.1f}" + (f" ({c.mde:.1f})" if _detectable(c) else "")
    return Cell((c.difference, c.ci_low, c.ci_high, c.p_holm, c.mde), text, mark=_mark(c), note=c.note)


def _detectable(c: Contrast) -> bool:
    """Whether the detectable effect is shown: it qualifies an undecided difference only."""
    return c.verdict == "undecided" and not math.isnan(c.mde)


def _mark(c: Contrast) -> str:
    if c.verdict == "equivalent":
        return EQUIVALENT_MARK
    if c.verdict == "undecided":
        return ""
    return MARKS[c.claim] if c.task == OVERALL else TASK_MARK


def _equivalence_caption(found: Iterable[Contrast]) -> str:
    margin = next((c.margin for c in found if c.verdict == "equivalent"), None)
    tests = "two one-sided tests against the margin"
    return "" if margin is None else f"{EQUIVALENT_MARK} equivalent within {margin:g} ({tests})."


def _checks_caption(found: Sequence[Contrast], alpha: float) -> str:
    checked = [c for c in found if c.resamples]
    if not checked:
        return ""
    disagree = sum(bool(disagreements(c, alpha)) for c in checked)
    outcome = f"which disagree in {count(disagree, 'pair')}, as noted" if disagree else "which agree in every pair"
    over = f"over {checked[0].cluster}s"
    return (
        f"The t-test {over} was checked by a permutation test and a BCa bootstrap {over} "
        f"({max(c.resamples for c in checked):,} draws each, seed {checked[0].resampling_seed}), {outcome}."
    )


def _range(numbers: Sequence[int], noun: str) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return count(high, noun) if low == high else f"{low:,} to {count(high, noun)}"
