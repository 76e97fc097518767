"""Batches of pre-training, each drawn from (seed, stage, step) alone: the same by any number of processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from harness.world.pretrain.curriculum import Curriculum, Mix, TrainingText
from harness.world.pretrain.dense import vision_targets
from harness.world.pretrain.folder import load_tokenizer
from harness.world.pretrain.packed import Pack, Prefix, pack
from harness.world.pretrain.probes import ProbeTargets
from harness.world.pretrain.shards import Example, Pool


@dataclass(frozen=True)
class Texts:
    """Packed texts of a batch: what the probes should read, which tokens predict a supervised one, and that one."""

    pack: Pack
    targets: ProbeTargets
    asked: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class Batch:
    """Frames (n, 2 * STOPS, S, S, 3), dense targets of the vision tower, and texts if the stage has any."""

    frames: Tensor
    vision: dict[str, Tensor]
    texts: Texts | None


def make_batch(
    frames: NDArray[np.uint8],
    examples: Sequence[Example],
    mix: Mix | None,
    curriculum: Curriculum,
    prefix: Prefix,
    rng: np.random.Generator,
) -> tuple[Batch, list[TrainingText]]:
    """Everything that one step needs of some scenes, and the texts as they were drawn."""
    drawn = [curriculum.draw(example, mix, rng) for example in examples] if mix is not None else []
    texts = [text for scene in drawn for text in scene]
    packed = None
    if texts:
        owner = [k for k, scene in enumerate(drawn) for _ in scene]
        flat = pack(prefix, [text.ids for text in texts], owner, len(examples))
        starts = flat.starts.tolist()
        targets = ProbeTargets(
            flat.ids,
            flat.scene_of_token,
            starts,
            [text.relations for text in texts],
            [text.options for text in texts],
            examples,
            curriculum.category_ids,
            curriculum.video_id,
        )
        spots = torch.tensor([s + i for s, text in zip(starts, texts, strict=True) for i in text.supervised])
        packed = Texts(flat, targets, spots - 1, flat.ids[spots])
    return Batch(torch.from_numpy(np.array(frames)), vision_targets(examples), packed), texts


class Batches(Dataset[bytes]):
    """Pickled batches by (stage, step); a worker process opens the shards when it makes its first."""

    def __init__(
        self, shards: Sequence[Path], folder: Path, prefix: Prefix, seed: int, plan: Sequence[tuple[Mix | None, int]]
    ) -> None:
        self.shards, self.folder, self.prefix, self.seed, self.plan = shards, folder, prefix, seed, plan
        self._opened: tuple[Pool, Curriculum] | None = None

    def __getitem__(self, index: tuple[int, int]) -> bytes:
        if self._opened is None:
            if get_worker_info() is not None:  # else it is the training process, which has its own number
                torch.set_num_threads(1)
            self._opened = Pool(self.shards), Curriculum(load_tokenizer(self.folder))
        pool, curriculum = self._opened
        stage, _ = index
        mix, scenes = self.plan[stage]
        rng = np.random.default_rng([self.seed, *index])
        frames, examples = pool.draw(rng, scenes)
        batch, _ = make_batch(frames, examples, mix, curriculum, self.prefix, rng)
        return pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL)

    def ordered(self, indices: Sequence[tuple[int, int]], workers: int) -> Iterator[Batch]:
        """The batches of these (stage, step) in order, made ahead by `workers` processes (0: when asked for)."""
        loader: DataLoader[bytes] = DataLoader(
            self,
            sampler=indices,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )
        for content in loader:
            yield pickle.loads(content)
