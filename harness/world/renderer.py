"""Ray casting in numpy: frames and object-id buffers of a walkthrough.

Every solid is intersected only with the rays of its own screen rectangle and written through a depth
buffer, so the id buffer says exactly which object each pixel shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.world.camera import FIELD_OF_VIEW, SAMPLED, STOPS
from harness.world.catalogue import CATALOGUE, CEILING_COLOUR
from harness.world.look import floor_brightness, wall_brightness
from harness.world.rooms import EAST, NORTH, SOUTH, WEST
from harness.world.scenes import ROOM_HEIGHT, Scene, lay_out

F32 = np.float32
Array = NDArray[np.float32]
Frames = NDArray[np.uint8]
Ids = NDArray[np.int16]

FRAME_SIZE = 84
"""Pixels per side: three by three merged patches of 28."""
SEEN_SHARE = 0.005
"""Share of a frame's pixels from which an object counts as seen (35 of 7,056): about the smallest patch in
which colour and coarse shape survive video compression."""

_NEAR = 0.02
_CEILING, _FLOOR = 4, 5
_SHADOW, _SHADOW_WIDTH = 0.45, 0.22
"""Share of the floor's brightness that a piece takes at its foot, and metres over which that fades."""
_WALL_SHADING = F32(0.12)
"""How much the brightness of walls that face the light, or turn away from it, differs from the mean."""
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], F32)


class _Solids(NamedTuple):
    """All solids of a scene, n of them, in world coordinates."""

    shape: list[str]
    centre: Array  # (n, 3)
    half: Array  # (n, 3)
    turn: Array  # (n, 2) cosine and sine of the yaw
    colour: Array  # (n, 3)
    owner: NDArray[np.int16]  # (n,) index of the object


class _Light(NamedTuple):
    """Unit vector (3,) towards the light, and the brightness of surfaces turned away from it."""

    towards: Array
    ambient: F32


class _Views(NamedTuple):
    """Cameras of F frames: positions and axes (F, 3), and ray directions (F, S, S) along x, y and z."""

    position: Array
    forward: Array
    right: Array
    up: Array
    rays: tuple[Array, Array, Array]


def sample_scene(seed: int) -> Scene | None:
    """Draw the room of a seed and accept it only if the camera sees every object clearly.

    Returns:
        The scene, or None when it is rejected (about one seed in twenty): too little furniture could be
        placed, or an object never covers ``SEEN_SHARE`` of a frame.
    """
    scene = lay_out(seed)
    if scene is None or (visible_share(scene).max(0) < SEEN_SHARE).any():
        return None
    return scene


def visible_share(scene: Scene) -> NDArray[np.float64]:
    """(STOPS, objects) largest share of a sampled frame's pixels that shows each object, by stop."""
    ids = render_scene(scene)[1]
    counts = np.stack([np.bincount(view[view >= 0], minlength=len(scene.objects)) for view in ids])
    return counts.reshape(STOPS, -1, len(scene.objects)).max(1) / ids[0].size


@lru_cache(maxsize=8)
def render_scene(scene: Scene, size: int = FRAME_SIZE, frames: tuple[int, ...] = SAMPLED) -> tuple[Frames, Ids]:
    """Render frames of a walkthrough; the last few results are cached.

    Args:
        scene: The room.
        size: Pixels per side.
        frames: Which of the walk's frames; by default the F = 16 that a loader samples.

    Returns:
        Pictures (F, size, size, 3) of 0 to 255, and ids (F, size, size) with the index of the object
        that each pixel shows, -1 for the room itself. Both are read-only.
    """
    views, solids = _views(scene, size, frames), _solids(scene)
    image, depth = _room(scene, views)
    ids = np.full(depth.shape, -1, np.int16)
    eyes = (_turned(position - solids.centre, solids.turn) / solids.half for position in views.position)
    eye = np.stack(list(eyes))
    light = _Light(scene.look.light.towards, F32(scene.look.light.ambient))
    low, high = _screen_rectangles(solids, views, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        for frame, i in zip(*np.nonzero((high > low).all(-1)), strict=True):
            (u0, v0), (u1, v1) = low[frame, i], high[frame, i]
            patch = (frame, slice(v0, v1), slice(u0, u1))
            rays = _local_rays(views, solids, i, patch)
            hit, distance, shade = _HITS[solids.shape[i]](eye[frame, i], rays, depth[patch], solids.turn[i], light)
            if distance.size:
                depth[patch][hit] = distance
                image[patch][hit] = shade[:, None] * solids.colour[i]
                ids[patch][hit] = solids.owner[i]
    image *= scene.look.light.tint
    pictures = np.clip(image, 0, 255).astype(np.uint8)
    pictures.flags.writeable = ids.flags.writeable = False
    return pictures, ids


def _solids(scene: Scene) -> _Solids:
    shape: list[str] = []
    rows: list[tuple[float, ...]] = []
    for i, thing in enumerate(scene.objects):
        cos, sin = math.cos(thing.yaw), math.sin(thing.yaw)
        across, along, height = thing.width / 2, thing.depth / 2, thing.height
        for part in CATALOGUE[thing.category].parts:
            x, y = part.centre[0] * across, part.centre[1] * along
            colour = part.colour or thing.colour
            shape.append(part.shape)
            rows.append(
                (
                    *(thing.x + cos * x - sin * y, thing.y + sin * x + cos * y, part.centre[2] * height),
                    *(part.half[0] * across, part.half[1] * along, part.half[2] * height),
                    *(cos, sin),
                    *(channel * part.shade for channel in colour),
                    i,
                )
            )
    table = np.array(rows, F32).reshape(len(rows), 12)
    half = np.maximum(table[:, 3:6], 1e-3)
    return _Solids(shape, table[:, :3], half, table[:, 6:8], table[:, 8:11], table[:, 11].astype(np.int16))


@cache
def _pinhole(size: int) -> tuple[Array, Array]:
    """Screen-plane coordinates (size, size) of the pixel centres, to the right and upwards."""
    steps = ((np.arange(size) + 0.5) / size * 2 - 1) * math.tan(FIELD_OF_VIEW / 2)
    right, down = np.meshgrid(steps, steps)
    return right.astype(F32), (-down).astype(F32)


def _views(scene: Scene, size: int, frames: Sequence[int]) -> _Views:
    poses, chosen = scene.walk.poses, list(frames)
    yaw, pitch = poses.yaw[chosen], poses.pitch[chosen]
    cos, sin, level, slope = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.stack([cos * level, sin * level, slope], -1).astype(F32)
    right = np.stack([sin, -cos, np.zeros_like(cos)], -1).astype(F32)
    up = np.cross(right, forward).astype(F32)
    x, y = _pinhole(size)
    ray = [forward[:, k, None, None] + x * right[:, k, None, None] + y * up[:, k, None, None] for k in range(3)]
    return _Views(poses.position[chosen].astype(F32), forward, right, up, (ray[0], ray[1], ray[2]))


def _room(scene: Scene, views: _Views) -> tuple[Array, Array]:
    """Walls, floor and ceiling: colours (F, S, S, 3) and depth (F, S, S)."""
    room, look = scene.room, scene.look
    x, y, z = views.rays
    start = [axis[:, None, None] for axis in views.position.T]
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = (room.width, room.depth, ROOM_HEIGHT)
        to_x, to_y, to_z = (
            np.abs((np.where(ray > 0, F32(limit), F32(0)) - at) / ray)  # abs: a ray along a wall never meets it
            for ray, limit, at in zip(views.rays, limits, start, strict=True)
        )
        wall = np.minimum(to_x, to_y)
        surface = np.where(to_x < to_y, np.where(x > 0, EAST, WEST), np.where(y > 0, NORTH, SOUTH)).astype(np.int8)
        for notch in room.notches:
            _carve(notch, start, (x, y), wall, surface)
    depth = np.minimum(wall, to_z)
    surface[to_z <= wall] = np.where(z > 0, _CEILING, _FLOOR)[to_z <= wall]
    palette = np.array([*look.walls, CEILING_COLOUR, look.floor], F32)
    palette *= _surface_light(scene)[:, None]
    image = palette[surface]
    east, north = start[0] + depth * x, start[1] + depth * y
    floor = np.nonzero(surface == _FLOOR)
    shade = floor_brightness(look, east[floor], north[floor], depth[floor])
    image[floor] *= (shade * _shadows(scene, east[floor], north[floor]))[:, None]
    if look.wall_pattern != "plain":
        walls = np.nonzero(surface < _CEILING)
        along = np.where(surface[walls] <= WEST, north[walls], east[walls])
        height = (start[2] + depth * z)[walls]
        image[walls] *= wall_brightness(look, along, height)[:, None]
    return image, depth


def _shadows(scene: Scene, east: Array, north: Array) -> Array:
    """Factors on the floor's colour around the furniture: without them pieces seem to float."""
    factor = np.ones_like(east)
    away = scene.look.light.towards[:2] * F32(-_SHADOW_WIDTH / 3)
    for thing in scene.objects:
        reach = math.hypot(thing.width, thing.depth) / 2 + _SHADOW_WIDTH
        x, y = east - F32(thing.x + away[0]), north - F32(thing.y + away[1])
        near = np.nonzero((np.abs(x) < reach) & (np.abs(y) < reach))[0]
        cos, sin = F32(math.cos(thing.yaw)), F32(math.sin(thing.yaw))
        x, y = x[near], y[near]
        across, along = (
            np.abs(cos * x + sin * y) - F32(thing.width / 2),
            np.abs(cos * y - sin * x) - F32(thing.depth / 2),
        )
        outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
        factor[near] *= 1 - F32(_SHADOW) * np.maximum(1 - outside / F32(_SHADOW_WIDTH), 0)
    return factor


def _carve(
    notch: tuple[float, float, float, float],
    start: Sequence[Array],
    rays: tuple[Array, Array],
    wall: Array,
    surface: NDArray[np.int8],
) -> None:
    """Put a missing corner, a pillar from floor to ceiling, in front of the outer walls."""
    (x, y), (west, south, east, north) = rays, (F32(bound) for bound in notch)
    x0, x1 = (west - start[0]) / x, (east - start[0]) / x
    y0, y1 = (south - start[1]) / y, (north - start[1]) / y
    in_x, in_y = np.minimum(x0, x1), np.minimum(y0, y1)
    enter = np.maximum(in_x, in_y)
    hit = (enter < np.minimum(np.maximum(x0, x1), np.maximum(y0, y1))) & (enter > _NEAR) & (enter < wall)
    wall[hit] = enter[hit]
    faces = np.where(in_x > in_y, np.where(x > 0, EAST, WEST), np.where(y > 0, NORTH, SOUTH))
    surface[hit] = faces[hit]


def _surface_light(scene: Scene) -> Array:
    """(6,) brightness of the four walls, the ceiling and the floor; walls that face the light are brighter."""
    x, y, _ = scene.look.light.towards
    return (1 + _WALL_SHADING * np.array([-x, x, -y, y, 0, 0], F32)).astype(F32)


def _turned(vector: Array, turn: Array) -> Array:
    """World vectors (n, 3) in the axes of solids turned by (n, 2) cosine and sine."""
    cos, sin = turn[:, 0], turn[:, 1]
    x, y, z = vector.T
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], -1)


def _screen_rectangles(solids: _Solids, views: _Views, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixel bounds, low (inclusive) and high (exclusive), each (F, n, 2), of the solids' boxes."""
    local = _CORNERS * solids.half[:, None]
    cos, sin = solids.turn[:, None, 0], solids.turn[:, None, 1]
    x, y, z = np.moveaxis(local, -1, 0)
    corner = np.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + solids.centre[:, None]
    ahead, aside, above = (
        np.einsum("nck,fk->fnc", corner, axis) - (views.position * axis).sum(-1)[:, None, None]
        for axis in (views.forward, views.right, views.up)
    )
    scale = size / 2 / (np.maximum(ahead, 0.05) * math.tan(FIELD_OF_VIEW / 2))
    u, v = size / 2 + aside * scale, size / 2 - above * scale
    low = np.floor(np.stack([u.min(-1), v.min(-1)], -1))
    high = np.ceil(np.stack([u.max(-1), v.max(-1)], -1)) + 1
    high[ahead.max(-1) <= 0.05] = 0
    return np.clip(low, 0, size).astype(int), np.clip(high, 0, size).astype(int)


_Rays = tuple[Array, Array, Array]
_Hit = tuple[NDArray[np.bool_], Array, Array]


def _local_rays(views: _Views, solids: _Solids, i: int, patch: tuple[int, slice, slice]) -> _Rays:
    """Ray directions of a patch in the axes of solid ``i``, scaled so that the solid has half extents of 1."""
    (cos, sin), half = solids.turn[i], solids.half[i]
    x, y, z = (ray[patch] for ray in views.rays)
    return (cos * x + sin * y) / half[0], (cos * y - sin * x) / half[1], z / half[2]


def _lit(normal: Sequence[Array | float], turn: Array, light: _Light) -> Array:
    """Brightness of a surface with the local normal (x, y, z) of a solid turned by ``turn``."""
    (x, y, z), (cos, sin), (east, north, up) = normal, turn, light.towards
    towards = (cos * x - sin * y) * east + (sin * x + cos * y) * north + z * up
    return (light.ambient + (1 - light.ambient) * np.maximum(towards, 0.0)).astype(F32)


def _slab(start: F32, ray: Array) -> tuple[Array, Array]:
    """Where rays enter and leave the slab between -1 and 1."""
    middle, reach = -start / ray, np.abs(1 / ray)
    return middle - reach, middle + reach


def _hit_box(eye: Array, rays: _Rays, depth: Array, turn: Array, light: _Light) -> _Hit:
    (in_x, out_x), (in_y, out_y), (in_z, out_z) = (_slab(e, r) for e, r in zip(eye, rays, strict=True))
    near = np.maximum(np.maximum(in_x, in_y), in_z)
    far = np.minimum(np.minimum(out_x, out_y), out_z)
    hit = (near < far) & (near > _NEAR) & (near < depth)
    distance = near[hit]
    sign = np.sign(eye)
    x_face, y_face, z_face = (_lit(np.eye(3, dtype=F32)[k] * sign, turn, light) for k in range(3))
    shade = np.where(distance == in_z[hit], z_face, np.where(distance == in_x[hit], x_face, y_face))
    return hit, distance, shade


def _hit_cylinder(eye: Array, rays: _Rays, depth: Array, turn: Array, light: _Light) -> _Hit:
    x, y, z = rays
    a = x * x + y * y
    b = eye[0] * x + eye[1] * y
    root = b * b - a * (eye[0] ** 2 + eye[1] ** 2 - 1)
    spread = np.sqrt(np.maximum(root, 0))
    in_side, out_side = (-b - spread) / a, (-b + spread) / a
    in_z, out_z = _slab(eye[2], z)
    near = np.maximum(in_side, in_z)
    hit = (root > 0) & (near < np.minimum(out_side, out_z)) & (near > _NEAR) & (near < depth)
    distance = near[hit]
    side = _lit((eye[0] + distance * x[hit], eye[1] + distance * y[hit], 0.0), turn, light)
    shade = np.where(in_z[hit] >= in_side[hit], _lit((0.0, 0.0, float(np.sign(eye[2]))), turn, light), side)
    return hit, distance, shade


def _hit_ellipsoid(eye: Array, rays: _Rays, depth: Array, turn: Array, light: _Light) -> _Hit:
    x, y, z = rays
    a = x * x + y * y + z * z
    b = eye[0] * x + eye[1] * y + eye[2] * z
    root = b * b - a * (sum(float(e) ** 2 for e in eye) - 1)
    near = (-b - np.sqrt(np.maximum(root, 0))) / a
    hit = (root > 0) & (near > _NEAR) & (near < depth)
    distance = near[hit]
    normal = [start + distance * ray[hit] for start, ray in zip(eye, rays, strict=True)]
    return hit, distance, _lit(normal, turn, light)


_HITS: dict[str, Callable[[Array, _Rays, Array, Array, _Light], _Hit]] = {
    "box": _hit_box,
    "cylinder": _hit_cylinder,
    "ellipsoid": _hit_ellipsoid,
}
