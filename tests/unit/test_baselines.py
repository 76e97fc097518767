import numpy as np
import pytest

from harness.vsibench.baselines import best_constant, categories, constant_answers, text_prior_answers
from harness.vsibench.mra import mean_relative_accuracy
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.vsibench.types import LETTERS
from reports.benchmarks.vsibench import VSIBench

CLOSEST = "Measuring from the closest point of each object, "
SIZE = "What is the length of the longest dimension (length, width, or height) of the {}, measured in centimeters?"
QUESTIONS = {
    "object_counting": ("How many table(s) are in this room?", ("table",)),
    "object_abs_distance": (
        CLOSEST + "what is the distance between the ceiling light and the TV (in meters)?",
        ("ceiling light", "tv"),
    ),
    "object_size_estimation": (SIZE.format("trash bin"), ("trash bin",)),
    "room_size_estimation": (
        "What is the size of this room (in square meters)? \n"
        "If multiple rooms are shown, estimate the size of the combined space.",
        (),
    ),
    "object_rel_distance": (
        CLOSEST + "which of these objects (stove, sofa, tv, stool) is the closest to the trash bin?",
        ("stove, sofa, tv, stool", "trash bin"),
    ),
    "object_rel_direction_easy": (
        "If I am standing by the stove and facing the tv, is the sofa to the left or the right of the tv?",
        ("stove", "tv", "sofa"),
    ),
    "object_rel_direction_hard": (
        "If I am standing by the stove and facing the tv, is the sofa to my front-left, front-right, back-left, or "
        "back-right?\nThe directions refer to the quadrants of a Cartesian plane (if I am standing at the origin).",
        ("stove", "tv", "sofa"),
    ),
    "route_planning": (
        "You are a robot beginning at the door facing the bed. You want to navigate to the desk. You will perform "
        "the following actions (Note: for each [please fill in], choose either 'turn back,' 'turn left,' or "
        "'turn right.'): 1. Go forward until the bed 2. [please fill in] 3. Go forward until the desk.",
        ("door", "bed", "desk"),
    ),
    "obj_appearance_order": (
        "What will be the first-time appearance order of the following categories in the video: a, b, c, d?",
        ("a, b, c, d",),
    ),
}


def record(key: int, kind: str, truth: str, question: str = "q", options: tuple[str, ...] | None = None) -> Record:
    return Record(
        id=key, dataset="d", scene_name=f"s{key}", question_type=kind, question=question, ground_truth=truth,
        options=options,
    )  # fmt: skip


def lettered(key: int, kind: str, words: list[str], right: str, question: str = "q") -> Record:
    options = tuple(f"{LETTERS[i]}. {word}" for i, word in enumerate(words))
    return record(key, kind, LETTERS[words.index(right)], question, options)


def accuracy(records: list[Record], answers: dict[str, str]) -> float:
    scored = VSIBench().question_scores(records, answers, "official")
    return VSIBench().figures([one.type for one in scored], [one.score for one in scored]).overall


@pytest.mark.parametrize("kind", list(QUESTIONS))
def test_categories_are_read_from_the_templates(kind: str) -> None:
    question, expected = QUESTIONS[kind]
    assert categories(record(1, kind, "1", question)) == expected
    assert categories(record(1, kind, "1", "Anything else?")) == ()


def test_best_constant_beats_a_dense_grid() -> None:
    rng = np.random.default_rng(0)
    for truths in (
        rng.integers(2, 9, 60),
        rng.lognormal(1, 0.7, 80),
        rng.lognormal(3, 0.4, 40).round(1),
        [4.0],
        [2, 2],
    ):
        values = [float(truth) for truth in truths]
        score = np.mean([mean_relative_accuracy(float(best_constant(values)), truth) for truth in values])
        grid = np.linspace(min(values) / 2, 1.5 * max(values), 500)
        best = max(np.mean([mean_relative_accuracy(x, truth) for truth in values]) for x in [*grid, *values])
        assert score >= best - 1e-9


def test_best_constant_is_short() -> None:
    assert best_constant([4.0]) == "4"
    assert best_constant([2.0, 2.0, 2.0, 9.0]) == "2"
    assert best_constant([2.5]) == "2.5"


def test_constants_per_type() -> None:
    train = [record(i, "object_counting", truth) for i, truth in enumerate("222229")]
    train += [record(10 + i, "object_size_estimation", "150") for i in range(3)]
    train += [
        lettered(20 + i, "route_planning", ["Turn Left", "Turn Right"], r) for i, r in enumerate(("Turn Right",) * 3)
    ]
    test = [
        record(100, "object_counting", "2"),
        record(101, "object_size_estimation", "150"),
        record(102, "room_size_estimation", "20"),
        lettered(103, "route_planning", ["Turn Left", "Turn Right"], "Turn Left"),
        lettered(104, "obj_appearance_order", ["a, b", "b, a"], "a, b"),
    ]
    answers = constant_answers(train, test)
    assert answers == {"100": "2", "101": "150", "103": "B", "104": "A"}
    assert SCORERS["official"].score(answers["100"], test[0]).score == 1.0
    assert set(text_prior_answers(train, test)) == set(answers)


def test_ties_between_letters_go_to_the_first() -> None:
    train = [lettered(0, "route_planning", ["x", "y"], "y"), lettered(1, "route_planning", ["x", "y"], "x")]
    assert constant_answers(train, train) == {"0": "A", "1": "A"}


def test_free_words_give_the_most_common_answer() -> None:
    train = [record(i, "object_rel_direction_easy", w) for i, w in enumerate(["right", "right", "left"])]
    test = [
        lettered(10, "object_rel_direction_easy", ["left", "right"], "left"),
        lettered(11, "object_rel_direction_easy", ["right", "left"], "left"),
        record(12, "object_rel_direction_easy", "left"),
    ]
    for baseline in (constant_answers, text_prior_answers):
        assert baseline(train, test) == {"10": "B", "11": "A", "12": "right"}


def test_numeric_prior_uses_the_named_object_and_backs_off() -> None:
    train = [record(i, "object_size_estimation", "200", SIZE.format("bed")) for i in range(12)]
    train += [record(20 + i, "object_size_estimation", "30", SIZE.format("cup")) for i in range(20)]
    train += [record(50 + i, "object_size_estimation", "90", SIZE.format("lamp")) for i in range(3)]
    test = [
        record(100 + i, "object_size_estimation", "1", SIZE.format(name))
        for i, name in enumerate(("bed", "cup", "lamp"))
    ]
    assert text_prior_answers(train, test) == {"100": "200", "101": "30", "102": "30"}


def test_distance_prior_ignores_the_order_of_the_two_objects() -> None:
    ask = CLOSEST + "what is the distance between the {} and the {} (in meters)?"
    train = [
        record(i, "object_abs_distance", "5", ask.format(*(("a", "b") if i % 2 else ("b", "a")))) for i in range(30)
    ]
    train += [record(50 + i, "object_abs_distance", "1", ask.format("c", "d")) for i in range(20)]
    assert text_prior_answers(train, [record(99, "object_abs_distance", "5", ask.format("b", "a"))]) == {"99": "5"}


@pytest.mark.parametrize("free", [False, True], ids=["lettered", "free words"])
def test_option_prior_finds_planted_leaks(free: bool) -> None:
    rng = np.random.default_rng(0)
    ask = CLOSEST + "which of these objects ({}) is the closest to the {}?"
    near = {"sink": "tap", "desk": "chair", "bed": "lamp"}
    names = ["tap", "chair", "lamp", "sofa", "box"]
    sides = ["left", "right", "back"]

    def make(start: int, n: int) -> list[Record]:
        made = []
        for key in range(start, start + n):
            target = str(rng.choice(list(near)))
            four = [near[target], *(str(x) for x in rng.permutation([x for x in names if x != near[target]])[:3])]
            shown = [str(x) for x in rng.permutation(four)]
            question = ask.format(", ".join(str(x) for x in rng.permutation(four)), target)
            made.append(lettered(2 * key, "object_rel_distance", shown, near[target], question))
            order = [str(x) for x in rng.permutation(names)[:4]]
            listed = "What will be the first-time appearance order of the following categories in the video: {}?"
            right = ", ".join(sorted(order))
            wrong = list({", ".join(str(x) for x in rng.permutation(order)) for _ in range(9)} - {right})
            shown = [str(x) for x in rng.permutation([right, *sorted(wrong)[:3]])]
            made.append(lettered(2 * key + 1, "obj_appearance_order", shown, right, listed.format(", ".join(order))))
        return made

    train, test = make(0, 150), make(1000, 60)
    if free:
        train = [r.model_copy(update={"options": None, "ground_truth": r.answer_words}) for r in train]
    assert accuracy(test, text_prior_answers(train, test)) > 90
    if not free:
        assert accuracy(test, constant_answers(train, test)) < 45
    unrelated = [lettered(i, "object_rel_direction_medium", sides, str(rng.choice(sides))) for i in range(300)]
    assert accuracy(unrelated, text_prior_answers(unrelated[:150], unrelated[150:])) < 30  # half unanswered


def test_answers_are_deterministic_and_whatever_the_order_of_training() -> None:
    rng = np.random.default_rng(3)
    words = ["w", "x", "y", "z"]
    train = [lettered(i, "route_planning", words, str(rng.choice(words))) for i in range(60)]
    test = [lettered(100 + i, "route_planning", [str(x) for x in rng.permutation(words)], "w") for i in range(20)]
    assert text_prior_answers(train, test) == text_prior_answers(train[::-1], test)
    assert text_prior_answers(train, test) == text_prior_answers(train, test)
