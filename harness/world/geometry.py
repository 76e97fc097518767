"""Exact plane geometry of furnished rooms: footprints, distances between them, signed angles.

Every piece of furniture is a box standing on the floor, so the smallest distance between two boxes
equals the smallest distance between their footprints. All lengths are metres, all functions broadcast.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_UNIT_SQUARE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


def footprint(x: float, y: float, width: float, depth: float, yaw: float) -> Floats:
    """Corners (4, 2) of a rectangle with its centre at (x, y), turned by ``yaw`` radians, counter-clockwise."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    across, along = (_UNIT_SQUARE * (width, depth)).T
    return np.stack([x + cos * across - sin * along, y + sin * across + cos * along], -1)


def quad_distance(a: ArrayLike, b: ArrayLike) -> Floats:
    """Smallest distance between convex quadrilaterals, 0 where they touch or overlap.

    The distance of two disjoint convex polygons is always reached at a corner of one of them, so the
    minimum over all corner-to-edge distances is exact; overlap is found by the separating-axis test.

    Args:
        a: (..., 4, 2) corners in order. A segment p-q is the degenerate quadrilateral (p, p, q, q).
        b: (..., 4, 2), broadcast against ``a``.

    Returns:
        (...) distances in metres.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    nearest = np.minimum(_corner_to_edge(a, b), _corner_to_edge(b, a))
    return np.where(_separated(a, b) | _separated(b, a), nearest, 0.0)


def signed_angle(origin: ArrayLike, facing: ArrayLike, target: ArrayLike) -> Floats:
    """Turn, in degrees of (-180, 180], from facing ``facing`` to facing ``target``; left is positive.

    All arguments are (..., 2) points; the observer stands at ``origin``.
    """
    u = np.asarray(facing, float) - np.asarray(origin, float)
    v = np.asarray(target, float) - np.asarray(origin, float)
    cross = u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]
    return np.degrees(np.arctan2(cross, (u * v).sum(-1)))


def _corner_to_edge(points: Floats, quads: Floats) -> Floats:
    """Smallest distance of the corners of ``points`` (..., 4, 2) to the edges of ``quads`` (..., 4, 2)."""
    start = quads[..., None, :, :]
    edge = np.roll(quads, -1, axis=-2)[..., None, :, :] - start
    offset = points[..., :, None, :] - start
    along = (offset * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-18)
    gap = offset - np.clip(along, 0.0, 1.0)[..., None] * edge
    return np.sqrt((gap * gap).sum(-1).min((-2, -1)))


def _separated(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Whether a normal of one of the first two edges of ``a`` separates ``a`` from ``b``."""
    edges = a[..., 1:3, :] - a[..., 0:2, :]
    normals = np.stack([-edges[..., 1], edges[..., 0]], -1)
    on_a = np.einsum("...ek,...ck->...ec", normals, a)
    on_b = np.einsum("...ek,...ck->...ec", normals, b)
    apart = (on_a.max(-1) < on_b.min(-1)) | (on_b.max(-1) < on_a.min(-1))
    return apart.any(-1)
