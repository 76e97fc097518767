"""How far training runs of one method vary: a pair's own runs, and those of the whole study."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.api.benchmark import Benchmark
from harness.config.study import BASE
from reports.statistics.answers import Answers
from reports.statistics.contrast import OVERALL, SEEDS_FOR_METHODS
from reports.statistics.inference import Array, Part, Runs, combine, median_unbiased

FEW_DEGREES = 6
"""Degrees of freedom of all methods' runs below which pooling is no guard for a pair's own estimate: two methods of
three seeds, of which one varies much more than the other."""


@dataclass
class _Sum:
    """Sum of squares of runs about their means, and its degrees of freedom."""

    squares: float = 0.0
    df: int = 0

    def add(self, squares: float, df: int) -> None:
        self.squares += squares
        self.df += df

    @property
    def variance(self) -> float:
        """Pooled; less often too small than the usual estimate."""
        return float(median_unbiased(self.squares / self.df, self.df))


@dataclass
class _Pooled:
    """What all methods' runs say of the variance: of single runs, and of runs of equal seeds as pairs."""

    single: _Sum = field(default_factory=_Sum)
    paired: _Sum = field(default_factory=_Sum)


class RunVariances:
    """The variance between training runs, pooled over a study's trained methods.

    For runs of equal seeds as pairs it is that of the residuals of a two-way layout, method by seed, within each group
    of variants.

    Args:
        answers: Of all methods.
        benchmark: Whose answers they are.
        variants: Groups of methods whose runs of equal seeds are pairs.
    """

    def __init__(self, answers: Answers, benchmark: Benchmark, variants: Sequence[Collection[str]]) -> None:
        self._groups = [frozenset(group) for group in variants]
        self._pooled: dict[str, _Pooled] = {}
        scores = {
            method: found
            for method in answers.scores.columns.unique("method")
            if method != BASE and (found := _scores(answers, method, benchmark))
        }
        for of in scores.values():
            for task, runs in of.items():
                residual = runs - runs.mean()
                self._pooled.setdefault(task, _Pooled()).single.add(float(residual @ residual), len(runs) - 1)
        for layout in self._layouts(answers, scores):
            for task in set.intersection(*(set(scores[method]) for method in layout)):
                table = np.stack([scores[method][task] for method in layout])
                residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
                df = (len(table) - 1) * (len(table.T) - 1)
                self._pooled[task].paired.add(float((residuals**2).sum()), df)

    def paired(self, a: str, b: str) -> bool:
        """Whether runs of equal seeds of two methods are pairs."""
        return any({a, b} <= group for group in self._groups)

    def of(self, task: str, methods: tuple[str, str], scores: Sequence[Array], paired: bool) -> Runs:
        """The components of a difference between methods, given the scores of each one's runs.

        Args:
            task: A task, or overall.
            methods: Their names.
            scores: Of each one's runs; a single run (of the base model) has no variance.
            paired: Take runs of equal seeds as pairs.
        """
        pooled = self._pooled.get(task, _Pooled())
        if paired:
            k, differences = len(scores[0]), scores[1] - scores[0]
            own: list[Part] = [(float(differences.var(ddof=1)) / k, k - 1)]
            return Runs(own, [(2 * pooled.paired.variance / k, pooled.paired.df)] if pooled.paired.df else [])
        sides = [(method, of) for method, of in zip(methods, scores, strict=True) if len(of) > 1]
        parts: dict[str, Part] = {method: (float(of.var(ddof=1)) / len(of), len(of) - 1) for method, of in sides}
        untrained = [part for method, part in parts.items() if method == BASE]
        shrink = sum(1 / len(of) for method, of in sides if method != BASE)
        if not pooled.single.df or not shrink:
            return Runs(list(parts.values()))
        return Runs(
            guarded(list(parts.values()), pooled.single.df),
            [*untrained, (pooled.single.variance * shrink, pooled.single.df)],
        )

    def _layouts(self, answers: Answers, scores: Mapping[str, object]) -> list[list[str]]:
        """Variants with equal seeds, by group."""
        found: dict[tuple[int, tuple[int, ...]], list[str]] = {}
        for i, group in enumerate(self._groups):
            for method in sorted(group & scores.keys()):
                found.setdefault((i, tuple(answers.scores[method].columns)), []).append(method)
        return [of for (_, seeds), of in found.items() if len(of) > 1 and len(seeds) >= SEEDS_FOR_METHODS]


def guarded(own: Sequence[Part], pooled_df: float) -> Sequence[Part]:
    """A pair's own components, median-unbiased where pooling over the study has too few degrees of freedom to help.

    The degrees of freedom of two sides' sum are Welch's.
    """
    if pooled_df >= FEW_DEGREES:
        return own
    _, df = combine(own)
    return [(median_unbiased(variance, df), of) for variance, of in own]


def _scores(answers: Answers, method: str, benchmark: Benchmark) -> dict[str, Array]:
    """The scores of a method's runs by task, if it has several that answered the same questions."""
    wide = answers.scores[method].dropna(how="all")
    if len(wide.columns) < 2 or wide.isna().to_numpy().any():
        return {}
    _, onehot, tasks, weights = design(answers.questions.loc[wide.index], benchmark)
    found = run_scores(100 * np.asarray(wide, dtype=np.float64), onehot, weights)
    return dict(zip((OVERALL, *tasks), found, strict=True))


def run_scores(scores: Array, onehot: NDArray[np.bool_], weights: Array) -> Array:
    """The overall and task scores (1 + tasks, runs) of answers (n, runs) to questions of types (n, t)."""
    found: Array = weights @ (onehot.T.astype(float) @ scores / onehot.sum(0)[:, None])
    return found


def design(questions: pd.DataFrame, benchmark: Benchmark) -> tuple[list[str], NDArray[np.bool_], list[str], Array]:
    """The types present (t,), their (n, t) indicators, the tasks, and the weights (1 + tasks, t) of type means."""
    kinds = questions["type"].to_numpy(object)
    types = benchmark.ordered_types(kinds)
    onehot = np.stack([kinds == t for t in types], axis=1)
    tasks, weights = benchmark.weights(dict(zip(types, onehot.sum(0).tolist(), strict=True)))
    return types, onehot, tasks, weights
