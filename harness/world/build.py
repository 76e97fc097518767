"""Splits of the embedded world on disk: questions, videos and a manifest, in VSI-Bench's own layout."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.errors import UserError, unknown_name
from harness.io import json_text, read_json, remove_leftovers, sha256_file
from harness.outputs import Outputs, inside, write_listed
from harness.processes import in_processes
from harness.vsibench.records import Record
from harness.world.camera import FRAMES
from harness.world.questions import DATASET, Raw, free_form, make_questions, question_rng
from harness.world.renderer import FRAME_SIZE, render_scene, sample_scene
from harness.world.scenes import WORLD_VERSION, Scene
from harness.world.video import encode_video

Progress = Callable[[int, int], None]
"""Called with scenes done and scenes in all."""

CANDIDATES = 32
"""Seeds that belong to each scene; the first that is accepted is used. About one in twenty is rejected."""

MIN_FRAME_SIZE = 56
"""Pixels per side below which furniture is no longer recognisable."""
_FRAME_SIZE_STEP = 28
"""One merged vision token of Qwen2-VL."""


@dataclass(frozen=True)
class Split:
    """A part of the world with its own range of seeds.

    Attributes:
        name: Name of the split and of its files.
        first_seed: Scene i draws from the seeds ``first_seed + i * CANDIDATES`` onwards.
        scenes: Default number of scenes.
        capacity: Maximum number of scenes, so that splits never share a seed.
    """

    name: str
    first_seed: int
    scenes: int
    capacity: int = 100_000

    @property
    def seeds(self) -> range:
        """All seeds that belong to the split."""
        return range(self.first_seed, self.first_seed + self.capacity * CANDIDATES)

    def candidates(self, index: int) -> range:
        """The seeds from which scene ``index`` is drawn."""
        if not 0 <= index < self.capacity:
            raise UserError(f"split {self.name}: scene {index} is outside 0 to {self.capacity - 1}")
        start = self.first_seed + index * CANDIDATES
        return range(start, start + CANDIDATES)

    def scene(self, index: int) -> Scene:
        """Scene ``index``: the first accepted one of its candidates."""
        for seed in self.candidates(index):
            scene = sample_scene(seed)
            if scene is not None:
                return scene
        raise RuntimeError(f"split {self.name}: none of the {CANDIDATES} seeds of scene {index} was accepted")

    def questions(self, index: int, scene: Scene | None = None) -> list[Raw]:
        """The questions about scene ``index``, as in the split's file; ``scene`` saves drawing it again."""
        scene = scene or self.scene(index)
        return make_questions(scene, question_rng(scene), scene_name=f"{self.name}_{index:06d}")


SPLITS: dict[str, Split] = {
    split.name: split
    for split in (
        Split("test", first_seed=10_000_000, scenes=200),
        Split("dev", first_seed=20_000_000, scenes=100),
        Split("train", first_seed=30_000_000, scenes=500),
        Split("pretrain", first_seed=1_000_000_000, scenes=2_000, capacity=30_000_000),
    )
}
"""Test has about 2,500 questions, train about 6,200; pre-training has practically unlimited scenes."""

_SCENE = re.compile(rf"{DATASET}/(?P<split>{'|'.join(SPLITS)})_(?P<index>[0-9]{{6,}})")


def is_of_the_world(records: Sequence[Record]) -> bool:
    """Whether questions are the embedded world's: by the names of their scenes, and by making those on three anew.

    The first, the middle and the last scene; drawing all of a split would take seconds.
    """
    scenes = sorted({record.scene for record in records})
    named = [match for match in map(_SCENE.fullmatch, scenes) if match]
    if not named or len(named) < len(scenes):
        return False
    for scene in {named[0], named[len(named) // 2], named[-1]}:
        split, index = SPLITS[scene["split"]], int(scene["index"])
        if index >= split.capacity:
            return False
        made = split.questions(index)
        known = {_asked(Record(**question)) for one in made for question in (one, free_form(one))}
        if not known.issuperset(_asked(record) for record in records if record.scene == scene.string):
            return False
    return True


def _asked(record: Record) -> tuple[Any, ...]:
    return record.question_type, record.question, record.options, record.ground_truth


def build_split(
    split: str,
    root: Path,
    scenes: int | None = None,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    size: int = FRAME_SIZE,
) -> Path:
    """Generate a split unless it is already there.

    Writes ``ROOT/{split}.jsonl`` (options and letters), ``ROOT/{split}_free.jsonl`` (the same questions
    answered by words), ``ROOT/world/{split}_{index:06d}.mp4`` and ``ROOT/{split}.manifest.json``, completed last.
    A killed build resumes where it stopped, a second process waits for the first, and files that were made with another
    world version or frame size are replaced, with a warning.

    Args:
        split: A name in ``SPLITS``, or that of its free-form file, such as ``train_free``.
        root: The data set's folder; made if missing.
        scenes: Number of scenes, by default the split's.
        workers: Processes that generate scenes.
        progress: Called after every scene.
        size: Pixels per side of the frames, a multiple of 28.

    Returns:
        ``root``.

    Raises:
        UserError: Unknown split, impossible number of scenes or size, or a folder that cannot be written, or in which
            another file is in the way, see :class:`harness.outputs.Outputs`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that imports an unguarded script runs it again, and would wait for its parent's lock forever.
        raise RuntimeError("a script must build the world under `if __name__ == '__main__':`")
    job = _job(split, root, scenes, size)
    if job.is_done():
        return job.root
    try:
        inside(job.root, f"{DATASET}/video").parent.mkdir(parents=True, exist_ok=True)
        with FileLock(job.root / f".{job.split.name}.lock"):
            if not job.is_done():
                job.build(max(1, workers), progress)
    except OSError as error:
        raise UserError(
            f"`{root}`: cannot write the world there ({error}); free some space or choose another folder"
        ) from error
    return job.root


def is_built(split: str, root: Path, scenes: int | None = None) -> bool:
    """Whether :func:`build_split` would have nothing to do; writes nothing."""
    return _job(split, root, scenes, FRAME_SIZE).is_done()


def _job(name: str, root: Path, scenes: int | None, size: int) -> _Job:
    split = SPLITS.get(name.removesuffix("_free"))
    if split is None:
        raise unknown_name(f"world split {name}", name, SPLITS)
    count = split.scenes if scenes is None else scenes
    if not 1 <= count <= split.capacity:
        raise UserError(f"`scenes = {count}`: split {split.name} can have 1 to {split.capacity:,} scenes")
    if size < MIN_FRAME_SIZE or size % _FRAME_SIZE_STEP:
        raise UserError(
            f"`size = {size}`: frames must be a multiple of {_FRAME_SIZE_STEP} pixels, at least {MIN_FRAME_SIZE}"
        )
    return _Job(split, Path(root), count, size)


@dataclass(frozen=True)
class _Job:
    """One split in one folder."""

    split: Split
    root: Path
    scenes: int
    size: int

    @property
    def identity(self) -> dict[str, Any]:
        """What all files of a split in a folder have in common."""
        return {"world_version": WORLD_VERSION, "size": self.size}

    @property
    def manifest(self) -> Path:
        return self.root / f"{self.split.name}.manifest.json"

    def _records(self, suffix: str = "") -> str:
        return f"{self.split.name}{suffix}.jsonl"

    def _video(self, index: int) -> str:
        return f"{DATASET}/{self.split.name}_{index:06d}.mp4"

    def is_done(self) -> bool:
        """Whether the manifest is of this job and every file matches it."""
        found = _read(self.manifest)
        if found.get("scenes") != self.scenes or not self.identity.items() <= found.items():
            return False
        try:
            sizes = [(self.root / self._video(i)).stat().st_size for i in range(self.scenes)]
            hashes = {name: sha256_file(self.root / name) for name in found["files"]}
        except OSError:
            return False
        return bool(sizes == found["videos"]["bytes"] and hashes == found["files"])

    def build(self, workers: int, progress: Progress | None) -> None:
        outputs = Outputs(self.root)
        self._discard_stale(outputs)
        videos, files = [self._video(index) for index in range(self.scenes)], [self._records(), self._records("_free")]
        outputs.check([*videos, *files, self.manifest.name])
        outputs.write(self.manifest.name, json_text(self.identity).encode())
        made: list[_Made] = []
        for result in in_processes(self.make, [(i, outputs.has(name)) for i, name in enumerate(videos)], workers):
            made.append(result)
            if progress is not None:
                progress(len(made), self.scenes)
        questions = [record for result in made for record in result.questions]
        for name, records in zip(files, (questions, [free_form(record) for record in questions]), strict=True):
            outputs.write(name, _jsonl(records).encode())
        content = {
            **self.identity,
            "split": self.split.name,
            "scenes": self.scenes,
            "questions": len(questions),
            "seeds": [result.seed for result in made],
            "files": {name: sha256_file(self.root / name) for name in files},
            "videos": {
                "sha256": hashlib.sha256("".join(result.sha256 for result in made).encode()).hexdigest(),
                "bytes": [result.bytes for result in made],
            },
        }
        outputs.write(self.manifest.name, json_text(content).encode())

    def make(self, job: tuple[int, bool]) -> _Made:
        """Generate one scene, by its index; its video only if that is not there yet."""
        index, there = job
        scene, path = self.split.scene(index), self.root / self._video(index)
        questions = self.split.questions(index, scene)
        if not there:
            frames = render_scene(scene, self.size, tuple(range(FRAMES)))[0]
            write_listed(self.root, self._video(index), encode_video(frames))
        return _Made(scene.seed, questions, sha256_file(path), path.stat().st_size)

    def _discard_stale(self, outputs: Outputs) -> None:
        """Remove the leftovers of a killed build or of another version; complete videos of this identity stay."""
        remove_leftovers(self.root)
        remove_leftovers(self.root / DATASET)
        videos = [name for name in outputs.names if name.startswith(f"{DATASET}/{self.split.name}_")]
        found = _read(self.manifest)
        of = {key: found.get(key) for key in self.identity}
        if any(map(outputs.has, videos)) and of != self.identity:
            warnings.warn(
                f"{self.root}: split {self.split.name} was made with {of}, now {self.identity}; making it again",
                stacklevel=4,
            )
            outputs.remove(videos)


@dataclass(frozen=True)
class _Made:
    """One finished scene."""

    seed: int
    questions: list[Raw]
    sha256: str
    bytes: int


def _jsonl(records: list[Raw]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, or none that can be read."""
    try:
        content = read_json(path)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}
