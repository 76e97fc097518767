import math

import pytest

from harness.api.reward import WeightedRewards
from harness.errors import UserError
from harness.plugins import registry
from harness.vsibench.mra import MRA_THRESHOLDS, mean_relative_accuracy, thresholds_met
from harness.vsibench.records import Record
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
    assert reward.score("<think>9</think><answer>four</answer>", COUNT, "think") == 1.0
    assert reward.score("many", COUNT, "vanilla") == 0.0
    assert reward.score("B", LETTERED, "vanilla") is None
    with pytest.raises(UserError, match=r"record 7 .*ground_truth must be a number, is 'four'"):
        reward.score("4", record("object_counting", "four"), "vanilla")


def test_choice_reward() -> None:
    reward = Choice()
    for text in ("B", "b.", "(B)", "table", "<answer>B. table</answer>"):
        assert reward.score(text, LETTERED, "think") == 1.0
    for text in ("A", "chair", "", "E", "tables"):
        assert reward.score(text, LETTERED, "think") == 0.0
    assert reward.score("The table.", FREE, "vanilla") == 1.0
    assert reward.score("B", FREE, "vanilla") == 0.0
    assert reward.score("4", COUNT, "vanilla") is None


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
