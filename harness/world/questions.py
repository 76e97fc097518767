"""All ten raw question types of VSI-Bench about a scene, worded as the benchmark words them, with exact answers.

A question's text never gives its answer away. Categories do not determine sizes, every option shown could be
right in the same scene, the right one among them is drawn uniformly, and so is its letter. A question that a
careful viewer could answer either way is never asked; the margins are below.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.vsibench.types import LETTERS
from harness.world.camera import STOPS
from harness.world.geometry import quad_distance, signed_angle
from harness.world.renderer import SEEN_SHARE, visible_share
from harness.world.scenes import Scene

DATASET = "world"

Raw = dict[str, Any]
"""A record in VSI-Bench's schema, as a plain dict."""

DIRECTIONS = ("left", "right", "back", "front-left", "front-right", "back-left", "back-right")
TURNS = ("Turn Left", "Turn Right", "Turn Back")

TEMPLATES: dict[str, str] = {
    "object_counting": "How many {a}(s) are in this room?",
    "object_abs_distance": (
        "Measuring from the closest point of each object, what is the distance between the {a} and the {b} (in meters)?"
    ),
    "object_size_estimation": (
        "What is the length of the longest dimension (length, width, or height) of the {a}, measured in centimeters?"
    ),
    "room_size_estimation": (
        "What is the size of this room (in square meters)? \n"
        "If multiple rooms are shown, estimate the size of the combined space."
    ),
    "object_rel_distance": (
        "Measuring from the closest point of each object, which of these objects ({a}, {b}, {c}, {d})"
        " is the closest to the {e}?"
    ),
    "object_rel_direction_easy": (
        "If I am standing by the {a} and facing the {b}, is the {c} to the left or the right of the {b}?"
    ),
    "object_rel_direction_medium": (
        "If I am standing by the {a} and facing the {b}, is the {c} to my left, right, or back?\n"
        "An object is to my back if I would have to turn at least 135 degrees in order to face it."
    ),
    "object_rel_direction_hard": (
        "If I am standing by the {a} and facing the {b}, is the {c} to my front-left, front-right,"
        " back-left, or back-right?\n"
        "The directions refer to the quadrants of a Cartesian plane (if I am standing at the origin and"
        " facing along the positive y-axis)."
    ),
    "route_planning": (
        "You are a robot beginning at the {a} facing the {b}. You want to navigate to the {goal}. You will"
        " perform the following actions (Note: for each [please fill in], choose either 'turn back,'"
        " 'turn left,' or 'turn right.'): {steps}. You have reached the final destination."
    ),
    "obj_appearance_order": (
        "What will be the first-time appearance order of the following categories in the video: {a}, {b}, {c}, {d}?"
    ),
}
"""The benchmark's wording of each raw type; a route's steps are filled in by ``route_steps``."""

MIN_DISTANCE = 0.3
"""Metres: below, a relative error of the answer is a few centimetres, which no frame resolves."""
NEAREST_MARGIN = 0.3
"""Metres by which the nearest option beats the second nearest: about the error of a careful human guess."""
STANDING_DISTANCE = 0.8
"""Metres between the centres of the place to stand and what is faced or asked for; at a smaller distance the
direction would depend on where exactly one stands."""
SIDE_MARGIN = 25.0
"""Degrees off the line of sight (ahead or behind) from which something counts as left or right."""
BACK_MARGIN = 12.0
"""Degrees around the 135 that separate left and right from back."""
QUADRANT_MARGIN = 15.0
"""Degrees off the axes that separate front-left, front-right, back-left and back-right."""
TURN_LEFT_RIGHT = (30.0, 120.0)
"""Degrees of a turn that everyone would call left or right ..."""
TURN_BACK = 150.0
"""... and from which everyone would call it turning back."""
BODY_RADIUS = 0.2
"""Metres that a walking robot keeps from all furniture but its start and its goal."""
BARELY_SEEN_SHARE = 0.001
"""A category that covers between this and ``SEEN_SHARE`` of an earlier stop has no certain first appearance."""
TWO_TURN_SHARE = 1 / 3
"""Share of routes with two turns where the scene has some."""

DEFAULT_PER_TYPE: Mapping[str, int] = dict.fromkeys(TEMPLATES, 1) | dict.fromkeys(
    ("object_counting", "object_abs_distance", "object_size_estimation", "object_rel_distance"), 2
)
"""Maximum number of questions of each type per scene: about 13 in total."""


def make_questions(
    scene: Scene,
    rng: np.random.Generator,
    per_type: int | Mapping[str, int] = DEFAULT_PER_TYPE,
    *,
    scene_name: str | None = None,
) -> list[Raw]:
    """Write the questions about a scene.

    Args:
        scene: An accepted scene (see ``harness.world.renderer.sample_scene``).
        rng: Decides which questions are asked.
        per_type: Maximum number of questions of each type, or of each type named; fewer where the scene
            allows no more that are unambiguous.
        scene_name: Name in the records; ``seed_{seed}`` unless given.

    Returns:
        Records with letters and options where the type has them; ``free_form`` gives the other form.
    """
    name = scene_name or f"seed_{scene.seed}"
    writer = _Writer(scene, rng)
    records: list[Raw] = []
    for question_type, ask in _ASK.items():
        count = per_type if isinstance(per_type, int) else per_type.get(question_type, 0)
        for asked in itertools.islice(ask(writer), count):
            question, options, ground_truth = asked
            records.append(
                {
                    "id": f"{name}_{len(records):02d}",
                    "dataset": DATASET,
                    "scene_name": name,
                    "question_type": question_type,
                    "question": question,
                    "options": options,
                    "ground_truth": ground_truth,
                }
            )
    return records


def question_rng(scene: Scene) -> np.random.Generator:
    """The random stream of a scene's questions in the splits, independent of its layout's."""
    return np.random.default_rng([scene.seed, 1])


def free_form(record: Raw) -> Raw:
    """The same question without options, answered by words instead of a letter (as in VSI-100k)."""
    words = record["ground_truth"]
    if record["options"] is not None:
        words = record["options"][LETTERS.index(words)].split(". ", 1)[1]
    return {**record, "id": f"{record['id']}_free", "options": None, "ground_truth": words}


def route_steps(stops: Sequence[str]) -> str:
    """The numbered actions of a route that starts facing ``stops[0]`` and ends at ``stops[-1]``."""
    steps = [f"Go forward until the {stops[0]}"]
    for stop in stops[1:]:
        steps += ["[please fill in]", f"Go forward until the {stop}"]
    return " ".join(f"{i}. {step}" for i, step in enumerate(steps, 1))


def easy_direction(angle: float) -> str | None:
    """Left or right for a signed angle in degrees (left positive), None if ambiguous."""
    if not SIDE_MARGIN < abs(angle) < 180 - SIDE_MARGIN:
        return None
    return "left" if angle > 0 else "right"


def medium_direction(angle: float) -> str | None:
    """Left, right or back (at least 135 degrees), None if ambiguous or straight ahead."""
    if abs(angle) > 135 + BACK_MARGIN:
        return "back"
    if not SIDE_MARGIN < abs(angle) < 135 - BACK_MARGIN:
        return None
    return "left" if angle > 0 else "right"


def hard_direction(angle: float) -> str | None:
    """The quadrant of a signed angle, None within ``QUADRANT_MARGIN`` of an axis."""
    off_axis = abs(angle) % 90
    if not QUADRANT_MARGIN < off_axis < 90 - QUADRANT_MARGIN:
        return None
    return ("front" if abs(angle) < 90 else "back") + ("-left" if angle > 0 else "-right")


DIRECTION_RULES: Mapping[str, Callable[[float], str | None]] = {
    "object_rel_direction_easy": easy_direction,
    "object_rel_direction_medium": medium_direction,
    "object_rel_direction_hard": hard_direction,
}
"""The answer to each direction question from a signed angle in degrees."""


def turn_name(angle: float) -> str | None:
    """The turn by a signed angle, None where it is neither clearly sideways nor clearly back."""
    if abs(angle) > TURN_BACK:
        return "Turn Back"
    if not TURN_LEFT_RIGHT[0] < abs(angle) < TURN_LEFT_RIGHT[1]:
        return None
    return "Turn Left" if angle > 0 else "Turn Right"


_Asked = tuple[str, list[str] | None, str]
"""Question, options or None, ground truth."""


class _Writer:
    """What all question types need of one scene."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene, self.rng = scene, rng
        self.categories = tuple(scene.by_category)
        self.unique = scene.unique
        self.index = {name: scene.by_category[name][0] for name in self.unique}
        self.centre = np.array([(thing.x, thing.y) for thing in scene.objects])

    def shuffled(self, items: Iterable[Any]) -> list[Any]:
        pool = list(items)
        return [pool[i] for i in self.rng.permutation(len(pool))]

    def lettered(self, right: str, wrong: Iterable[str]) -> tuple[list[str], str]:
        """Options in random order, and the letter of the right one."""
        options = self.shuffled([right, *wrong])
        return [f"{LETTERS[i]}. {text}" for i, text in enumerate(options)], LETTERS[options.index(right)]

    def distance(self, a: str, b: str) -> float:
        """Smallest distance between any piece of one category and any of another."""
        pieces = self.scene.by_category
        return float(self.scene.distances[np.ix_(pieces[a], pieces[b])].min())

    def angles(self) -> dict[tuple[str, str, str], float]:
        """Signed angle to the third category for someone at the first facing the second."""
        names = self.unique
        points = self.centre[[self.index[name] for name in names]]
        table = signed_angle(points[:, None, None], points[None, :, None], points[None, None, :])
        apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) >= STANDING_DISTANCE
        return {
            (names[i], names[j], names[k]): float(table[i, j, k])
            for i, j, k in itertools.permutations(range(len(names)), 3)
            if apart[i, j] and apart[i, k]
        }


def _counting(w: _Writer) -> Iterable[_Asked]:
    pieces = w.scene.by_category
    for name in w.shuffled(n for n in w.categories if len(pieces[n]) > 1):
        yield TEMPLATES["object_counting"].format(a=name), None, str(len(pieces[name]))


def _abs_distance(w: _Writer) -> Iterable[_Asked]:
    for pair in w.shuffled(itertools.combinations(w.unique, 2)):
        a, b = w.shuffled(pair)
        metres = w.distance(a, b)
        if metres >= MIN_DISTANCE:
            yield TEMPLATES["object_abs_distance"].format(a=a, b=b), None, f"{metres:.1f}"


def _size(w: _Writer) -> Iterable[_Asked]:
    for name in w.shuffled(w.unique):
        longest = w.scene.objects[w.index[name]].longest
        yield TEMPLATES["object_size_estimation"].format(a=name), None, str(round(100 * longest))


def _room_size(w: _Writer) -> Iterable[_Asked]:
    yield TEMPLATES["room_size_estimation"], None, f"{w.scene.room.area:.1f}"


def _rel_distance(w: _Writer) -> Iterable[_Asked]:
    for anchor in w.shuffled(w.unique):
        names = w.shuffled(name for name in w.categories if name != anchor)[:4]
        ranked = sorted(names, key=lambda name: w.distance(name, anchor))
        if len(names) == 4 and w.distance(ranked[1], anchor) - w.distance(ranked[0], anchor) > NEAREST_MARGIN:
            options, letter = w.lettered(ranked[0], ranked[1:])
            a, b, c, d = (option[3:] for option in options)
            yield TEMPLATES["object_rel_distance"].format(a=a, b=b, c=c, d=d, e=anchor), options, letter


def _direction(question_type: str, answers: Sequence[str]) -> _Ask:
    template, classify = TEMPLATES[question_type], DIRECTION_RULES[question_type]

    def ask(w: _Writer) -> Iterable[_Asked]:
        found: dict[str | None, list[tuple[str, str, str]]] = {}
        for triple, angle in w.angles().items():
            found.setdefault(classify(angle), []).append(triple)
        while all(found.get(answer) for answer in answers):  # otherwise the scene would favour some answers
            right = answers[int(w.rng.integers(len(answers)))]
            a, b, c = found[right].pop(w.rng.integers(len(found[right])))
            options, letter = w.lettered(right, [answer for answer in answers if answer != right])
            yield template.format(a=a, b=b, c=c), options, letter

    return ask


def _walkable(w: _Writer) -> set[tuple[str, str]]:
    """Ordered pairs of categories between whose centres a robot can walk straight, past furniture and walls."""
    corners = np.concatenate([[thing.corners for thing in w.scene.objects], w.scene.room.notch_corners])
    pairs = list(itertools.combinations(w.unique, 2))
    ends = np.array([(w.index[a], w.index[b]) for a, b in pairs])
    paths = w.centre[ends][:, [0, 0, 1, 1]]
    clearance = quad_distance(paths[:, None], corners[None])
    np.put_along_axis(clearance, ends, np.inf, axis=1)
    free = clearance.min(1) >= BODY_RADIUS
    return {pair for (a, b), ok in zip(pairs, free, strict=True) if ok for pair in ((a, b), (b, a))}


def _routes(w: _Writer) -> Iterable[_Asked]:
    walkable = _walkable(w)
    turns: dict[tuple[str, str, str], str] = {}
    for a, b, c in itertools.permutations(w.unique, 3):
        if (a, b) in walkable and (b, c) in walkable:
            start, corner, goal = (w.centre[w.index[name]] for name in (a, b, c))
            name = turn_name(float(signed_angle(corner, 2 * corner - start, goal)))
            if name is not None:
                turns[a, b, c] = name
    single: dict[str, list[tuple[str, ...]]] = {}
    double: dict[str, list[tuple[str, ...]]] = {}
    for (a, b, c), first in turns.items():
        single.setdefault(first, []).append((a, b, c))
        for d in w.unique:
            second = turns.get((b, c, d)) if d != a else None
            if second is not None:
                double.setdefault(f"{first}, {second}", []).append((a, b, c, d))
    while True:
        wanted = (double, 4) if w.rng.random() < TWO_TURN_SHARE else (single, len(TURNS))
        available = [answer for answer, places in wanted[0].items() if places]
        if len(available) < wanted[1]:
            return
        right, *wrong = w.shuffled(available)[: wanted[1]]
        route = wanted[0][right].pop(w.rng.integers(len(wanted[0][right])))
        options, letter = w.lettered(right, wrong)
        text = TEMPLATES["route_planning"].format(a=route[0], b=route[1], goal=route[-1], steps=route_steps(route[1:]))
        yield text, options, letter


def first_seen(scene: Scene) -> dict[str, int]:
    """The stop at which each category is first seen; categories without a certain one are left out."""
    share = visible_share(scene)
    result: dict[str, int] = {}
    for name, pieces in scene.by_category.items():
        best = share[:, pieces].max(1)
        first = int(np.argmax(best >= SEEN_SHARE))
        if (best[:first] < BARELY_SEEN_SHARE).all():
            result[name] = first
    return result


def _order(w: _Writer) -> Iterable[_Asked]:
    first = first_seen(w.scene)
    by_stop = [[name for name in first if first[name] == stop] for stop in range(STOPS)]
    asked: set[tuple[str, ...]] = set()
    for _ in range(4 * STOPS):
        candidates = [names[w.rng.integers(len(names))] for names in by_stop if names]
        if len(candidates) < 4:
            return
        picked = sorted(w.shuffled(candidates)[:4], key=first.__getitem__)
        if tuple(picked) in asked:
            continue
        asked.add(tuple(picked))
        right = ", ".join(picked)
        orders = [", ".join(order) for order in itertools.permutations(picked)]
        options, letter = w.lettered(right, w.shuffled(o for o in orders if o != right)[:3])
        a, b, c, d = w.shuffled(picked)
        yield TEMPLATES["obj_appearance_order"].format(a=a, b=b, c=c, d=d), options, letter


_Ask = Callable[[_Writer], Iterable[_Asked]]

_ASK: dict[str, _Ask] = {
    "object_counting": _counting,
    "object_abs_distance": _abs_distance,
    "object_size_estimation": _size,
    "room_size_estimation": _room_size,
    "object_rel_distance": _rel_distance,
    "object_rel_direction_easy": _direction("object_rel_direction_easy", DIRECTIONS[:2]),
    "object_rel_direction_medium": _direction("object_rel_direction_medium", DIRECTIONS[:3]),
    "object_rel_direction_hard": _direction("object_rel_direction_hard", DIRECTIONS[3:]),
    "route_planning": _routes,
    "obj_appearance_order": _order,
}
"""How each raw type is asked: without end, or until the scene has no further unambiguous question."""
