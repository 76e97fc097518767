"""Answers recomputed from the question's text alone, by sampling points and counting pixels."""

import cmath
import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import chisquare

from harness.vsibench.records import Record
from harness.vsibench.types import NUMERIC_TYPES, QUESTION_TYPES
from harness.world.audit import blind_scores
from harness.world.build import SPLITS
from harness.world.camera import FRAMES
from harness.world.catalogue import CATEGORIES
from harness.world.questions import (
    DEFAULT_PER_TYPE,
    Raw,
    easy_direction,
    free_form,
    hard_direction,
    make_questions,
    medium_direction,
    route_steps,
    turn_name,
)
from harness.world.renderer import render_scene
from harness.world.scenes import Object, Scene

Asked = list[tuple[Scene, Raw]]


@pytest.fixture(scope="module")
def asked() -> Asked:
    found: Asked = []
    for index in range(40):
        scene = SPLITS["dev"].scene(index)
        found += [(scene, record) for record in make_questions(scene, np.random.default_rng(index), 3)]
    return found


def of_type(asked: Asked, *types: str) -> Asked:
    chosen = [(scene, record) for scene, record in asked if record["question_type"] in types]
    assert len(chosen) >= 20
    return chosen


def words(record: Raw) -> str:
    return Record(**record).answer_words


def pieces(scene: Scene, category: str) -> list[Object]:
    return [thing for thing in scene.objects if thing.category == category]


def outline(thing: Object) -> np.ndarray:
    """Points every two centimetres or less around a footprint, by rotating them one by one."""
    t = np.linspace(-0.5, 0.5, 91)
    edge = np.full_like(t, 0.5)
    local = np.concatenate([np.stack(p, -1) for p in ((t, edge), (t, -edge), (edge, t), (-edge, t))])
    turned = (local[:, 0] * thing.width + 1j * local[:, 1] * thing.depth) * cmath.exp(1j * thing.yaw)
    return np.stack([turned.real + thing.x, turned.imag + thing.y], -1)


def gap(scene: Scene, a: str, b: str) -> float:
    """Distance of the nearest points of two categories, from sampled outlines."""
    return min(
        float(cKDTree(outline(p)).query(outline(q))[0].min()) for p in pieces(scene, a) for q in pieces(scene, b)
    )


def turn_between(scene: Scene, a: str, b: str, c: str) -> float:
    """Degrees to turn left at ``a``, facing ``b``, to face ``c``."""
    at = {name: complex(thing.x, thing.y) for name in (a, b, c) for thing in pieces(scene, name)}
    assert all(len(pieces(scene, name)) == 1 for name in (a, b, c))
    return math.degrees(cmath.phase((at[c] - at[a]) / (at[b] - at[a])))


def test_every_type_is_asked_and_is_a_valid_record(asked: Asked) -> None:
    assert {record["question_type"] for _, record in asked} == set(QUESTION_TYPES) == set(DEFAULT_PER_TYPE)
    for _, record in asked:
        for form in (record, free_form(record)):
            assert list(form) == [
                *("id", "dataset", "scene_name", "question_type", "question", "options", "ground_truth")
            ]
            parsed = Record(**form)
            assert (parsed.options is None) or re.fullmatch("[A-D]", parsed.ground_truth)
        assert (record["options"] is None) == (record["question_type"] in NUMERIC_TYPES)
        if record["options"]:
            texts = [option[3:] for option in record["options"]]
            assert len(set(texts)) == len(texts)
            assert [option[:3] for option in record["options"]] == ["A. ", "B. ", "C. ", "D. "][: len(texts)]
        assert free_form(record)["ground_truth"] == words(record)
        assert "{" not in record["question"]


def test_counts(asked: Asked) -> None:
    for scene, record in of_type(asked, "object_counting"):
        name = re.fullmatch(r"How many (.+)\(s\) are in this room\?", record["question"])[1]  # type: ignore[index]
        assert int(record["ground_truth"]) == len(pieces(scene, name)) > 1


def test_sizes(asked: Asked) -> None:
    for scene, record in of_type(asked, "object_size_estimation"):
        name = re.search(r"of the (\w+), measured in centimeters", record["question"])[1]  # type: ignore[index]
        (thing,) = pieces(scene, name)
        assert abs(float(record["ground_truth"]) / 100 - max(thing.width, thing.depth, thing.height)) <= 0.005
    for scene, record in of_type(asked, "room_size_estimation"):
        assert abs(float(record["ground_truth"]) - scene.room.area) <= 0.05 + 1e-9


def test_absolute_distances(asked: Asked) -> None:
    for scene, record in of_type(asked, "object_abs_distance")[:60]:
        a, b = re.search(r"between the (\w+) and the (\w+) \(in", record["question"]).groups()  # type: ignore[union-attr]
        assert len(pieces(scene, a)) == len(pieces(scene, b)) == 1
        assert abs(float(record["ground_truth"]) - gap(scene, a, b)) <= 0.05 + 0.02


def test_nearest_object(asked: Asked) -> None:
    for scene, record in of_type(asked, "object_rel_distance")[:40]:
        listed, anchor = re.search(r"\((.+)\) is the closest to the (\w+)\?", record["question"]).groups()  # type: ignore[union-attr]
        assert listed.split(", ") == [option[3:] for option in record["options"]]
        ranked = sorted(listed.split(", "), key=lambda name: gap(scene, name, anchor))
        assert words(record) == ranked[0]
        assert gap(scene, ranked[1], anchor) - gap(scene, ranked[0], anchor) > 0.27


def test_directions(asked: Asked) -> None:
    pattern = r"standing by the (\w+) and facing the (\w+), is the (\w+) to"
    for scene, record in of_type(asked, *(t for t in QUESTION_TYPES if "direction" in t)):
        angle = turn_between(scene, *re.search(pattern, record["question"]).groups())  # type: ignore[union-attr]
        side = "left" if angle > 0 else "right"
        if record["question_type"].endswith("easy"):
            expected = side
        elif record["question_type"].endswith("medium"):
            expected = "back" if abs(angle) >= 135 else side
        else:
            expected = f"{'front' if abs(angle) < 90 else 'back'}-{side}"
        assert words(record) == expected


def test_routes_lead_to_the_goal_and_can_be_walked(asked: Asked) -> None:
    two_turns = 0
    for scene, record in of_type(asked, "route_planning"):
        start, faced, goal = re.search(
            r"beginning at the (\w+) facing the (\w+)\. You want to navigate to the (\w+)\.", record["question"]
        ).groups()  # type: ignore[union-attr]
        stops = [start, *re.findall(r"Go forward until the (\w+)", record["question"])]
        turns = words(record).split(", ")
        assert (stops[1], stops[-1], len(stops)) == (faced, goal, len(turns) + 2)
        two_turns += len(turns) == 2
        at = [complex(thing.x, thing.y) for name in stops for thing in pieces(scene, name)]
        heading = at[1] - at[0]
        for here, there, turn in zip(at[1:], at[2:], turns, strict=False):
            off = {
                name: abs(cmath.phase((there - here) / (heading * factor)))
                for name, factor in (("Turn Left", 1j), ("Turn Right", -1j), ("Turn Back", -1))
            }
            assert min(off, key=off.__getitem__) == turn
            assert off[turn] < math.radians(61)
            heading = there - here
        for a, b, names in zip(at, at[1:], itertools.pairwise(stops), strict=False):
            path = np.array([a + t * (b - a) for t in np.linspace(0, 1, 101)])
            for thing in scene.objects:
                if thing.category not in names:
                    local = (path - complex(thing.x, thing.y)) * cmath.exp(-1j * thing.yaw)
                    outside_x = np.maximum(np.abs(local.real) - thing.width / 2, 0)
                    outside_y = np.maximum(np.abs(local.imag) - thing.depth / 2, 0)
                    assert np.hypot(outside_x, outside_y).min() >= 0.2 - 1e-6
            for west, south, east, north in scene.room.notches:
                beside = np.maximum(np.maximum(west - path.real, path.real - east), 0)
                before = np.maximum(np.maximum(south - path.imag, path.imag - north), 0)
                assert np.hypot(beside, before).min() >= 0.2 - 1e-6
    assert two_turns >= 5


def test_order_of_first_appearance(asked: Asked) -> None:
    """In all frames of the video, not only in those that a loader samples."""
    for scene, record in of_type(asked, "obj_appearance_order")[:30]:
        listed = record["question"].split("video: ")[1].rstrip("?").split(", ")
        ids = render_scene(scene, 84, tuple(range(FRAMES)))[1]
        first = {}
        for name in listed:
            owners = [i for i, thing in enumerate(scene.objects) if thing.category == name]
            covered = np.stack([(ids == i).mean((1, 2)) for i in owners]).max(0)
            first[name] = next(frame for frame in range(FRAMES) if covered[frame] >= 0.005)
        assert len(set(first.values())) == 4
        assert words(record) == ", ".join(sorted(listed, key=first.__getitem__))


@pytest.mark.parametrize(
    ("classify", "angle", "expected"),
    [
        (easy_direction, 90, "left"),
        (easy_direction, -150, "right"),
        (easy_direction, 20, None),
        (easy_direction, -170, None),
        (medium_direction, 60, "left"),
        (medium_direction, -100, "right"),
        (medium_direction, 130, None),
        (medium_direction, -160, "back"),
        (medium_direction, 5, None),
        (hard_direction, 45, "front-left"),
        (hard_direction, -45, "front-right"),
        (hard_direction, 135, "back-left"),
        (hard_direction, -135, "back-right"),
        (hard_direction, 80, None),
        (hard_direction, 175, None),
        (turn_name, 90, "Turn Left"),
        (turn_name, -90, "Turn Right"),
        (turn_name, 175, "Turn Back"),
        (turn_name, 10, None),
        (turn_name, 135, None),
    ],
)
def test_direction_rules(classify, angle: float, expected: str | None) -> None:  # type: ignore[no-untyped-def]
    assert classify(angle) == expected


def test_route_steps_wording() -> None:
    assert route_steps(["sofa", "tv"]) == "1. Go forward until the sofa 2. [please fill in] 3. Go forward until the tv"


@pytest.fixture(scope="module")
def pool() -> list[list[Raw]]:
    return [SPLITS["train"].questions(index) for index in range(200)]


def test_letters_are_uniform(pool: list[list[Raw]]) -> None:
    lettered = [record for records in pool for record in records if record["options"]]
    for size in (2, 3, 4):
        counts = Counter(record["ground_truth"] for record in lettered if len(record["options"]) == size)
        assert sum(counts.values()) > 150 and len(counts) == size
        assert chisquare(list(counts.values())).pvalue > 0.001


def test_answers_in_words_are_uniform(pool: list[list[Raw]]) -> None:
    for level, answers in (("easy", 2), ("medium", 3), ("hard", 4)):
        counts = Counter(
            words(record)
            for records in pool
            for record in records
            if record["question_type"] == f"object_rel_direction_{level}"
        )
        assert len(counts) == answers
        assert chisquare(list(counts.values())).pvalue > 0.001


def test_about_thirteen_questions_a_scene(pool: list[list[Raw]]) -> None:
    assert 11.5 < np.mean([len(records) for records in pool]) < 14
    ids = [record["id"] for records in pool for record in records]
    assert len(set(ids)) == len(ids)


def test_the_text_does_not_tell_the_answer(pool: list[list[Raw]]) -> None:
    """Blind baselines stay within sampling error of the better of chance and the best constant."""
    flat = [[record for records in part for record in records] for part in (pool[:120], pool[120:])]
    scores = blind_scores(*flat)
    assert set(scores.index) == set(QUESTION_TYPES)
    excess = scores["text_prior"] - scores[["chance", "constant"]].max(axis=1)
    assert (excess < 2.5 * 50 / np.sqrt(scores["n"])).all()


def test_the_standard_error_counts_scenes_not_questions(pool: list[list[Raw]]) -> None:
    train, test = ([record for records in part for record in records] for part in (pool[:150], pool[150:]))
    once, twice = blind_scores(train, test), blind_scores(train, test + test)
    assert (twice["n"] == 2 * once["n"]).all()
    assert np.allclose(twice["text_prior_se"], once["text_prior_se"])
    share, error, n = once.loc["object_rel_direction_easy", ["text_prior", "text_prior_se", "n"]]  # one in a scene
    assert error == pytest.approx(np.sqrt(share * (100 - share) / n))


def test_the_audit_finds_a_leak(pool: list[list[Raw]]) -> None:
    """Where the category tells the size, or an option's words tell the answer, the prior exceeds the constant."""
    leaky = []
    for record in (record for records in pool for record in records):
        if record["question_type"] == "object_size_estimation":
            name = next(name for name in CATEGORIES if f"of the {name}," in record["question"])
            leaky.append({**record, "ground_truth": str(40 + 20 * CATEGORIES.index(name))})
        elif record["question_type"] == "object_rel_direction_hard":
            letter = next(option[0] for option in record["options"] if option.endswith("back-left"))
            leaky.append({**record, "ground_truth": letter})
    scores = blind_scores(leaky[: len(leaky) // 2], leaky[len(leaky) // 2 :])
    assert (scores["text_prior"] > 75).all()
    assert (scores["constant"] < 65).all()
