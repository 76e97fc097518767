"""Scenes for pre-training: rendered in shards, kept on disk as frames, dense targets and tokenised questions.

Every question is kept in the forms in which evaluation and post-training will ask it, as token ids after the video.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from harness.data.video.frames import VideoSettings
from harness.io import sha256_file
from harness.vsibench.prompts import SYSTEM, answer_text, prompt_text
from harness.vsibench.records import Record
from harness.world.camera import STOPS
from harness.world.catalogue import CATEGORIES
from harness.world.questions import Raw, first_seen, make_questions
from harness.world.renderer import FRAME_SIZE, render_scene, sample_scene
from harness.world.scenes import Scene
from harness.world.video import read_video, write_video

CELLS = FRAME_SIZE // 28
TOKENS = STOPS * CELLS * CELLS
"""Video tokens of a scene: 8 stops of 3 by 3 merged patches."""
SETTINGS = VideoSettings(frames=2 * STOPS, min_pixels=28 * 28, max_pixels=FRAME_SIZE**2)
"""Frames as the model sees them: two of each stop, as they are."""

BEFORE_TEXT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    f"<|vision_start|>{'<|video_pad|>' * TOKENS}<|vision_end|>"
)
"""The prompt up to the end of the video, the same for every text about a scene."""
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"

FORMS = ("official", "vanilla", "words", "think", "observe")
"""official: the benchmark's wording; vanilla: the training wording, with options if there are any; words:
the training wording without options, answered in words; think, observe: the tagged modes."""

_KIND = {name: k for k, name in enumerate(CATEGORIES)}


@dataclass(frozen=True)
class Question:
    """One question: its type and, per form, token ids and where the answer starts."""

    type: str
    forms: dict[str, tuple[NDArray[np.int16], int]]


@dataclass(frozen=True)
class Example:
    """What pre-training keeps of a scene.

    Attributes:
        seed: The scene's seed.
        cells: (TOKENS, objects) pixels of each object in each video token's cell, mean of its two frames.
        kind: (objects,) category index of each object.
        where: (objects, 2) metres east and north of the middle of the walk.
        longest: (objects,) longest side in metres.
        room: (width, depth, area) in metres and square metres.
        heading: (STOPS,) radians.
        nearest: (categories, categories) smallest distance in metres, NaN where a category is absent.
        first: (categories,) stop of first appearance, NaN where absent or uncertain.
        questions: The tokenised questions.
    """

    seed: int
    cells: NDArray[np.float16]
    kind: NDArray[np.int64]
    where: NDArray[np.float32]
    longest: NDArray[np.float32]
    room: tuple[float, float, float]
    heading: NDArray[np.float32]
    nearest: NDArray[np.float32]
    first: NDArray[np.float32]
    questions: tuple[Question, ...]


def texts(record: Raw, form: str) -> tuple[str, str]:
    """The user's text and the answer of a record in a form."""
    asked = Record(**record)
    words, answer = asked.answer_words, asked.ground_truth
    if form == "words":
        return prompt_text(asked.model_copy(update={"options": None}), "vanilla"), words
    thought = f"<{form}>{words}</{form}>" if form in ("think", "observe") else ""
    return prompt_text(asked, form), thought + answer_text(answer, form)


def encode_forms(record: Raw, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[NDArray[np.int16], int]]:
    """Token ids after the video and the index of the first answer token, for every form of a record."""
    forms = {}
    for form in FORMS:
        if form != "words" or record["options"] is not None:
            text, answer = texts(record, form)
            prompt = tokenizer.encode(text + TURN)
            forms[form] = (np.array(prompt + tokenizer.encode(answer + END), np.int16), len(prompt))
    return forms


def make_example(scene: Scene, tokenizer: PreTrainedTokenizerBase, per_type: int) -> Example:
    """Dense targets and tokenised questions of one scene."""
    things = scene.objects
    ids = render_scene(scene)[1].reshape(STOPS, 2, CELLS, 28, CELLS, 28).transpose(0, 2, 4, 1, 3, 5)
    ids = ids.reshape(TOKENS, -1)
    cells = np.stack([(ids == i).sum(1) / 2 for i in range(len(things))], 1).astype(np.float16)
    nearest = np.full((len(CATEGORIES), len(CATEGORIES)), np.nan, np.float32)
    for (a, ours), (b, theirs) in product(scene.by_category.items(), repeat=2):
        nearest[_KIND[a], _KIND[b]] = scene.distances[np.ix_(ours, theirs)].min()
    first = np.full(len(CATEGORIES), np.nan, np.float32)
    for name, stop in first_seen(scene).items():
        first[_KIND[name]] = stop
    records = make_questions(scene, np.random.default_rng(scene.seed), per_type)
    return Example(
        seed=scene.seed,
        cells=cells,
        kind=np.array([_KIND[thing.category] for thing in things]),
        where=np.array([(t.x - scene.camera[0], t.y - scene.camera[1]) for t in things], np.float32),
        longest=np.array([thing.longest for thing in things], np.float32),
        room=(scene.room.width, scene.room.depth, scene.room.area),
        heading=np.array(scene.walk.headings, np.float32),
        nearest=nearest,
        first=first,
        questions=tuple(Question(r["question_type"], encode_forms(r, tokenizer)) for r in records),
    )


def write_shard(
    path: Path, seeds: Iterable[int], tokenizer: PreTrainedTokenizerBase, count: int, per_type: int = 4
) -> None:
    """Render the first ``count`` accepted scenes of ``seeds`` to ``path``, a .npy, and a .pkl next to it."""
    frames, examples = [], []
    for seed in seeds:
        scene = sample_scene(seed)
        if scene is None:
            continue
        with TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"  # the model learns frames as a viewer of the video gets them
            write_video(clip, render_scene(scene)[0])
            frames.append(read_video(clip))
        examples.append(make_example(scene, tokenizer, per_type))
        if len(examples) == count:
            break
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, np.stack(frames))
    with path.with_suffix(".pkl").open("wb") as file:
        pickle.dump(examples, file, protocol=pickle.HIGHEST_PROTOCOL)
    temporary.replace(path.with_suffix(".npy"))


def read_shard(path: Path) -> tuple[NDArray[np.uint8], list[Example]]:
    """Frames (scenes, 2 * STOPS, S, S, 3), mapped from the .npy at ``path``, and the scenes' examples."""
    with path.with_suffix(".pkl").open("rb") as file:
        examples: list[Example] = pickle.load(file)
    return np.load(path, mmap_mode="r"), examples


def shards_digest(paths: Sequence[Path]) -> str:
    """sha256 over the sha256 of each shard's frames, in order: what a model was trained on."""
    return hashlib.sha256("".join(map(sha256_file, paths)).encode()).hexdigest()
