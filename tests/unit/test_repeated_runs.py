"""One run under several seeds is no evidence of how runs vary."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_samples import BENCH, own

from harness.config.sections import ReportSection
from harness.errors import UserError
from harness.vsibench.types import QUESTION_TYPES
from reports.benchmarks.vsibench import VSIBench
from reports.samples import results_from
from reports.statistics import paired
from reports.statistics.repeats import alike_runs, distinct_runs, repeat_notes

compare = partial(paired.compare, benchmark=VSIBench(), resamples=0)
LABELS = {"a": "A!", "b": "B!"}


def answers(copies: dict[int, int], changed: int = 0) -> pd.DataFrame:
    """Two methods with three seeds of 40 rooms; ``copies`` gives seeds of b another one's answers, less some."""
    rng = np.random.default_rng(2)
    kind, room = np.tile(QUESTION_TYPES, 40), np.repeat(np.arange(40), 10)
    columns = {"question": np.arange(400).astype(str), "type": kind, "cluster": room.astype(str), "model": "m"}
    frames = {}
    for method in "ab":
        for seed in range(3):
            right = rng.random(400) < 0.5
            frame = pd.DataFrame(columns).assign(method=method, seed=seed, score=right.astype(float))
            frames[method, seed] = frame.assign(answer=np.where(right, "A", "B"))
    for seed, of in copies.items():
        frame = frames["b", of].assign(seed=seed)
        frame.loc[: changed - 1, "answer"] += "."
        frames["b", seed] = frame
    return pd.concat(frames.values(), ignore_index=True)


def test_runs_with_the_same_answers_count_as_one() -> None:
    frame = answers({1: 0})
    assert distinct_runs(frame) == {"a": 3, "b": 2} and alike_runs(frame)["b"].same == ((0, 1),)
    assert distinct_runs(answers({1: 0, 2: 0})) == {"a": 3, "b": 1}
    assert compare(answers({}), [("a", "b")])[0].claim == "methods"
    assert compare(frame, [("a", "b")])[0].claim == "checkpoints"
    (note,) = repeat_notes(frame, LABELS)
    assert note.startswith("The B! runs of seeds 0 and 1 gave the same answer to every question")


def test_nearly_the_same_answers_are_a_warning_alone() -> None:
    frame = answers({1: 0}, changed=2)
    assert compare(frame, [("a", "b")])[0].claim == "methods"
    assert "seeds 0 and 1 have the same answer on 99.5% of the questions" in repeat_notes(frame, LABELS)[0]
    dressed = answers({1: 0}, changed=400)
    assert "have the same score on every question" in repeat_notes(dressed, LABELS)[0]
    assert not repeat_notes(answers({}), LABELS)


def test_one_file_under_several_seeds_is_refused_by_name(tmp_path: Path) -> None:
    one, two = own(tmp_path / "1.jsonl", 3), own(tmp_path / "2.jsonl", 4)
    read = partial(results_from, data=BENCH, benchmark=VSIBench(), settings=ReportSection())
    with pytest.raises(UserError, match="sft, seeds 0 and 2: the same answer to every question"):
        read([f"sft@0={one}", f"sft@1={two}", f"sft@2={one}"])
    with pytest.raises(UserError, match=r"stock, seeds 0 and 1.*the base model's greedy answers too"):
        read([f"stock@0={one}", f"stock@1={one}", f"sft={two}"], base="stock")
    assert len(read([f"sft@0={one}", f"sft@1={two}", f"other={one}"]).present) == 2
