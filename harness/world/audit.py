"""How far one gets without looking: chance, best constant and a text-only prior for every question type.

The text-only prior sees everything but the video: template, categories, options and their letters. Lettered
questions: a conditional logit (McFadden 1974) over the options. Numeric questions: ridge regression of the
logarithm of the answer on the categories named, times the factor that scores best in training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from harness.vsibench.mra import MRA_THRESHOLDS, thresholds_met
from harness.vsibench.types import LETTERS, NUMERIC_TYPES, QUESTION_TYPES
from harness.world.build import SPLITS
from harness.world.catalogue import CATEGORIES
from harness.world.questions import Raw

Progress = Callable[[int, int], None]
Floats = NDArray[np.float64]

_NAMES = re.compile(rf"\b({'|'.join(CATEGORIES)})\b")
_RIDGE = 2.0
_LOGIT_PENALTY = 3.0


def audit(
    train_scenes: int = 1_500, test_scenes: int = 400, *, seed: int = 0, progress: Progress | None = None
) -> pd.DataFrame:
    """Fit the blind baselines on pre-training scenes and score them on others.

    Args:
        train_scenes: Scenes to fit on.
        test_scenes: Scenes to score on.
        seed: Which scenes of the pre-training split: others for another seed.
        progress: Told how many scenes are generated.

    Returns:
        One row per raw question type with chance, constant and text_prior (0 to 100), the standard error of the text
        prior (scenes are independent, questions about one are not), and n.
    """
    split, total = SPLITS["pretrain"], train_scenes + test_scenes
    first = split.capacity // 2 + seed * 100_000
    asked: list[list[Raw]] = []
    for index in range(first, first + total):
        asked.append(split.questions(index))
        if progress is not None:
            progress(len(asked), total)
    return blind_scores(_flat(asked[:train_scenes]), _flat(asked[train_scenes:]))


def blind_scores(train: Sequence[Raw], test: Sequence[Raw]) -> pd.DataFrame:
    """Scores of the blind baselines on ``test`` after fitting on ``train``; one row per type in ``test``."""
    rows: list[dict[str, Any]] = []
    for question_type in QUESTION_TYPES:
        fit = [record for record in train if record["question_type"] == question_type]
        held_out = [record for record in test if record["question_type"] == question_type]
        if not fit or not held_out:
            continue
        scores = _numeric if question_type in NUMERIC_TYPES else _lettered
        rows.append({"question_type": question_type, **_summary(scores(fit, held_out), held_out)})
    return pd.DataFrame(rows).set_index("question_type")


def _summary(scores: Mapping[str, Floats], asked: Sequence[Raw]) -> dict[str, float]:
    """Means of each question's scores, the text prior's scene-clustered standard error, and n."""
    prior, n = scores["text_prior"], len(asked)
    scene = np.unique([record["scene_name"] for record in asked], return_inverse=True)[1]
    error = np.sqrt((np.bincount(scene, prior - prior.mean()) ** 2).sum()) / n
    means = {name: 100 * float(values.mean()) for name, values in scores.items()}
    return {**means, "text_prior_se": 100 * float(error), "n": n}


def _flat(asked: Iterable[list[Raw]]) -> list[Raw]:
    return [record for records in asked for record in records]


def categories_named(record: Raw) -> list[str]:
    """The categories in a question's text, in order, as often as they are named."""
    return _NAMES.findall(record["question"])


def _relative_accuracy(prediction: Floats, truth: Floats) -> Floats:
    return thresholds_met(prediction, truth) / len(MRA_THRESHOLDS)


def _numeric(train: Sequence[Raw], test: Sequence[Raw]) -> dict[str, Floats]:
    fit, truth = (np.array([float(r["ground_truth"]) for r in records]) for records in (train, test))
    grid = np.quantile(fit, np.linspace(0.02, 0.98, 97))
    constant = grid[_relative_accuracy(grid[:, None], fit[None]).mean(1).argmax()]
    x_fit, x_test = (
        np.array([[categories_named(r).count(name) for name in CATEGORIES] for r in records], float)
        for records in (train, test)
    )
    mean = np.log(fit).mean()
    weights = np.linalg.solve(x_fit.T @ x_fit + _RIDGE * np.eye(len(CATEGORIES)), x_fit.T @ (np.log(fit) - mean))
    guess, factors = np.exp(mean + x_fit @ weights), np.geomspace(0.5, 2.0, 61)
    factor = factors[_relative_accuracy(factors[:, None] * guess, fit).mean(1).argmax()]
    prior = factor * np.exp(mean + x_test @ weights)
    return {
        "chance": _relative_accuracy(np.resize(fit, truth.size), truth),
        "constant": _relative_accuracy(np.full(truth.size, constant), truth),
        "text_prior": _relative_accuracy(prior, truth),
    }


def _lettered(train: Sequence[Raw], test: Sequence[Raw]) -> dict[str, Floats]:
    letters = [record["ground_truth"] for record in train]
    common = max(sorted(set(letters)), key=letters.count)
    vocabulary: dict[str, int] = {}
    fit, held_out = _options(train, vocabulary, grow=True), _options(test, vocabulary, grow=False)
    weights = _fit_logit(*fit, len(train))
    features, owner, right = held_out
    score = features @ weights
    order = np.lexsort((-score, owner))
    best = order[np.r_[True, np.diff(owner[order]) > 0]]
    return {
        "chance": np.array([1 / len(record["options"]) for record in test]),
        "constant": np.array([float(record["ground_truth"] == common) for record in test]),
        "text_prior": right[best].astype(float),
    }


_Options = tuple[csr_matrix, NDArray[np.int64], NDArray[np.bool_]]


def _options(records: Sequence[Raw], vocabulary: dict[str, int], *, grow: bool) -> _Options:
    """Binary features of every option, the question it belongs to, and whether it is right."""
    rows: list[int] = []
    columns: list[int] = []
    owner: list[int] = []
    right: list[bool] = []
    for question, record in enumerate(records):
        named = categories_named(record)
        for letter, option in zip(LETTERS, record["options"], strict=False):
            words = option.split(". ", 1)[1]
            features = {f"letter {letter}", words, *(f"{i} {word}" for i, word in enumerate(words.split(", ")))}
            features |= {f"{words} of {len(record['options'])}"}
            features |= {f"{words} | {i} {name}" for i, name in enumerate(named)}
            for feature in features:
                if grow:
                    vocabulary.setdefault(feature, len(vocabulary))
                if feature in vocabulary:
                    rows.append(len(owner))
                    columns.append(vocabulary[feature])
            owner.append(question)
            right.append(letter == record["ground_truth"])
    shape = (len(owner), len(vocabulary))
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape), np.array(owner), np.array(right)


def _fit_logit(features: csr_matrix, owner: NDArray[np.int64], right: NDArray[np.bool_], questions: int) -> Floats:
    """Weights of a conditional logit with an L2 penalty."""

    def loss(weights: Floats) -> tuple[float, Floats]:
        score = features @ weights
        score -= np.maximum.reduceat(score, np.searchsorted(owner, np.arange(questions)))[owner]
        odds = np.exp(score)
        share = odds / np.bincount(owner, odds)[owner]
        value = -np.log(share[right]).sum() + _LOGIT_PENALTY * float(weights @ weights) / 2
        return float(value), features.T @ (share - right) + _LOGIT_PENALTY * weights

    return minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
