"""Several studies read together: which stand beside each other, which may be combined, and what differs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.config.study import BASE
from harness.errors import UserError
from harness.io import digest_of
from reports.collect import CellResult, Collected, collect
from reports.results import Results, results_of
from reports.statistics import Combined, Contrast, combine_estimates, estimate_of, holm, overall
from reports.tables import Tables, build_tables
from reports.text import count

Over = Literal["models", "benchmarks"]

_OF_THE_MODEL = re.compile(r"train\.[a-z_0-9]+ = [^,]*(, |$)")
"""A method's own settings of the optimiser, which may be chosen for each model."""


@dataclass(frozen=True)
class OneStudy:
    """A study with its own report.

    Attributes:
        folder: The run directory.
        label: What tables call it: the model, and what tells it apart from the others.
        collected: What it holds.
        results: Its answers to its headline benchmark.
        tables: Its tables and tests, by its own families and plan.
    """

    folder: Path
    label: str
    collected: Collected
    results: Results
    tables: Tables

    @property
    def model(self) -> str:
        """The model's name."""
        return self.collected.study.model.name.rstrip("/").rsplit("/", 1)[-1]

    @property
    def model_digest(self) -> str:
        """What identifies the base model's weights."""
        return str(self.collected.declared.current["digests.model"])

    @property
    def asked(self) -> str:
        """What identifies its questions."""
        return _asked(self.collected)

    @property
    def terms(self) -> dict[str, str]:
        """What must be equal for two studies' differences to be combined, besides models or questions."""
        study, scorer = self.collected.study, self.results.scorer
        data, asked, identity = study.data, study.evaluation, self._identity
        turns = ", then the answer alone" if asked.two_turns else ""
        rewards = ", ".join(f"{name} × {weight:g}" for name, weight in sorted(study.reward.weights.items()))
        return {
            "scorer": f"{scorer} ({self.results.benchmark.scorers[scorer].version})",
            "budget": f"{study.budget.amount:g} {study.budget.kind}",
            "frames": f"{data.frames} of {data.min_pixels:,} to {data.max_pixels:,} pixels",
            "frame settings": identity.get("frames", "")[:12],
            "evaluation prompt": identity.get("prompts", study.prompt.evaluation)[: len(study.prompt.evaluation) + 13],
            "answers": f"{count(asked.max_new_tokens, 'token')}{turns}",
            "reported": asked.rule,
            "training records": f"{data.train}, {self.collected.train.digest[:12]}",
            "training prompt": study.prompt.train,
            "reward": f"{rewards}; read as {study.reward.reading}",
        }

    @property
    def _identity(self) -> Mapping[str, str]:
        return next((cell.identity for cell in self.collected.cells if cell.identity), {})

    def settings(self, method: str) -> str:
        """A method's settings, without those of the optimiser, which may differ between models."""
        return _OF_THE_MODEL.sub("", self.collected.description.methods[method].settings).rstrip(", ")

    def answered(self, method: str) -> set[str]:
        """What identifies all answers of each run of a method, word for word."""
        mine = self.results.answers[self.results.answers["method"] == method].sort_values("question")
        return {digest_of(run["answer"].astype(str).tolist()) for _, run in mine.groupby("seed")}

    def runs(self) -> dict[tuple[str, int], tuple[str, float]]:
        """By method and seed: what identifies a run's weights, and its overall score."""
        weights = {(c.method, c.seed): " ".join(c.weights.values()) for c in self.collected.cells}
        return {
            run: (weights.get(run, ""), by[self.results.scorer].figures.overall)
            for run, by in self.results.points.items()
        }


@dataclass(frozen=True)
class Pooled:
    """A pair of methods over several studies, B minus A.

    Attributes:
        a: The method subtracted.
        b: The method it is subtracted from.
        labels: What tables call both.
        over: What differs between the studies.
        where: What they have in common: the benchmark's title, or the model.
        contrasts: The studies' own differences, in the order of the studies, all B minus A.
        found: What they say together; None where they are not combined.
        p_holm: Its p-value after Holm's correction over all combined pairs.
        why: Why they are not combined.
    """

    a: str
    b: str
    labels: tuple[str, str]
    over: Over
    where: str
    contrasts: Mapping[str, Contrast]
    found: Combined | None
    p_holm: float = 1.0
    why: str = ""


def read_studies(folders: Sequence[Path]) -> list[OneStudy]:
    """Read and judge every study on its own.

    Raises:
        UserError: As :func:`reports.collect.collect`; or two hold the same cell.
    """
    places = [folder.resolve() for folder in folders]
    if twice := next((one for at, one in enumerate(places) if one in places[:at]), None):
        raise UserError(f"`{twice}`: this run directory is named twice; name each study once")
    found = [collect(folder) for folder in folders]
    results = [results_of(one) for one in found]
    _refuse_the_same_cells(found)
    labels = _labels(found, results)
    return [
        OneStudy(folder, label, collected, of, build_tables(of))
        for folder, label, collected, of in zip(folders, labels, found, results, strict=True)
    ]


def differing_terms(studies: Sequence[OneStudy]) -> dict[str, list[str]]:
    """The terms in which some studies differ, with the value of each study."""
    found = {term: [one.terms[term] for one in studies] for term in studies[0].terms}
    return {term: values for term, values in found.items() if len(set(values)) > 1}


def pooled(studies: Sequence[OneStudy], alpha: float) -> list[Pooled]:
    """Every pair of methods that stands in several studies, over models on one benchmark and over a model's benchmarks.

    Args:
        studies: Of :func:`read_studies`.
        alpha: Two-sided level of the intervals.
    """
    found = []
    kinds: tuple[tuple[Over, dict[str, list[OneStudy]]], ...] = (
        ("models", _grouped(studies, [one.asked for one in studies])),
        ("benchmarks", _grouped(studies, [one.model_digest for one in studies])),
    )
    for over, groups in kinds:
        for members in groups.values():
            distinct = {one.model_digest if over == "models" else one.asked for one in members}
            if len(distinct) > 1:
                where = members[0].results.title if over == "models" else members[0].model
                found += [_pool(pair, over, where, members, alpha) for pair in _pairs(members)]
    tested = [one for one in found if one.found]
    corrected = iter(holm([one.found.p for one in tested if one.found]))
    return [Pooled(**{**vars(one), "p_holm": next(corrected)}) if one.found else one for one in found]


def _pool(pair: tuple[str, str], over: Over, where: str, members: Sequence[OneStudy], alpha: float) -> Pooled:
    a, b = pair
    having = [(one, c) for one in members if (c := _contrast(one, a, b)) is not None]
    studies = [one for one, _ in having]
    labels = studies[0].results.short_labels
    names = ("base" if a == BASE else labels[a], "base" if b == BASE else labels[b])
    contrasts = {one.label: c for one, c in having}
    why = _unlike(studies, pair, over)
    estimates = [estimate_of(one.label, c, one.results.answers, one.runs(), one.results.benchmark) for one, c in having]
    found = None if why else combine_estimates(estimates, alpha)
    if found is None and not why:
        why = "the error of one of the differences cannot be estimated"
    return Pooled(a, b, names, over, where, contrasts, found, why=why)


def _unlike(studies: Sequence[OneStudy], pair: tuple[str, str], over: Over) -> str:
    """Why the differences that these studies found in a pair are not combined; empty if like is with like."""
    keys = [one.model_digest if over == "models" else one.asked for one in studies]
    if len(set(keys)) < len(keys):
        which = "model" if over == "models" else "benchmark"
        return f"two of the studies are of the same {which}, so they are not independent {over}"
    if differing := list(differing_terms(studies)):
        return f"the studies differ in {', '.join(differing)}"
    for (first, second), method in itertools.product(itertools.combinations(studies, 2), pair):
        if first.asked == second.asked and first.answered(method) & second.answered(method):
            return f"a run of {method} gave the same answers, word for word, in {first.label} and {second.label}"
    for method in pair:
        if method != BASE and len(settings := {one.settings(method) for one in studies}) > 1:
            return f"the settings of {method} differ: {' / '.join(sorted(settings))}"
    return ""


def _pairs(studies: Sequence[OneStudy]) -> list[tuple[str, str]]:
    """The pairs that at least two of the studies test, each once, in the direction of the first study."""
    seen: dict[frozenset[str], tuple[str, str]] = {}
    times: dict[frozenset[str], int] = {}
    for one in studies:
        for c in overall(one.tables.contrasts):
            key = frozenset((c.a, c.b))
            seen.setdefault(key, (c.a, c.b))
            times[key] = times.get(key, 0) + 1
    return [pair for key, pair in seen.items() if times[key] > 1]


def _contrast(one: OneStudy, a: str, b: str) -> Contrast | None:
    """A study's overall difference B minus A, turned if it tests A minus B; None if it tests neither."""
    for c in overall(one.tables.contrasts):
        if (c.a, c.b) == (a, b):
            return c
        if (c.a, c.b) == (b, a):
            return Contrast(
                **{**vars(c), "a": a, "b": b, "difference": -c.difference, "ci_low": -c.ci_high, "ci_high": -c.ci_low}
            )
    return None


def _grouped(studies: Sequence[OneStudy], keys: Sequence[str]) -> dict[str, list[OneStudy]]:
    groups: dict[str, list[OneStudy]] = {}
    for one, key in zip(studies, keys, strict=True):
        groups.setdefault(key, []).append(one)
    return groups


def _labels(found: Sequence[Collected], results: Sequence[Results]) -> list[str]:
    """Each study's model, with its benchmark where there are several, and its folder where that is not enough."""
    titles = {one.title for one in results}
    names = [one.study.model.name.rstrip("/").rsplit("/", 1)[-1] for one in found]
    if len(titles) > 1:
        names = [f"{name}, {one.title}" for name, one in zip(names, results, strict=True)]
    twice = {name for name in names if names.count(name) > 1}
    folders = [one.run_dir for one in found]
    short = [folder.resolve().name for folder in folders]
    shown = short if len(set(short)) == len(short) else list(map(str, folders))
    return [f"{name} ({where})" if name in twice else name for name, where in zip(names, shown, strict=True)]


def _refuse_the_same_cells(found: Sequence[Collected]) -> None:
    """A run that is counted twice would look like two that agree."""
    for first, second in itertools.combinations(found, 2):
        if _asked(first) != _asked(second):
            continue
        theirs = {key for cell in second.cells if cell.method != BASE and cell.weights for key in _keys(cell)}
        for cell in first.cells:
            if cell.method != BASE and cell.weights and not theirs.isdisjoint(_keys(cell)):
                raise UserError(
                    f"`{first.run_dir}` and `{second.run_dir}` hold the same run ({cell.cell}), which would count "
                    "twice; name one of the two"
                )


def _asked(collected: Collected) -> str:
    """What identifies a study's questions: what they ask, and about which rooms."""
    told = collected.headline.benchmark.described
    return digest_of([told.asked, told.clusters])


def _keys(cell: CellResult) -> tuple[str, str]:
    """What tells that two cells are one run: their id, or their weights."""
    return cell.cell, " ".join(cell.weights.values())
