"""Baselines that never see the video: constant answers, a text-only prior, and chance.

Training is worthwhile only if it beats them. Both baselines are fitted on training records, answer any
records in the benchmark's form, and are deterministic.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import permutations

import numpy as np

from harness.vsibench.letters import normalise, option_words
from harness.vsibench.mra import MRA_THRESHOLDS, numeric_truth, thresholds_met
from harness.vsibench.records import Record
from harness.vsibench.types import LETTERS

_POOL_WEIGHT = 20.0
"""Weight, in records, of the whole type when fitting the constant of one set of objects, against overfitting."""

_CANDIDATES = 8
"""How many of the points with the largest overlap are scored in the search for a constant."""

_PRIOR_STRENGTH = 8.0
"""Pseudo-questions at chance level added to the counts of every option feature."""

_CATEGORIES: dict[str, re.Pattern[str]] = {
    "object_counting": re.compile(r"How many (.+?)\(s\) are"),
    "object_abs_distance": re.compile(r"distance between the (.+?) and the (.+?) \("),
    "object_size_estimation": re.compile(r"longest dimension.*? of the (.+?), measured"),
    "object_rel_distance": re.compile(r"which of these objects \((.+?)\) is the closest to the (.+?)\?"),
    "object_rel_direction": re.compile(r"standing by the (.+?) and facing the (.+?), is the (.+?) to "),
    "route_planning": re.compile(r"beginning at the (.+?) facing (?:the )?(.+?)\. You want to navigate to the (.+?)\."),
    "obj_appearance_order": re.compile(r"categories in the video: (.+?)\?"),
}
"""The named objects in VSI-Bench's fixed question templates, by task."""


def categories(record: Record) -> tuple[str, ...]:
    """The objects a question names, in order; empty when its wording is not one of the templates."""
    pattern = _CATEGORIES.get(record.task)
    found = pattern.search(record.question) if pattern else None
    return tuple(name.strip().lower() for name in found.groups()) if found else ()


def constant_answers(train: Sequence[Record], test: Sequence[Record]) -> dict[str, str]:
    """One answer per question type, the best on the training records.

    Numeric: the constant of highest mean relative accuracy. Lettered: the most common correct
    letter; if training questions of the type have no options, the option whose words are the most
    common training answer. A lettered type without training records gets "A"; numeric questions of
    a type without training records stay unanswered (and so score zero).

    Returns:
        Answer by record id.
    """
    by_type = _by_type(train)
    constants = {kind: _constant(records) for kind, records in by_type.items() if records[0].is_numeric}
    letters = {
        kind: Counter(r.ground_truth for r in records if r.options is not None) for kind, records in by_type.items()
    }
    words = {kind: Counter(_truth(r) for r in records) for kind, records in by_type.items()}
    answers: dict[str, str] = {}
    for record in test:
        kind = record.question_type
        if record.is_numeric:
            if kind in constants:
                answers[record.key] = constants[kind]
        elif record.options is None:
            answers[record.key] = _most_common(words.get(kind, Counter()))
        elif letters.get(kind):
            answers[record.key] = _most_common(letters[kind])
        else:
            common = words.get(kind, Counter())
            answers[record.key] = _best_letter([float(common[text]) for text in _option_texts(record)])
    return answers


def text_prior_answers(train: Sequence[Record], test: Sequence[Record]) -> dict[str, str]:
    """The best answers from the text of the question alone.

    Numeric: a constant per set of named objects, shrunk towards the type's constant where training
    has few of them. Lettered: the option whose letter and words, alone and combined with the objects
    named in the question, were right most often relative to chance in training.

    Returns:
        Answer by record id; questions that :func:`constant_answers` leaves unanswered stay unanswered.
    """
    answers = constant_answers(train, test)
    constants = _object_constants(train)
    prior = _OptionPrior(train)
    for record in test:
        if record.is_numeric and (constant := constants.get(_category_set(record))):
            answers[record.key] = constant
        elif record.options is not None:
            answers[record.key] = _best_letter([prior.lift(record, i) for i in range(len(record.options))])
    return answers


def _object_constants(train: Sequence[Record]) -> dict[tuple[str, ...], str]:
    """The best constant per type and set of named objects, shrunk towards that of the type."""
    constants = {}
    for records in _by_type([record for record in train if record.is_numeric]).values():
        groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for record in records:
            groups[_category_set(record)].append(numeric_truth(record))
        pool = Counter(truth for truths in groups.values() for truth in truths)
        pool_weights = [_POOL_WEIGHT * n / len(records) for n in pool.values()]
        for key, truths in groups.items():
            constants[key] = best_constant([*truths, *pool], [1.0] * len(truths) + pool_weights)
    return constants


def best_constant(truths: Sequence[float], weights: Sequence[float] | None = None) -> str:
    """The number with the highest mean relative accuracy over non-negative truths, in as few digits as possible.

    Each truth y and threshold t is met by the closed interval y (1 - (1 - t)) ... y (1 + (1 - t)), so
    the best number lies where most intervals overlap, and such a stretch begins at an interval's left end.

    Args:
        truths: At least one number.
        weights: How much each truth counts; equal unless given.
    """
    values, place = np.unique(np.asarray(truths, dtype=float), return_inverse=True)
    counts = np.bincount(place, weights)
    tolerances = 1 - np.array(MRA_THRESHOLDS)
    weight = np.repeat(counts, len(tolerances))
    left, right = np.outer(values, 1 - tolerances).ravel(), np.outer(values, 1 + tolerances).ravel()
    by_left, by_right = np.argsort(left, kind="stable"), np.argsort(right, kind="stable")
    begun, ended = np.cumsum(weight[by_left]), np.append(0, np.cumsum(weight[by_right]))
    starts, ends = left[by_left], right[by_right]
    first_end = np.searchsorted(ends, starts, side="left")
    covered = begun[np.searchsorted(starts, starts, side="right") - 1] - ended[first_end]
    # Intervals that touch in one point may miss each other by rounding, so the best few are scored.
    best = np.argsort(-covered, kind="stable")[:_CANDIDATES]
    candidates = dict.fromkeys(_short_number(float(starts[i]), float(ends[first_end[i]])) for i in best)

    def accuracy(text: str) -> float:
        return float(counts @ thresholds_met(float(text), values))

    return max(candidates, key=accuracy)


def _short_number(low: float, high: float) -> str:
    middle = (low + high) / 2
    for digits in range(7):
        if low <= round(middle, digits) <= high:
            return f"{middle:.{digits}f}"
    return repr(middle)


class _OptionPrior:
    """How often options with a given feature were right in training, relative to chance."""

    def __init__(self, train: Sequence[Record]) -> None:
        self._right: Counter[tuple[str, ...]] = Counter()
        self._expected: defaultdict[tuple[str, ...], float] = defaultdict(float)
        vocabulary = {
            kind: sorted({_truth(r) for r in records})
            for kind, records in _by_type(train).items()
            if not records[0].is_numeric
        }
        for record in train:
            if not record.is_numeric:
                self._learn(record, vocabulary[record.question_type])

    def lift(self, record: Record, index: int) -> float:
        """Sum over the features of option ``index`` of log(times right / times right by chance)."""
        features = _features(record, _option_texts(record)[index], index)
        return math.fsum(
            math.log((self._right[f] + _PRIOR_STRENGTH) / (self._expected.get(f, 0.0) + _PRIOR_STRENGTH))
            for f in features
        )

    def _learn(self, record: Record, vocabulary: Sequence[str]) -> None:
        truth = _truth(record)
        lettered = record.options is not None
        texts = _option_texts(record) if lettered else (_candidates(record) or vocabulary)
        for index, text in enumerate(texts):
            for feature in _features(record, text, index if lettered else None):
                self._expected[feature] += 1 / len(texts)
                self._right[feature] += text == truth


def _features(record: Record, text: str, index: int | None) -> Iterable[tuple[str, ...]]:
    kind, named = record.question_type, categories(record)
    if index is not None:
        yield (kind, "letter", LETTERS[index])
    if record.task == "obj_appearance_order":
        order = [normalise(name) for name in text.split(",")]
        yield from ((kind, "before", a, b) for i, a in enumerate(order) for b in order[i + 1 :])
        return
    yield (kind, "text", text)
    context = named[1:] if record.task == "object_rel_distance" else named
    yield from ((kind, "text", text, str(role), name) for role, name in enumerate(context))


def _option_texts(record: Record) -> list[str]:
    return [_text(record, option_words(option)) for option in record.options or ()]


def _text(record: Record, words: str) -> str:
    # An order is a comma-separated list of names, so its commas are kept.
    return words.lower() if record.task == "obj_appearance_order" else normalise(words)


def _truth(record: Record) -> str:
    return _text(record, record.answer_words)


def _candidates(record: Record) -> list[str]:
    """The possible answers that a question without options lists in its text; empty when it lists none."""
    named = categories(record)
    listed = [name.strip() for name in named[0].split(",")] if named else []
    if record.task == "object_rel_distance":
        return [normalise(name) for name in listed]
    if record.task == "obj_appearance_order" and len(listed) <= 4:
        return [", ".join(order) for order in permutations(listed)]
    return []


def _category_set(record: Record) -> tuple[str, ...]:
    return (record.question_type, *sorted(categories(record)))


def _constant(records: Sequence[Record]) -> str:
    return best_constant([numeric_truth(record) for record in records])


def _by_type(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.question_type].append(record)
    return groups


def _most_common(counts: Counter[str]) -> str:
    return min(counts, key=lambda text: (-counts[text], text)) if counts else ""


def _best_letter(scores: Sequence[float]) -> str:
    return LETTERS[max(range(len(scores)), key=lambda i: (scores[i], -i))]
