"""Footprints, distances and angles against hand calculation and brute force."""

import math

import numpy as np
import pytest

from harness.world.geometry import footprint, quad_distance, signed_angle


def square(x: float, y: float, side: float = 1.0, yaw: float = 0.0) -> np.ndarray:
    return footprint(x, y, side, side, yaw)


def test_footprint_turns_counter_clockwise() -> None:
    corners = footprint(2.0, 1.0, 4.0, 2.0, math.pi / 2)
    expected = {(3.0, -1.0), (3.0, 3.0), (1.0, 3.0), (1.0, -1.0)}
    assert {(round(x, 9), round(y, 9)) for x, y in corners.tolist()} == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (square(0, 0), square(3, 0), 2.0),  # edge to edge
        (square(0, 0), square(4, 5), 5.0),  # corner to corner: 3-4-5
        (square(0, 0), square(2, 0, math.sqrt(2), math.pi / 4), 0.5),  # corner to edge
        (square(0, 0), square(1, 0), 0.0),  # touching
        (square(0, 0), square(0.5, 0.5), 0.0),  # overlapping
        (square(0, 0, 4), square(0.3, 0.2), 0.0),  # one inside the other
        (footprint(0, 0, 6, 1, 0), footprint(0, 0, 1, 6, 0), 0.0),  # a cross: no corner inside the other
    ],
)
def test_quad_distance_by_hand(a: np.ndarray, b: np.ndarray, expected: float) -> None:
    assert quad_distance(a, b) == pytest.approx(expected, abs=1e-9)
    assert quad_distance(b, a) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("end", "expected"), [((0.0, 3.0), 0.0), ((-3.0, -2.0), 1.5), ((-2.0, -2.0), 1.5), ((0.0, -1.0), 0.5)]
)
def test_quad_distance_of_a_segment(end: tuple[float, float], expected: float) -> None:
    start = (0.0, -2.0)
    assert quad_distance([start, start, end, end], square(0, 0)) == pytest.approx(expected)


def test_quad_distance_agrees_with_sampled_outlines() -> None:
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 1, 80, endpoint=False)[:, None]

    def outline(quad: np.ndarray) -> np.ndarray:
        return np.concatenate([a + steps * (b - a) for a, b in zip(quad, np.roll(quad, -1, 0), strict=True)])

    compared = 0
    for _ in range(60):
        a, b = (footprint(*rng.uniform(-2, 2, 2), *rng.uniform(0.1, 1.5, 2), rng.uniform(0, 7)) for _ in "ab")
        sampled = np.linalg.norm(outline(a)[:, None] - outline(b)[None], axis=-1).min()
        exact = float(quad_distance(a, b))
        if exact > 0:
            compared += 1
            assert exact <= sampled <= exact + 0.03
        else:
            assert sampled < 1.5  # inside each other: outlines may be apart, but not by more than a side
    assert compared > 20


def test_quad_distance_broadcasts() -> None:
    quads = np.stack([square(0, 0), square(3, 0), square(0, 4)])
    table = quad_distance(quads[:, None], quads[None])
    assert table.shape == (3, 3)
    assert table[0] == pytest.approx([0, 2, 3])
    assert table[1, 2] == pytest.approx(math.hypot(2, 3))
    assert np.allclose(table, table.T)


@pytest.mark.parametrize(
    ("target", "expected"), [((0, 1), 0), ((-1, 0), 90), ((1, 0), -90), ((0, -1), 180), ((-1, 1), 45), ((1, -1), -135)]
)
def test_signed_angle_left_is_positive(target: tuple[float, float], expected: float) -> None:
    assert abs(signed_angle((0, 0), (0, 5), target)) == pytest.approx(abs(expected))
    if abs(expected) != 180:
        assert signed_angle((3, 3), (3, 8), np.add(target, 3)) == pytest.approx(expected)
