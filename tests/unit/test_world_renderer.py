"""The id buffer against silhouettes projected corner by corner, and scenes that must be reproducible."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy.spatial import ConvexHull

from harness.errors import UserError
from harness.world.camera import CAMERA_HEIGHT, CAMERA_PITCH, FIELD_OF_VIEW, FRAMES, RADIUS_RANGE, SAMPLED, STOPS, Walk
from harness.world.catalogue import CATALOGUE, CATEGORIES, WALL_COLOURS
from harness.world.geometry import quad_distance
from harness.world.look import FLOORS, PLAIN, WALLS, Light, Look, draw_look
from harness.world.renderer import FRAME_SIZE, SEEN_SHARE, render_scene, sample_scene, visible_share
from harness.world.rooms import EAST, NORTH, SHAPES, SOUTH, WEST, Room, draw_room
from harness.world.scenes import AREA_RANGE, SIZE_RANGE, Object, Scene, lay_out

MIDDLES = tuple(range(2, FRAMES, FRAMES // STOPS))
"""The frames in which the camera looks exactly in the direction of a stop."""
HEADINGS = tuple(k * 2 * math.pi / STOPS for k in range(STOPS))


def thing(category: str, x: float, y: float, longest: float = 1.0, yaw: float = 0.4) -> Object:
    width, depth, height = (longest * share for share in CATALOGUE[category].proportions)
    return Object(category, x, y, width, depth, height, yaw, CATALOGUE[category].colour)


def room(*objects: Object, look: Look = PLAIN) -> Scene:
    """An empty hall of eight metres with a camera that turns on the spot in its middle."""
    return Scene(-1, Room(8.0, 8.0), objects, Walk((4.0, 4.0)), look)


def seen(scene: Scene, size: int = FRAME_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Frames and ids in the middle of the stops."""
    return render_scene(scene, size, MIDDLES)


def project(points: np.ndarray, heading: float) -> np.ndarray:
    """Pixel coordinates (n, 2) of world points, by rotating the world into the camera."""
    x, y, z = (points - (4.0, 4.0, CAMERA_HEIGHT)).T
    ahead, left = x * math.cos(heading) + y * math.sin(heading), y * math.cos(heading) - x * math.sin(heading)
    cos, sin = math.cos(CAMERA_PITCH), math.sin(CAMERA_PITCH)
    ahead, above = ahead * cos + z * sin, z * cos - ahead * sin
    focal = FRAME_SIZE / 2 / math.tan(FIELD_OF_VIEW / 2)
    return np.stack([FRAME_SIZE / 2 - focal * left / ahead, FRAME_SIZE / 2 - focal * above / ahead], -1)


def in_world(piece: Object, points: np.ndarray) -> np.ndarray:
    """Points in half widths, half depths and heights of a piece, in world coordinates."""
    x, y, z = (points * (piece.width / 2, piece.depth / 2, piece.height)).T
    cos, sin = math.cos(piece.yaw), math.sin(piece.yaw)
    return np.stack([piece.x + cos * x - sin * y, piece.y + sin * x + cos * y, z], -1)


def silhouette(piece: Object, heading: float) -> np.ndarray:
    """Mask of the pixel centres inside the convex outlines of a piece's boxes."""
    signs = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    pixels = np.stack(np.meshgrid(np.arange(FRAME_SIZE), np.arange(FRAME_SIZE)), -1).reshape(-1, 2) + 0.5
    mask = np.zeros(len(pixels), bool)
    for part in CATALOGUE[piece.category].parts:
        corners = project(in_world(piece, np.array(part.centre) + signs * part.half), heading)
        mask |= Outline(corners[ConvexHull(corners).vertices]).contains_points(pixels)
    return mask.reshape(FRAME_SIZE, FRAME_SIZE)


BOXY = [name for name in CATEGORIES if all(part.shape == "box" for part in CATALOGUE[name].parts)]


@pytest.mark.parametrize("category", BOXY)
def test_id_buffer_is_the_projected_silhouette(category: str) -> None:
    piece = thing(category, 6.2, 4.3)
    shown = seen(room(piece))[1][0] == 0
    expected = silhouette(piece, HEADINGS[0])
    assert expected.sum() > 100
    assert (shown != expected).sum() <= 3  # a pixel centre may lie on an edge


@pytest.mark.parametrize("category", ["lamp", "plant", "stool"])
def test_round_solids_cover_what_their_surface_projects_to(category: str) -> None:
    piece = thing(category, 6.0, 3.8)
    shown = seen(room(piece))[1][0] == 0
    angle, height = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 2 * np.pi, 400), np.linspace(-1, 1, 200)))
    mask = np.zeros_like(shown)
    for part in CATALOGUE[category].parts:
        radius = np.sqrt(1 - height**2) if part.shape == "ellipsoid" else np.ones_like(height)
        side = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)
        lid = np.stack([np.abs(height) * np.cos(angle), np.abs(height) * np.sin(angle), np.ones_like(height)], -1)
        for surface in (side, lid) if part.shape == "cylinder" else (side,):
            column, line = project(in_world(piece, np.array(part.centre) + surface * part.half), HEADINGS[0]).T.astype(
                int
            )
            mask[line, column] = True
    assert not (shown & ~mask).any()  # every pixel shown is touched by the projected surface
    rim = mask & ~shown  # touched pixels whose centre is outside lie on the outline only
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    assert not (rim & inner).sum() > 0.05 * mask.sum()


def test_a_piece_hides_what_stands_behind_it() -> None:
    front, back = thing("bookshelf", 5.6, 4.0, 1.8, math.pi / 2), thing("stool", 7.0, 4.0, 0.5)
    alone = (seen(room(front))[1][0] == 0).sum()
    for objects in ((front, back), (back, front)):
        ids = seen(room(*objects))[1][0]
        assert (ids == objects.index(front)).sum() == alone
        assert not (ids == objects.index(back)).any()


def test_objects_appear_at_the_stop_that_faces_them() -> None:
    share = visible_share(room(thing("sofa", 4.0, 6.5), thing("bed", 1.5, 4.0), thing("table", 4.0, 1.5)))
    assert share.argmax(0).tolist() == [2, 4, 6]  # north, west, south; the headings turn to the left


DARK = Light(azimuth=0.0, elevation=math.pi / 2)
"""Straight from above: all walls are equally bright."""


def test_walls_are_a_compass() -> None:
    frames, ids = seen(room(look=Look(light=DARK)))
    assert (ids == -1).all()
    for stop, wall in ((0, EAST), (4, WEST), (2, NORTH), (6, SOUTH)):
        assert frames[stop, 10, FRAME_SIZE // 2].tolist() == list(WALL_COLOURS[wall])


def test_walls_that_face_the_light_are_brighter() -> None:
    frames = seen(room(look=Look(light=Light(azimuth=0.0, elevation=0.3))))[0]
    shares = [frames[stop, 10, 42].sum() / sum(WALL_COLOURS[wall]) for stop, wall in ((0, EAST), (2, NORTH), (4, WEST))]
    assert shares[0] < shares[1] < shares[2]  # a sun in the east shines on the wall in the west


def test_floor_squares_measure_what_they_say() -> None:
    """Straight ahead, the chequer changes where the floor is a whole number of its squares away."""
    column = seen(room(look=Look(contrast=1.5)), 420)[0][0, :, 210].astype(int)
    changes = np.nonzero(np.abs(np.diff(column.sum(1))) > 30)[0]
    slope = math.tan(FIELD_OF_VIEW / 2)
    expected = []
    for metres in (1.0, 2.0, 3.0, 4.0):
        down = math.atan(CAMERA_HEIGHT / metres) + CAMERA_PITCH
        line = 210 + 210 * math.tan(down) / slope
        if line < 420:
            expected.append(line)
    assert len(expected) == len(changes)
    assert sorted(expected) == pytest.approx(sorted(changes.tolist()), abs=1.5)


def test_a_missing_corner_is_walled_off() -> None:
    """From the middle of an L, the inner corner hides what the outer walls would show behind it."""
    plan = Room(8.0, 8.0, ((5.0, 5.0, 8.0, 8.0),))
    frames = render_scene(Scene(-1, plan, (), Walk((3.0, 3.0)), Look(light=DARK)), 210, MIDDLES)[0]
    east, north = list(WALL_COLOURS[EAST]), list(WALL_COLOURS[NORTH])
    north_east = frames[1, 40]  # a line of pixels above the horizon, towards the inner corner
    assert north_east[100].tolist() == east and north_east[110].tolist() == north  # in a rectangle: the other way round
    whole = render_scene(Scene(-1, Room(8.0, 8.0), (), Walk((3.0, 3.0)), Look(light=DARK)), 210, MIDDLES)[0]
    assert whole[1, 40, 100].tolist() == north and whole[1, 40, 110].tolist() == east


@pytest.mark.parametrize("pattern", [*FLOORS, *WALLS])
def test_patterns_and_light_change_colours_but_no_id(pattern: str) -> None:
    key = "floor_pattern" if pattern in FLOORS else "wall_pattern"
    piece = thing("sofa", 6.2, 4.3)
    plain, fancy = (seen(room(piece, look=look)) for look in (Look(contrast=1.0), Look(**{key: pattern}, contrast=1.0)))
    assert np.array_equal(plain[1], fancy[1])
    assert np.array_equal(plain[0], fancy[0]) == (pattern in ("plain", "chequer"))
    dark = seen(room(piece, look=Look(light=Light(exposure=0.5))))
    assert np.array_equal(plain[1], dark[1]) and dark[0].mean() < 0.6 * plain[0].mean()


def test_looks_differ_from_seed_to_seed() -> None:
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(60)]
    assert {look.floor_pattern for look in looks} == set(FLOORS)
    assert {look.wall_pattern for look in looks} == set(WALLS)
    assert np.std([look.light.exposure for look in looks]) > 0.03
    assert len({look.light.azimuth for look in looks}) == 60


SEEDS = range(500, 560)


@pytest.fixture(scope="module")
def scenes() -> Sequence[Scene]:
    return [scene for seed in SEEDS if (scene := sample_scene(seed)) is not None]


def test_most_seeds_are_accepted_and_every_object_is_seen(scenes: Sequence[Scene]) -> None:
    assert len(scenes) > 0.7 * len(SEEDS)
    for scene in scenes:
        assert (visible_share(scene).max(0) >= SEEN_SHARE).all()
        assert len(scene.unique) >= 4


def test_layouts_are_plausible(scenes: Sequence[Scene]) -> None:
    for scene in scenes:
        plan = scene.room
        assert AREA_RANGE[0] <= plan.area <= AREA_RANGE[1]
        off_diagonal = scene.distances[~np.eye(len(scene.objects), dtype=bool)]
        assert off_diagonal.min() >= 0.12
        for piece in scene.objects:
            t = np.linspace(0, 1, 20)[:, None]
            ends = np.concatenate([piece.corners, piece.corners[:1]])
            edge = np.concatenate([a + t * (b - a) for a, b in itertools.pairwise(ends)])
            assert (edge > 0).all() and (edge < (plan.width, plan.depth)).all()
            for west, south, east, north in plan.notches:
                assert not ((edge > (west, south)) & (edge < (east, north))).all(1).any()
            assert SIZE_RANGE[0] <= piece.longest <= SIZE_RANGE[1]
    assert {len(scene.room.notches) for scene in scenes} == {0, 1, 2}


def test_areas_by_counting_squares() -> None:
    """Every plan's area, and that its core sees all of its floor, from a fine grid of points."""
    rng = np.random.default_rng(0)
    corners_missing = Counter()
    for _ in range(60):
        plan = draw_room(rng, 20.0)
        corners_missing[len(plan.notches)] += 1
        grid = np.stack(np.meshgrid(*(np.arange(0.01, side, 0.02) for side in (plan.width, plan.depth))), -1)
        floor = np.ones(grid.shape[:2], bool)
        for west, south, east, north in plan.notches:
            floor &= ~((grid >= (west, south)) & (grid <= (east, north))).all(-1)
        assert plan.area == pytest.approx(20.0) == pytest.approx(floor.sum() * 0.02**2, rel=0.03)
        assert sum(wall.high - wall.low for wall in plan.walls) == pytest.approx(2 * (plan.width + plan.depth))
        west, south, east, north = plan.core
        assert east - west > 1.2 and north - south > 1.2
        targets = grid[floor][rng.integers(floor.sum(), size=200)]
        start = np.array([rng.uniform(west, east), rng.uniform(south, north)])
        sight = start + np.linspace(0, 1, 50)[:, None, None] * (targets - start)
        for w, s, e, n in plan.notches:
            assert not ((sight > (w, s)) & (sight < (e, n))).all(-1).any()
    assert set(corners_missing) == {0, 1, 2} and sum(SHAPES.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("sides", "notches"),
    [
        ((0.0, 4.0), ()),
        ((4.0, -1.0), ()),
        ((4.0, 4.0), ((2.0, 2.0, 4.0, 4.0), (0.0, 0.0, 2.5, 1.0))),
    ],
)
def test_an_impossible_room_is_refused(
    sides: tuple[float, float], notches: tuple[tuple[float, float, float, float], ...]
) -> None:
    with pytest.raises(UserError, match="no place that sees all of its floor"):
        Room(*sides, notches)


def test_the_walk_is_smooth_and_lingers(scenes: Sequence[Scene]) -> None:
    for scene in scenes[:20]:
        poses, walk = scene.walk.poses, scene.walk
        assert RADIUS_RANGE[0] <= walk.radius <= RADIUS_RANGE[1]
        turned = np.degrees(np.diff(poses.yaw))
        assert turned.min() > -1.0 and turned.max() < 15.0  # always to the left, but for the hand's sway
        assert np.degrees(poses.yaw[-1] - poses.yaw[0]) == pytest.approx(354, abs=8)  # once round
        assert np.abs(np.diff(turned)).max() < 6.0  # no jerk
        steps = np.linalg.norm(np.diff(poses.position, axis=0), axis=1)
        assert steps.max() < 0.25 and 1.2 < steps.sum() < 3.5
        for k in range(STOPS):
            off = poses.yaw[list(SAMPLED[2 * k : 2 * k + 2])] - walk.headings[k]
            assert np.degrees(np.abs(off)).max() < 5.0  # a loader's two frames of a stop look the same way
        west, south, east, north = scene.room.core
        assert (poses.position[:, 0] > west).all() and (poses.position[:, 0] < east).all()
        assert (poses.position[:, 1] > south).all() and (poses.position[:, 1] < north).all()
        for piece in scene.objects:  # nobody walks through the furniture
            paths = np.repeat(poses.position[:, None, :2], 4, 1)
            assert quad_distance(paths, piece.corners[None]).min() > 0.2


def test_a_seed_always_gives_the_same_scene_and_frames(scenes: Sequence[Scene]) -> None:
    first = scenes[0]
    again = lay_out(first.seed)
    assert again is not None and again.digest == first.digest
    assert all(np.array_equal(a, b) for a, b in zip(render_scene(again), render_scene(first), strict=True))
    assert len({scene.digest for scene in scenes}) == len(scenes)
    moved = dataclasses.replace(first, walk=dataclasses.replace(first.walk, radius=0.33))
    assert moved.digest != first.digest
