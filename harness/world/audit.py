"""How far one gets without watching: chance, best constant and a text-only prior for every question type.

The text-only prior sees everything but the video: template, categories, options and their letters. Constant and prior
are the baselines of the reports (:mod:`harness.vsibench.baselines`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.vsibench.baselines import constant_answers, text_prior_answers
from harness.vsibench.mra import MRA_THRESHOLDS, numeric_truth, thresholds_met
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.vsibench.types import QUESTION_TYPES
from harness.world.build import SPLITS
from harness.world.questions import Raw

Progress = Callable[[int, int], None]
Floats = NDArray[np.float64]


def audit(
    train_scenes: int = 1_500, test_scenes: int = 400, *, seed: int = 0, progress: Progress | None = None
) -> pd.DataFrame:
    """Fit the blind baselines on pre-training scenes and score them on others.

    Args:
        train_scenes: Scenes to fit on.
        test_scenes: Scenes to score on.
        seed: Selects the scenes of the pre-training split; different seeds share none.
        progress: Called with the number of scenes generated and their total.

    Returns:
        One row per raw question type with chance, constant and text_prior (0 to 100), the standard error of the text
        prior (scenes are independent, questions about one are not), and n.
    """
    split, total = SPLITS["pretrain"], train_scenes + test_scenes
    first = split.capacity // 2 + seed * 100_000
    train: list[Raw] = []
    test: list[Raw] = []
    for done, index in enumerate(range(first, first + total), start=1):
        (train if done <= train_scenes else test).extend(split.questions(index))
        if progress is not None:
            progress(done, total)
    return blind_scores(train, test)


def blind_scores(train: Sequence[Raw], test: Sequence[Raw]) -> pd.DataFrame:
    """Scores of the blind baselines on ``test`` after fitting on ``train``; one row per type in both."""
    fit, held_out = ([Record(**record) for record in records] for records in (train, test))
    constant, prior = constant_answers(fit, held_out), text_prior_answers(fit, held_out)
    rows: list[dict[str, Any]] = []
    for question_type in QUESTION_TYPES:
        known, asked = ([r for r in records if r.question_type == question_type] for records in (fit, held_out))
        if known and asked:
            scores = {"chance": _chance(known, asked), "constant": _scores(asked, constant)}
            scores["text_prior"] = _scores(asked, prior)
            rows.append({"question_type": question_type, **_summary(scores, asked)})
    return pd.DataFrame(rows).set_index("question_type")


def _scores(asked: Sequence[Record], answers: Mapping[str, str]) -> Floats:
    return np.array([SCORERS["official"].score(answers[record.key], record).score for record in asked])


def _chance(known: Sequence[Record], asked: Sequence[Record]) -> Floats:
    """The expected score of a random option, or the score of the number that answers another question."""
    if not asked[0].is_numeric:
        return np.array([1 / len(record.options or "-") for record in asked])
    others = np.resize([numeric_truth(record) for record in known], len(asked))
    return thresholds_met(others, [numeric_truth(record) for record in asked]) / len(MRA_THRESHOLDS)


def _summary(scores: Mapping[str, Floats], asked: Sequence[Record]) -> dict[str, float]:
    """Means of each question's scores, the text prior's scene-clustered standard error, and n."""
    prior, n = scores["text_prior"], len(asked)
    scene = np.unique([record.scene_name for record in asked], return_inverse=True)[1]
    error = np.sqrt((np.bincount(scene, prior - prior.mean()) ** 2).sum()) / n
    means = {name: 100 * float(values.mean()) for name, values in scores.items()}
    return {**means, "text_prior_se": 100 * float(error), "n": n}
