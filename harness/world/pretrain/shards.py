"""Scenes for pre-training: rendered in shards, kept on disk as frames, what read-outs should find, and questions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.video.decode import decode_frames
from harness.data.video.frames import VideoSettings
from harness.io import atomic_file, parse_json
from harness.world.camera import SAMPLED, STOPS
from harness.world.catalogue import CATEGORIES
from harness.world.questions import Raw, first_seen, make_questions
from harness.world.renderer import FRAME_SIZE, render_scene, sample_scene
from harness.world.scenes import Scene
from harness.world.video import write_video

CELLS = FRAME_SIZE // 28
TOKENS = STOPS * CELLS * CELLS
"""Video tokens of a scene: 8 stops of 3 by 3 merged patches."""
KINDS = len(CATEGORIES)
SETTINGS = VideoSettings(frames=2 * STOPS, min_pixels=28 * 28, max_pixels=FRAME_SIZE**2)
"""Frames as the model sees them: two of each stop, as they are."""
MIN_PIXELS = 12
"""A token whose most visible object covers fewer pixels has no position or size to learn."""

_KIND = {name: k for k, name in enumerate(CATEGORIES)}


@dataclass(frozen=True)
class Example:
    """What pre-training keeps of a scene.

    Attributes:
        vision: Targets of the vision read-outs (see :func:`vision_targets`).
        known: (categories, 5) metres east and north of the middle of the walk and longest side in metres, of a
            category's first piece; how many pieces; the stop at which it is first seen. NaN: absent or uncertain.
        nearest: (categories, categories) smallest distance in metres, NaN where a category is absent.
        questions: The questions.
    """

    vision: dict[str, NDArray[np.float32]]
    known: NDArray[np.float32]
    nearest: NDArray[np.float32]
    questions: list[Raw]


def scaled(where: NDArray[np.floating], longest: NDArray[np.floating]) -> NDArray[np.floating]:
    """(n, 4) east, north, log distance and log size as they are read out: of about unit variance."""
    return np.column_stack([where / 2, np.log(np.hypot(*where.T)) - 0.7, 2 * np.log(longest)])


def vision_targets(scene: Scene) -> dict[str, NDArray[np.float32]]:
    """What every video token shows, where it is and how large.

    Returns:
        kind (TOKENS, KINDS + 1): share of the cell's pixels by category, the last one the bare room;
        geometry (TOKENS, 4): east/2, north/2, log distance, 2 log longest side of the main object;
        seen (TOKENS,): whether there is a main object;
        share (TOKENS, KINDS): part of each object's visible pixels, summed by category (sums to counts);
        room (TOKENS, 5): 2 log width/5, 2 log depth/5, log area/25, cosine and sine of the heading.
    """
    things, room = scene.objects, scene.room
    ids = render_scene(scene)[1].reshape(STOPS, 2, CELLS, 28, CELLS, 28).transpose(0, 2, 4, 1, 3, 5)
    cells = np.stack([(ids.reshape(TOKENS, -1) == i).sum(1) / 2 for i in range(len(things))], 1)
    onehot = np.eye(KINDS)[[_KIND[thing.category] for thing in things]]
    kind = cells @ onehot / (28 * 28)
    where = np.array([(thing.x, thing.y) for thing in things]) - scene.camera
    sides = np.log(np.array([room.width, room.depth, room.area]) / (5, 5, 25)) * (2, 2, 1)
    heading = np.array(scene.walk.headings).repeat(CELLS * CELLS)[:, None]
    targets = {
        "kind": np.concatenate([kind, 1 - kind.sum(1, keepdims=True)], 1),
        "geometry": scaled(where, np.array([thing.longest for thing in things]))[cells.argmax(1)],
        "seen": cells.max(1) > MIN_PIXELS,
        "share": cells / cells.sum(0).clip(1) @ onehot,
        "room": np.concatenate([np.tile(sides, (TOKENS, 1)), np.cos(heading), np.sin(heading)], 1),
    }
    return {name: values.astype(np.float32) for name, values in targets.items()}


def make_example(scene: Scene, per_type: int) -> Example:
    """What pre-training keeps of a scene, with up to ``per_type`` questions of each type."""
    nearest = np.full((KINDS, KINDS), np.nan, np.float32)
    known = np.full((KINDS, 5), np.nan, np.float32)
    (east, north), first = scene.camera, first_seen(scene)
    for name, ours in scene.by_category.items():
        thing = scene.objects[ours[0]]
        where = thing.x - east, thing.y - north
        known[_KIND[name]] = *where, thing.longest, len(ours), first.get(name, np.nan)
        for other, theirs in scene.by_category.items():
            nearest[_KIND[name], _KIND[other]] = scene.distances[np.ix_(ours, theirs)].min()
    questions = make_questions(scene, np.random.default_rng(scene.seed), per_type)
    return Example(vision_targets(scene), known, nearest, questions)


def shard_files(path: Path) -> tuple[Path, Path]:
    """The two files of a shard: of its frames, at ``path``, and of its examples."""
    return path, path.with_suffix(".npz")


def write_shard(path: Path, seeds: Iterable[int], count: int, per_type: int = 4) -> None:
    """Render the first ``count`` accepted scenes of ``seeds`` to ``path``, a .npy, and a .npz next to it."""
    frames, examples = [], []
    for scene in filter(None, map(sample_scene, seeds)):
        with TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"  # the model learns frames as a viewer of the video gets them
            write_video(clip, render_scene(scene)[0])
            frames.append(decode_frames(clip, len(SAMPLED)))
        examples.append(make_example(scene, per_type))
        if len(examples) == count:
            break
    vision: dict[str, Any] = {name: np.stack([one.vision[name] for one in examples]) for name in examples[0].vision}
    known, nearest = (np.stack([getattr(one, name) for one in examples]) for name in ("known", "nearest"))
    questions = np.array([json.dumps(one.questions) for one in examples])
    with atomic_file(path.with_suffix(".npz")) as file:
        np.savez(file, known=known, nearest=nearest, questions=questions, **vision)
    with atomic_file(path) as file:
        np.save(file, np.stack(frames))


def read_shard(path: Path) -> tuple[NDArray[np.uint8], list[Example]]:
    """Frames (scenes, 2 * STOPS, S, S, 3), mapped from the .npy at ``path``, and the scenes' examples."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
        stored = dict(file)
    known, nearest, questions = (stored.pop(name) for name in ("known", "nearest", "questions"))
    examples = [
        Example({name: values[i] for name, values in stored.items()}, known[i], nearest[i], parse_json(str(asked)))
        for i, asked in enumerate(questions)
    ]
    return np.load(path, mmap_mode="r", allow_pickle=False), examples
