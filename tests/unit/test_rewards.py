import math

import pytest

from harness.api.benchmark import Benchmark
from harness.api.reward import Reading, WeightedRewards
from harness.config.study import load_study
from harness.errors import UserError
from harness.plugins import registry
from harness.study.identity import training_identity
from harness.study.setup import build_rewards
from harness.train.tracking import Misses, misses
from harness.vsibench.mra import MRA_THRESHOLDS, mean_relative_accuracy, thresholds_met
from harness.vsibench.records import Record
from harness.vsibench.scorers import ItemScore
from reports.benchmarks import VSIBench
from rewards.choice import Choice
from rewards.distance import Distance, DistanceConfig, relative_distance
from rewards.format import Format, is_tagged
from rewards.mra import MRA

OPTIONS = ("A. chair", "B. table", "C. lamp", "D. sofa")


def record(kind: str, truth: str, options: tuple[str, ...] | None = None) -> Record:
    return Record(
        id=7, dataset="d", scene_name="s", question_type=kind, question="q", ground_truth=truth, options=options
    )


COUNT = record("object_counting", "4")
LETTERED = record("object_rel_distance", "B", OPTIONS)
FREE = record("object_rel_distance", "table")


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (4, 4, 1.0),
        (2, 4, 0.1),  # error .50 meets only .50, by <=
        (3, 4, 0.6),  # error .25 meets .50 .55 .60 .65 .70 .75
        (9, 10, 0.9),  # error .10 meets all but .95
        (5, 4, 0.6),
        (6, 4, 0.1),
        (6.1, 4, 0.0),
        (0, 4, 0.0),
        (-3, 4, 0.0),
        (100, 1, 0.0),
        (math.nan, 4, 0.0),
        (math.inf, 4, 0.0),
        (-math.inf, 4, 0.0),
        (0, 0, 1.0),
        (1, 0, 0.0),
    ],
)
def test_mean_relative_accuracy(predicted: float, truth: float, expected: float) -> None:
    assert mean_relative_accuracy(predicted, truth) == pytest.approx(expected, abs=1e-12)


def test_thresholds_are_the_official_code_s_doubles() -> None:
    import numpy as np

    official = np.linspace(0.5, 0.95, int((0.95 - 0.5) / 0.05 + 2))
    assert list(MRA_THRESHOLDS) == official.tolist()
    rng = np.random.default_rng(0)
    for _ in range(3000):
        truth, predicted = rng.integers(1, 200, 2) / rng.choice([1, 10])
        expected = (abs(predicted - truth) / truth <= 1 - official).mean()
        assert mean_relative_accuracy(float(predicted), float(truth)) == expected


def test_arrays_are_scored_like_single_numbers() -> None:
    predicted, truth = [9.0, -3.0, math.nan, math.inf, 0.0], [10.0, 4.0, 0.0]
    met = thresholds_met([[p] for p in predicted], truth)
    assert met.tolist() == [[round(10 * mean_relative_accuracy(p, t)) for t in truth] for p in predicted]


def test_mra_reward() -> None:
    reward = MRA()
    assert reward.score("3", COUNT, "vanilla") == pytest.approx(0.6)
    assert reward.score("<think>9</think><answer>4</answer>", COUNT, "think") == 1.0
    assert reward.score("many", COUNT, "vanilla") == 0.0
    assert reward.score("B", LETTERED, "vanilla") is None
    with pytest.raises(UserError, match=r"record 7 .*ground_truth must be a number, is 'four'"):
        reward.score("4", record("object_counting", "four"), "vanilla")


def test_choice_reward() -> None:
    reward = Choice()
    for text in ("B", "b.", "B of course", "<think>A</think><answer>B. table</answer>"):
        assert reward.score(text, LETTERED, "think") == 1.0
    for text in ("A", "chair", "", "E", "table", "(B)", "B</answer>", "<answer>B", " B"):
        assert reward.score(text, LETTERED, "think") == 0.0
    assert reward.score("<answer>B</answer>", LETTERED, "vanilla") == 0.0
    for text, right in (("Table.", True), ("The table", False), ("table</answer>", False), ("B", False)):
        assert reward.score(text, FREE, "vanilla") == right
    turns = record("route_planning", "Turn Left, Turn Back")
    assert [reward.score(text, turns, "vanilla") for text in ("turn left, turn back", "turn left", "turn")] == [1, 0, 0]
    assert reward.score("front left", record("object_rel_direction_hard", "front-left"), "vanilla") == 0.0
    assert reward.score("4", COUNT, "vanilla") is None


@pytest.mark.parametrize(
    ("text", "asked", "mode", "scorer", "tolerant", "missed"),
    [
        # R1-V's, Video-R1's and EasyR1's accuracy functions give the first two 0, as the official rule does.
        ("B</answer>", LETTERED, "vanilla", 0, 1, True),
        ("4</answer>", COUNT, "vanilla", 0, 1, True),
        ("four", COUNT, "vanilla", 0, 1, True),
        ("<think>9</think><answer>four</answer>", COUNT, "think", 0, 1, True),
        ("<think>9</think><answer>4</answer>", COUNT, "think", 1, 1, False),
        ("the table", FREE, "vanilla", 0, 1, False),  # words are read, and others than the right ones
        ("table</answer>", FREE, "vanilla", 0, 1, True),
        ("4 to 6", COUNT, "vanilla", 1, 0, False),  # the first token; tolerant reading takes no number of a range
        ("no idea", COUNT, "vanilla", 0, 0, False),
        ("B", LETTERED, "vanilla", 1, 1, False),
    ],
)
def test_a_study_decides_how_rewards_read(
    text: str, asked: Record, mode: str, scorer: int, tolerant: int, missed: bool
) -> None:
    for reading, paid in ((Reading(), scorer), (Reading(tolerant=True), tolerant)):
        mix = WeightedRewards({"mra": MRA(), "choice": Choice()}, {"mra": 1.0, "choice": 1.0}, reading)
        assert (mix.score(text, asked, mode).total, mix.score(text, asked, mode).missed) == (paid, missed), reading


@pytest.mark.parametrize(("scorer", "paid"), [("official", 0.0), ("lmms-eval", 1.0), ("tolerant", 1.0)])
def test_rewards_read_by_the_study_s_scorer(scorer: str, paid: float) -> None:
    study = load_study("tiny", changes={"evaluation.scorer": scorer})
    assert build_rewards(study).score("about 4 chairs", COUNT, "vanilla").total == paid
    own = load_study("tiny", methods=["grpo", "grpo:reward.reading=tolerant"], changes={"evaluation.scorer": scorer})
    assert build_rewards(own.for_method("grpo:reward.reading=tolerant")).score("about 4", COUNT, "vanilla").total == 1
    identities = [training_identity(own.for_method(m), m, own.algorithm(m)).get("reading", {}) for m in own.methods]
    assert [one.get("scorer") for one in identities] == [scorer, None]
    assert "reading" not in training_identity(study.for_method("sft"), "sft", study.algorithm("sft"))


class Last(Benchmark):
    """The last word counts."""

    def score(self, answer: str, record: Record, scorer: str) -> ItemScore:
        words = answer.split()
        return ItemScore(float(bool(words) and words[-1] == record.ground_truth), bool(words))


class LastOfVSI(Last, VSIBench):
    """Likewise, with VSI-Bench's tasks."""


@pytest.mark.parametrize("benchmark", [Last(), LastOfVSI()])
def test_what_a_benchmark_of_ones_own_reads_is_what_it_would_score(benchmark: Benchmark) -> None:
    def read(answer: str, asked: Record) -> float | str | None:
        return benchmark.read(answer, asked, benchmark.default_scorer)

    assert [read(text, LETTERED) for text in ("it is C", "B", "C it is", "")] == ["C", "B", None, None]
    assert [read(text, FREE) for text in ("the table", "lamp", "Table")] == ["table", "lamp", None]
    assert VSIBench().read("B because", LETTERED, "official") == "B"


def test_growing_misses_are_told() -> None:
    def drift(*shares: float) -> Misses | None:
        return misses([{"step": step, "loss": 1.0, "missed": one} for step, one in enumerate(shares)])

    assert misses([{"step": 1, "loss": 0.5}]) is None
    assert drift(0.0, 0.11) == Misses(0.0, 0.11)
    grew = [one.grew for one in (drift(0.0, 0.11), drift(0.0, 0.1), drift(0.2, 0.3), drift(0.2, 0.41)) if one]
    assert grew == [True, False, False, True]
    assert drift(*[0.1] * 2, *[0.0] * 16, 0.2, 0.4) == pytest.approx(Misses(0.1, 0.3))


@pytest.mark.parametrize(
    ("text", "linear", "negative", "inverse"),
    [
        ("4", 1.0, 0.0, 1.0),
        ("5", 0.75, -0.25, 0.8),  # d = 1/4
        ("3.2", 0.75, -0.25, 0.8),  # d = .8/3.2
        ("8", 0.0, -1.0, 0.5),
        ("2", 0.0, -1.0, 0.5),
        ("1", 0.0, -2.0, 0.25),  # d = 3, cut at the floor
        ("0", 0.0, -2.0, 0.0),
        ("-4", 0.0, -2.0, 0.0),
        ("many", 0.0, -2.0, 0.0),
    ],
)
def test_distance_reward(text: str, linear: float, negative: float, inverse: float) -> None:
    def value(mapping: str) -> float | None:
        return Distance(DistanceConfig(mapping=mapping, floor=-2.0)).score(text, COUNT, "vanilla")

    assert value("linear") == pytest.approx(linear)
    assert value("negative") == pytest.approx(negative)
    assert value("inverse") == pytest.approx(inverse)


def test_distance_is_symmetric_and_does_not_apply_to_choices() -> None:
    assert relative_distance(2, 6) == relative_distance(6, 2) == 2.0
    assert Distance().score("B", LETTERED, "vanilla") is None
    assert Distance().config.mapping == "linear"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>4</answer>", True),
        ("\n<think>a\nb</think>\n <answer>\n4\n</answer>\n", True),
        ("<think></think><answer>4</answer>", False),
        ("<think> \n</think><answer>4</answer>", False),
        ("<think>a</think><answer> </answer>", False),
        ("<think>...</think><answer>4</answer>", False),
        ("<think>\u200b</think><answer>4</answer>", False),
        ("<think>a</think>", False),
        ("<answer>4</answer>", False),
        ("4", False),
        ("<answer>4</answer><think>a</think>", False),
        ("so <think>a</think><answer>4</answer>", False),
        ("<think>a</think>so<answer>4</answer>", False),
        ("<think>a</think><answer>4</answer>!", False),
        ("<think>a</think><answer>4</answer><answer>5</answer>", False),
        ("<think>a</think><think>b</think><answer>4</answer>", False),
        ("<think>a<think>b</think><answer>4</answer>", False),
        ("<think>a</think><answer>4</answer></answer>", False),
        ("<observe>a</observe><answer>4</answer>", False),
    ],
)
def test_format(text: str, expected: bool) -> None:
    assert is_tagged(text, "think") is expected
    observed = text.replace("observe", "x").replace("think", "observe")
    assert Format().score(text, COUNT, "think") == float(expected)
    assert Format().score(observed, COUNT, "observe") == float(expected)
    assert Format().score(text, COUNT, "vanilla") is None
    assert Format().score(text, COUNT, "official") is None


def test_format_refuses_an_unknown_mode() -> None:
    with pytest.raises(UserError, match="did you mean think"):
        Format().score("x", COUNT, "thinking")


def test_rewards_are_found_by_name_and_mixed() -> None:
    rewards = {name: registry.create("rewards", name) for name in ("mra", "choice", "format")}
    mix = WeightedRewards(rewards, {"mra": 1.0, "choice": 1.0, "format": 0.5})
    scored = mix.score("<think>a</think><answer>3</answer>", COUNT, "think")
    assert scored.parts == pytest.approx({"mra": 0.6, "format": 1.0})
    assert scored.total == pytest.approx(1.1)
    assert mix.score("B", LETTERED, "vanilla").parts == {"choice": 1.0}
    assert registry.create("rewards", "distance", {"mapping": "inverse"}).score("8", COUNT, "vanilla") == 0.5
    with pytest.raises(UserError, match=r"distance\.maping.*did you mean mapping"):
        registry.create("rewards", "distance", {"maping": "inverse"})
    with pytest.raises(UserError, match=r"distance\.floor"):
        registry.create("rewards", "distance", {"floor": 1.0})
