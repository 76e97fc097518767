"""Whether a verdict on the headline holds on other benchmarks, and on corrected labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.api.benchmark import Benchmark
from harness.config.study import ReportSection
from reports.benchmarks import VSIBench
from reports.benchmarks.published import ReVSI, STIBench
from reports.results import Results, compare_results
from reports.tables import Holds, holds_on

LABELS = {"sft": "+ SFT", "grpo": "+ GRPO"}


def results(
    benchmark: Benchmark, kind: str, gain: float, *, title: str, noise: float = 0.1, rooms: int = 60
) -> Results:
    """Answers in which GRPO is better than SFT by a gain, with its variation over rooms; three seeds each."""
    rng = np.random.default_rng(len(title))
    frames = []
    effects = rng.normal(gain, noise, rooms)
    for method in LABELS:
        for seed in range(3):
            score = np.clip(0.5 + effects * (method == "grpo") + rng.normal(0, 0.001, rooms), 0, 1)
            room = [str(one) for one in range(rooms)]
            frame = pd.DataFrame({"question": room, "cluster": room, "type": kind, "score": score})
            frames.append(frame.assign(method=method, seed=seed, model="m", parsed=True))
    report = ReportSection(margin=1.0, pairs=(("sft", "grpo"),))
    return Results(LABELS, pd.concat(frames), (), benchmark, title, "official", report)


def held(here: Results, **others: Results) -> Holds:
    found = holds_on(here, compare_results(here), others)
    assert found is not None
    return found


def test_each_verdict_stands_beside_what_other_benchmarks_say() -> None:
    here = results(VSIBench(), "object_counting", 0.1, title="VSI-Bench")
    found = held(
        here,
        revsi=results(ReVSI(), "object_counting_single", -0.1, title="ReVSI"),
        sti=results(STIBench(), "pose_estimation", 0.1, title="STI-Bench"),
        few=results(STIBench(), "pose_estimation", 0.02, title="few", noise=0.3, rooms=12),
        same=results(STIBench(), "pose_estimation", 0.0, title="same", noise=0.001),
    )
    (sentence,) = found.sentences
    assert sentence.startswith("That GRPO is better than SFT holds on STI-Bench (+")
    assert "is reversed on ReVSI (corrected labels) (-" in sentence
    assert "is not shown on few (" in sentence and "equivalent there on same (" in sentence
    (row,) = found.table.rows
    assert [cell.values[-1] for cell in row.cells[2:]] == ["reversed", "holds", "not shown", "equivalent"]
    assert "ReVSI asks such questions with corrected labels." in found.table.caption
    assert "VSI-Bench\nverdict" in [column.header for column in found.table.columns]


def test_of_an_undecided_verdict_there_is_nothing_to_hold() -> None:
    here = results(VSIBench(), "object_counting", 0.01, title="VSI-Bench", noise=0.3, rooms=12)
    found = held(here, sti=results(STIBench(), "pose_estimation", 0.1, title="STI-Bench"))
    assert not found.sentences and found.table.rows[0].cells[2].values[-1] is None


def test_without_other_benchmarks_there_is_no_section() -> None:
    here = results(VSIBench(), "object_counting", 0.1, title="VSI-Bench")
    assert holds_on(here, compare_results(here), {}) is None


@pytest.mark.parametrize(("gain", "word"), [(0.0, "holds"), (0.1, "does not hold: there is a difference")])
def test_equivalence_holds_where_it_is_shown_again(gain: float, word: str) -> None:
    here = results(VSIBench(), "object_counting", 0.0, title="VSI-Bench", noise=0.001)
    found = held(here, sti=results(STIBench(), "pose_estimation", gain, title="STI-Bench", noise=0.001))
    assert found.sentences[0].startswith(f"That GRPO and SFT are equivalent {word} on STI-Bench")
