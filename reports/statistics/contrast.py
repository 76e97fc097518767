"""The difference between two methods with its statistics, and the four verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.config.sections import SEEDS_FOR_METHODS as SEEDS_FOR_METHODS
from reports.statistics.inference import holm

OVERALL = "overall"
"""The task name of the headline score."""

MARGIN = 1.0
"""Points: two methods that differ by less are equivalent, unless the study declares another margin."""

Claim = Literal["checkpoints", "methods"]
Family = Literal["confirmatory", "exploratory"]
Verdict = Literal["better", "worse", "equivalent", "undecided"]


@dataclass(frozen=True)
class Contrast:
    """One difference, B minus A, in points (0 to 100), with its uncertainty.

    Attributes:
        a: The method subtracted.
        b: The method it is subtracted from.
        task: A task of the benchmark, or ``overall`` for the headline score.
        claim: ``checkpoints``: these trained models, on clusters like these. ``methods``: the methods,
            trained again and asked about new clusters.
        difference: Mean of B minus mean of A, over seeds and questions.
        standard_error: Its standard error; NaN when it cannot be estimated (``note`` says why).
        df: Degrees of freedom of the t distribution.
        ci_low: Lower end of the interval at level 1 - alpha, not corrected for multiplicity.
        ci_high: Upper end.
        p: Two-sided p-value; below alpha exactly where the interval excludes 0.
        p_holm: ``p`` after Holm's correction inside the family.
        family: ``confirmatory`` for overall, ``exploratory`` for the tasks.
        n_questions: Questions that enter this contrast.
        n_rooms: Clusters, such as rooms, that enter it.
        seeds_a: Runs of A.
        seeds_b: Runs of B.
        verdict: ``better`` or ``worse`` (B than A) where ``p_holm`` is below alpha; else ``equivalent`` where
            ``p_equivalence`` is, or where all runs gave the same answers; else ``undecided``.
        model: The base model that both were trained from.
        note: What a reader must know about this test, if anything.
        seeds: Fewest runs of a trained side, which decide the claim.
        margin: Difference from which on methods are not equivalent, in points.
        p_equivalence: p-value of a difference of at least the margin (TOST), Holm-corrected like ``p_holm``.
        mde: Minimum detectable effect: the true difference this design finds with 80% power at level alpha over the
            size of the family, the worst case of the correction.
        mde_low: Lower end of its interval at level 1 - alpha, by the chi-square distribution of the squared error.
        mde_high: Upper end.
        joint_low: Lower end of the simultaneous interval: Bonferroni's over the family.
        joint_high: Upper end.
        paired_seeds: Whether runs of equal seeds were taken as pairs: both are variants of one method.
        share_of_rooms: The part of the squared error that comes from clusters, the rest from training runs; NaN for
            checkpoints.
        effective_rooms: Kish's effective number of clusters, by their shares of the questions' squared weights.
        p_b_beats_a: Share of run pairs in which B scores higher (a tie counts half); NaN with one run each.
        run_pairs: Number of those pairs.
        p_b_beats_a_low: Lower end of an interval for the probability that it estimates, at level 1 - alpha.
        p_b_beats_a_high: Upper end.
        seed_correlation: Correlation of A's and B's runs of the same seed; the test takes it as zero unless
            ``paired_seeds``.
        p_rooms: ``p`` with clusters as the only source of chance, which the next three check; ``overall`` only.
        p_permutation: The same by swapping the methods within clusters; where those are few, part of ``p``.
        ci_boot_low: Interval for the same by the BCa bootstrap of clusters.
        ci_boot_high: Upper end.
        resamples: Draws of each check; 0 where none was made.
        resampling_seed: Seed of the draws.
        cluster: What questions of one cluster share, in one word.
    """

    a: str
    b: str
    task: str
    claim: Claim
    difference: float
    standard_error: float
    df: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    family: Family
    n_questions: int
    n_rooms: int
    seeds_a: int
    seeds_b: int
    verdict: Verdict = "undecided"
    model: str = ""
    note: str = ""
    seeds: int = 1
    margin: float = MARGIN
    p_equivalence: float = math.nan
    mde: float = math.nan
    mde_low: float = math.nan
    mde_high: float = math.nan
    joint_low: float = math.nan
    joint_high: float = math.nan
    paired_seeds: bool = False
    share_of_rooms: float = math.nan
    effective_rooms: float = math.nan
    p_b_beats_a: float = math.nan
    run_pairs: int = 0
    p_b_beats_a_low: float = math.nan
    p_b_beats_a_high: float = math.nan
    seed_correlation: float = math.nan
    p_rooms: float = math.nan
    p_permutation: float = math.nan
    ci_boot_low: float = math.nan
    ci_boot_high: float = math.nan
    resamples: int = 0
    resampling_seed: int = 0
    cluster: str = "room"


def overall(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The confirmatory contrasts."""
    return [c for c in contrasts if c.task == OVERALL]


def judge(contrasts: Sequence[Contrast], alpha: float) -> list[Contrast]:
    """Correct by Holm inside each family and give the verdicts.

    One family holds ``overall`` of all pairs, the other all tasks of all pairs.
    """
    families: dict[Family, list[int]] = {}
    for i, c in enumerate(contrasts):
        families.setdefault(c.family, []).append(i)
    judged = list(contrasts)
    for members in families.values():
        different = holm([contrasts[i].p for i in members])
        alike = holm([contrasts[i].p_equivalence for i in members])
        for i, p, p_equivalence in zip(members, different, alike, strict=True):
            judged[i] = _judged(contrasts[i], p, p_equivalence, alpha)
    return judged


def _judged(c: Contrast, p: float, p_equivalence: float, alpha: float) -> Contrast:
    p = math.nan if math.isnan(c.p) else p
    p_equivalence = math.nan if math.isnan(c.p_equivalence) else p_equivalence
    verdict: Verdict = "undecided"
    note = c.note
    if p < alpha:
        verdict = "better" if c.difference > 0 else "worse"
        if p_equivalence < alpha:
            small = f"there is a difference, but it is smaller than the margin of {c.margin:g}"
            note = "; ".join(filter(None, (note, small)))
    elif p_equivalence < alpha or c.verdict == "equivalent":
        verdict = "equivalent"
    return replace(c, p_holm=p, p_equivalence=p_equivalence, verdict=verdict, note=note)


def checked(c: Contrast, alpha: float) -> Contrast:
    """The contrast, its note naming every cross-check over clusters that decides otherwise than the t-test."""
    against = disagreements(c, alpha)
    if not against:
        return c
    checks = " and ".join(against)
    found = f"cross-check: {checks} and the t-test over {c.cluster}s (p = {c.p_rooms:.3f}) disagree at {alpha:g}"
    return replace(c, note="; ".join(filter(None, (c.note, found))))


def disagreements(c: Contrast, alpha: float) -> list[str]:
    """The cross-checks over clusters that decide otherwise than the t-test over clusters, with their results."""
    rejects = c.p_rooms < alpha
    against = []
    if not math.isnan(c.p_permutation) and (c.p_permutation < alpha) != rejects:
        against.append(f"the permutation of {c.cluster}s (p = {c.p_permutation:.3f})")
    if not math.isnan(c.ci_boot_low) and (c.ci_boot_low > 0 or c.ci_boot_high < 0) != rejects:
        against.append(
            f"the bootstrap of {c.cluster}s ({level(alpha)} interval {c.ci_boot_low:z.2f} to {c.ci_boot_high:z.2f})"
        )
    return against


def verdict_words(c: Contrast, labels: Mapping[str, str]) -> str:
    """The verdict in a table's cell: who is better, equivalent within which margin, or undecided."""
    winner = {"better": c.b, "worse": c.a}.get(c.verdict)
    if winner:
        return f"{labels[winner]} better"
    return f"equivalent within {c.margin:g}" if c.verdict == "equivalent" else "undecided"


def level(alpha: float) -> str:
    """The level of an interval, such as 95%."""
    return f"{100 * (1 - alpha):g}%"
