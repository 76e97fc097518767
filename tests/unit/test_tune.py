"""Fair tuning: draws that do not move each other, equal numbers, the winner by the development split."""

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_video

from harness.config.sections import TuneRange
from harness.config.study import StudyConfig, load_study
from harness.config.variants import parse_variant
from harness.console import Console
from harness.data.reader import Dataset
from harness.errors import UserError
from harness.study import sources
from harness.study import tune as tuning
from harness.study.description import describe
from reports.page.fairness import _tuning


@pytest.fixture
def study() -> StudyConfig:
    return load_study("tiny", overrides=["tune.trials=5"])


def test_draws_stay_in_range_and_cover_it():
    space = TuneRange(low=1e-5, high=1e-3)
    values = [tuning.draw(space, 0, "train.learning_rate", trial) for trial in range(400)]
    assert min(values) >= 1e-5 and max(values) <= 1e-3
    below = sum(value < 1e-4 for value in values) / len(values)  # the log scale's middle
    assert 0.42 < below < 0.58


def test_another_range_does_not_move_the_draws(study):
    more = {"all": {**study.tune.ranges["all"]}, "dpo": {"beta": TuneRange(low=0.01, high=1.0)}}
    wider = study.model_copy(update={"tune": study.tune.model_copy(update={"ranges": more})})

    def rates(which: StudyConfig, method: str) -> list[float]:
        return [parse_variant(one).settings["train"]["learning_rate"] for one in tuning.trials_of(which, method)]

    assert rates(study, "dpo") == rates(wider, "dpo") == rates(study, "sft")
    assert "beta" in parse_variant(tuning.trials_of(wider, "dpo")[0]).settings


def test_every_method_has_as_many_trials_on_the_development_split(study):
    trials = tuning.tuning_study(study)
    counts = {m: sum(one.startswith(f"{m}:") for one in trials.methods) for m in study.methods}
    assert set(counts.values()) == {5}
    assert trials.data.benchmark == "world:dev" != study.data.benchmark
    assert trials.budget.amount == study.budget.amount / 2
    assert trials.seeds == 1


def chosen_by(development: object, benchmark: object = "world:test", *, split: str | None = None) -> None:
    """Check a development split as a real run does; it trains on a room of its own."""
    data = {"data.benchmark": str(benchmark), "data.train": "world:train@1", "data.split": split}
    study = load_study("tiny", changes={**data, "tune.development": str(development)})
    sources.check_development(study, "tune.development", study.tune.development, Console(quiet=True), build=True)


@pytest.mark.parametrize("development", ["world:test", "world:test@5", "world:test_free"])
def test_the_world_s_benchmark_is_refused_as_development_split(development, monkeypatch):
    monkeypatch.setattr(sources, "build_source", lambda *_: pytest.fail("the names say enough"))
    with pytest.raises(UserError, match="is the benchmark"):
        chosen_by(development)
    chosen_by("world:dev")


def mine(root: Path, rooms: Mapping[str, int], split: str = "test") -> Path:
    """A data set with one question about each room; the number decides a video's content."""
    for room, seed in rooms.items():
        frames = np.random.default_rng(seed).integers(0, 255, (8, 56, 56, 3), dtype=np.uint8)
        write_video(root / "mine" / f"{room}.mp4", frames)
    fields = {"dataset": "mine", "question_type": "room_size_estimation", "question": "How large?"}
    lines = [{"id": key, "scene_name": room, "ground_truth": "9", **fields} for key, room in enumerate(rooms)]
    (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def test_development_records_on_the_benchmark_s_rooms_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    benchmark = mine(tmp_path / "D", {"hall": 1, "attic": 2})
    mine(benchmark, {"attic": 2, "cellar": 3}, split="pruned")
    (tmp_path / "link").symlink_to(benchmark)
    shutil.copytree(benchmark, tmp_path / "copy")
    mine(tmp_path / "renamed", {"kitchen": 4, "landing": 2})
    mine(tmp_path / "other", {"kitchen": 4, "scene0025_01": 5})
    mine(tmp_path / "good", {"kitchen": 4, "den": 6})
    same = (f"{benchmark}#test", "D", "./D/../D/", f"{benchmark}/test.jsonl", "link", "copy#test", "copy")
    for development in (*same, f"{benchmark}#pruned", "renamed", "other"):
        with pytest.raises(UserError, match="rooms of the benchmark") as refused:
            chosen_by(development, benchmark, split="test")
        assert "tune.development" in str(refused.value)
    chosen_by("good", benchmark, split="test")


def test_the_winner_is_the_best_done_trial_and_the_file_is_a_study(study, tmp_path, monkeypatch):
    scores = {trial: float(10 + index) for m in study.methods for index, trial in enumerate(tuning.trials_of(study, m))}
    del scores[tuning.trials_of(study, "grpo")[-1]]  # a failed trial

    def fake_compare(trial_study, run_dir, *, dry_run, console):
        report = run_dir / "report"
        report.mkdir(parents=True)
        rows = [f"{name},0,30,{score}" for name, score in scores.items()]
        (report / "checkpoints.csv").write_text("\n".join(["method,seed,step,overall", *rows]) + "\n")
        return 1

    monkeypatch.setattr(tuning, "compare", fake_compare)
    assert tuning.tune(study, tmp_path, dry_run=False, console=Console(quiet=True)) == 1
    document = tomllib.loads((tmp_path / tuning.TUNED_FILE).read_text())
    tuned = StudyConfig(**document)
    best = {m: scores.keys() & tuning.trials_of(study, m) for m in study.methods}
    for method, trials in best.items():
        winner = max(trials, key=lambda name: scores[name])
        expected = parse_variant(winner).settings["train"]["learning_rate"]
        assert tuned.for_method(method).train.learning_rate == expected
        assert tuned.tune.done[method].model_dump() == {"trials": 5, "chosen": {"train.learning_rate": expected}}
    assert tuned.hyper_parameters("grpo") == study.hyper_parameters("grpo")
    assert set(tuned.tune.done) == set(study.methods)
    text = (tmp_path / tuning.TUNED_FILE).read_text()
    assert text.count("  chosen\n") == 3 and text.count("# failed") + text.count("#   failed") == 1
    assert all(f"  {trial}" in text for trial in scores)
    table = (tmp_path / tuning.TRIALS_FILE).read_text().splitlines()
    assert len(table) == 1 + 3 * 5 and sum(line.endswith(",True") for line in table) == 3


def test_a_method_without_a_done_trial_is_named(study, tmp_path, monkeypatch):
    def fake_compare(trial_study, run_dir, *, dry_run, console):
        (run_dir / "report").mkdir(parents=True)
        (run_dir / "report" / "checkpoints.csv").write_text("method,seed,step,overall\n")
        return 1

    monkeypatch.setattr(tuning, "compare", fake_compare)
    with pytest.raises(UserError, match="no trial of sft"):
        tuning.tune(study, tmp_path, dry_run=False, console=Console(quiet=True))


FOUR = {"trials": 4, "chosen": {"train.learning_rate": 2e-5}}


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"sft": 2e-5, "grpo": 2e-5}, "4 trials for every method; trials on world:dev"),
        (
            {"grpo": 2e-5, "trl-grpo": 2e-5, "grpo:beta=0": None},
            "unequal: GRPO 4 trials; TRL GRPO values chosen for grpo in 4 trials; "
            "GRPO (beta=0) values chosen for grpo in 4 trials; trials on world:dev",
        ),
        (
            {"grpo": 2e-5, "grpo:train.learning_rate=1e-3": None, "dapo": 2e-5},
            "unequal: GRPO 4 trials; GRPO (train.learning_rate=1e-3) set by hand; DAPO none recorded; "
            "trials on world:dev",
        ),
        ({"sft": 3e-5}, "set by hand for every method"),
        ({"dapo": 2e-5}, "none recorded for every method"),
    ],
)
def test_the_fairness_card_says_how_much_tuning_each_method_had(rates, words):
    study = load_study(
        "tiny",
        methods=tuple(rates),
        changes={"tune.done": {"sft": FOUR, "grpo": FOUR}},
        overrides=[f"method.{method}.train.learning_rate={rate}" for method, rate in rates.items() if rate],
    )
    data = Dataset(Path("data"), "test", ())
    collected = SimpleNamespace(study=study, description=describe(study, data, data, []))
    assert _tuning(collected) == words


def test_what_was_chosen_for_a_hyper_parameter_of_the_method_counts_too():
    chosen = {"trials": 4, "chosen": {"beta": 0.05}}
    study, data = (
        load_study("tiny", methods=["dpo", "dpo:beta=0.2"], changes={"tune.done": {"dpo": chosen}}),
        Dataset(Path("data"), "test", ()),
    )
    tuned = load_study("tiny", methods=["dpo"], changes={"tune.done": {"dpo": chosen}, "method.dpo.beta": 0.05})
    found = describe(study, data, data, []).methods
    assert (found["dpo"].tuning, found["dpo:beta=0.2"].tuning) == ("set by hand", "set by hand")
    assert describe(tuned, data, data, []).methods["dpo"].tuning == "4 trials"


def test_two_variants_of_a_method_are_not_tuned_into_one_place():
    study = load_study("tiny", methods=["grpo", "grpo:beta=0"])
    with pytest.raises(UserError, match=r"harness tune.*grpo, grpo:beta=0"):
        tuning.tuning_study(study)
