"""Under no true difference the tests reject about as often as they say, and naive ones do not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from harness.vsibench.types import QUESTION_TYPES
from reports.benchmarks.vsibench import VSIBench
from reports.statistics import paired

compare = partial(paired.compare, benchmark=VSIBench())

ROOMS, PER_ROOM, DRAWS = 40, 10, 200
BAND = (0.02, 0.08)
TYPE = np.tile(QUESTION_TYPES, ROOMS)
ROOM = np.repeat(np.arange(ROOMS), PER_ROOM)


def draw(rng: np.random.Generator, seeds: int, run_spread: float) -> pd.DataFrame:
    """Two methods of equal merit that differ by room, by run and by question."""
    n = ROOMS * PER_ROOM
    columns = {"question": np.arange(n).astype(str), "type": TYPE, "cluster": ROOM.astype(str), "model": "tiny"}
    frames = []
    for method in ("a", "b"):
        rooms = rng.normal(0, 0.12, ROOMS)[ROOM]
        for seed in range(seeds):
            score = 0.5 + rooms + rng.normal(0, run_spread) + rng.normal(0, 0.2, n)
            frames.append(pd.DataFrame(columns | {"method": method, "seed": seed, "score": score.clip(0, 1)}))
    return pd.concat(frames, ignore_index=True)


def naive_p(frame: pd.DataFrame) -> float:
    """The planted mistake: the same regression with questions taken as independent."""
    means = frame.groupby(["question", "method"])["score"].mean().unstack("method")
    types = frame.drop_duplicates("question").set_index("question")["type"].loc[means.index]
    onehot = pd.get_dummies(types)[list(QUESTION_TYPES)].to_numpy(float)
    weights = [1 / 24 if "direction" in t else 1 / 8 for t in QUESTION_TYPES]
    return float(sm.OLS((means["b"] - means["a"]).to_numpy(), onehot).fit().t_test(weights).pvalue)


def in_band(rate: float) -> bool:
    return BAND[0] <= rate <= BAND[1]


@pytest.mark.slow
def test_checkpoint_claim_keeps_its_size_and_the_unclustered_test_does_not() -> None:
    rng = np.random.default_rng(20)
    clustered, naive = [], []
    for i in range(DRAWS):
        frame = draw(rng, seeds=1, run_spread=0.0)
        overall = compare(frame, [("a", "b")], resamples=0)[0]
        assert overall.claim == "checkpoints"
        clustered.append(overall.p < 0.05)
        if i % 4 == 0:
            naive.append(naive_p(frame) < 0.05)
    print(
        f"claim about checkpoints rejects {np.mean(clustered):.4f}, questions taken as independent {np.mean(naive):.4f}"
    )
    assert in_band(np.mean(clustered)), np.mean(clustered)
    assert np.mean(naive) > BAND[1], np.mean(naive)


@pytest.mark.slow
def test_method_claim_keeps_its_size_and_the_checkpoint_test_does_not() -> None:
    rng = np.random.default_rng(21)
    methods, rooms_only = [], []
    for i in range(DRAWS):
        frame = draw(rng, seeds=3, run_spread=0.06)
        overall = compare(frame, [("a", "b")], resamples=0)[0]
        assert overall.claim == "methods"
        methods.append(overall.p < 0.05)
        if i % 4:
            continue
        # One merged run a side hides the training runs: rooms are then the only source of chance.
        merged = frame.groupby(["question", "type", "cluster", "model", "method"], as_index=False)["score"].mean()
        rooms_only.append(compare(merged.assign(seed=0), [("a", "b")], resamples=0)[0].p < 0.05)
    print(f"claim about methods rejects {np.mean(methods):.4f}, rooms as the only chance {np.mean(rooms_only):.4f}")
    assert in_band(np.mean(methods)), np.mean(methods)
    assert np.mean(rooms_only) > BAND[1], np.mean(rooms_only)
