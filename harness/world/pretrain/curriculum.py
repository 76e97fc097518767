"""What a pre-training step sees: question forms, look-up lists and letter drills, mixed by stage.

Batches are drawn from (seed, stage, step) alone, so they are the same for any number of processes.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from harness.world.camera import STOPS
from harness.world.catalogue import CATEGORIES
from harness.world.pretrain.dense import vision_targets
from harness.world.pretrain.network import load_tokenizer
from harness.world.pretrain.probes import Target, gap, relations_of, states_of
from harness.world.pretrain.shards import CELLS, END, TURN, Example, read_shard
from harness.world.questions import DIRECTIONS, TURNS


@dataclass(frozen=True)
class Mix:
    """Per scene: how many questions, in which forms, how many lists and drills.

    Attributes:
        questions: Questions drawn per scene.
        forms: Relative weight of each form (see ``shards.FORMS``).
        lists: Look-up lists per scene.
        drills: Letter drills per scene.
        types: Relative weight of question types, 1 where not named.
    """

    questions: int
    forms: Mapping[str, float]
    lists: int = 0
    drills: int = 0
    types: Mapping[str, float] | None = None


class TrainingText(NamedTuple):
    """Token ids after the video, which of them are supervised, and what the probes should read."""

    kind: str
    ids: list[int]
    supervised: list[int]
    targets: list[Target]


class Curriculum:
    """Draws the token sequences about a scene."""

    def __init__(self) -> None:
        tokenizer = load_tokenizer()
        self.category_ids: list[int] = tokenizer.convert_tokens_to_ids(list(CATEGORIES))
        self._kinds = {token: index for index, token in enumerate(self.category_ids)}
        self._encode: Callable[[str], list[int]] = functools.cache(tokenizer.encode)
        self._markers = {self._encode(f"\n{letter}. ")[0]: k for k, letter in enumerate("ABCD")}
        self._letters = {self._encode(letter)[0]: k for k, letter in enumerate("ABCD")}
        self._newlines = {i for token, i in tokenizer.get_vocab().items() if token.startswith("\u010a")}
        self._newlines.add(self._encode(END)[0])

    def draw(self, example: Example, mix: Mix, rng: np.random.Generator) -> list[TrainingText]:
        """Sequences about one scene."""
        texts = list(self._questions(example, mix, rng))
        texts += [self._list(example, rng) for _ in range(mix.lists)]
        texts += [self._drill(rng) for _ in range(mix.drills)]
        states = states_of(example).tolist()
        for text in texts:
            text.targets.extend(Target("state", i, states[kind]) for i, kind in self.mentions(text.ids))
        return texts

    def mentions(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Token index and category of every mention of a category."""
        return [(i, self._kinds[token]) for i, token in enumerate(ids) if token in self._kinds]

    def _questions(self, example: Example, mix: Mix, rng: np.random.Generator) -> Iterator[TrainingText]:
        weight = np.array([(mix.types or {}).get(q.type, 1.0) for q in example.questions])
        count = min(mix.questions, int((weight > 0).sum()))
        for index in rng.choice(len(weight), count, replace=False, p=weight / weight.sum()):
            question = example.questions[index]
            odds = np.array([mix.forms.get(form, 0.0) for form in question.forms])
            if not odds.any():
                continue
            form = list(question.forms)[rng.choice(len(odds), p=odds / odds.sum())]
            ids, start = question.forms[form][0].tolist(), question.forms[form][1]
            relations = relations_of(question.type, self.mentions(ids[:start]), example)
            options = self._options(ids, self._letters.get(ids[start]))
            yield TrainingText(f"{question.type}/{form}", ids, list(range(start, len(ids))), relations + options)

    def _options(self, ids: Sequence[int], right: int | None) -> list[Target]:
        """The letter of every option's words, and at their end whether it is the right one, if that is known."""
        targets: list[Target] = []
        letter: int | None = None
        for i, token in enumerate(ids):
            if letter is not None and token not in self._newlines:
                targets.append(Target("letter", i, [letter]))
            elif letter is not None:
                if right is not None:
                    targets.append(Target("right", i - 1, [letter == right]))
                letter = None
            letter = self._markers.get(token, letter)
        return targets

    def _values(self, head: str, pairs: Sequence[tuple[str, str]]) -> TrainingText:
        """``head`` and then "key=value, ..." with the values supervised."""
        ids = self._encode(head + TURN)[:]
        supervised: list[int] = []
        for k, (key, value) in enumerate(pairs):
            ids += self._encode((", " if k else "") + key + "=")
            answer = self._encode(value)
            supervised += range(len(ids), len(ids) + len(answer))
            ids += answer
        ids += self._encode(END)
        return TrainingText(head.split(":")[0].split(" ")[0], ids, supervised, self._options(ids, None))

    def _list(self, example: Example, rng: np.random.Generator) -> TrainingText:
        """Counts, sizes, first stops, or distances from one category, of the categories present."""
        counts = np.bincount(example.kind, minlength=len(CATEGORIES))
        present = rng.permutation(np.flatnonzero(counts)).tolist()
        unique = [k for k in present if counts[k] == 1]
        which = int(rng.integers(4))
        if which == 0:
            return self._values("Count: ", [(CATEGORIES[k], str(counts[k])) for k in present])
        if which == 1:
            longest = dict(zip(example.kind.tolist(), example.longest, strict=True))
            return self._values("Size: ", [(CATEGORIES[k], str(round(100 * longest[k]))) for k in unique])
        if which == 2:
            seen = [k for k in present if not np.isnan(example.first[k])]
            return self._values("Seen: ", [(CATEGORIES[k], str(int(example.first[k]))) for k in seen])
        anchor = unique[0]
        metres = {k: float(example.nearest[k, anchor]) for k in present if k != anchor}
        pairs = [(CATEGORIES[k], f"{max(value, 0.1):.1f}") for k, value in metres.items()]
        text = self._values(f"Distance from the {CATEGORIES[anchor]}", pairs)
        text.targets.extend(gap(i, metres[k]) for i, k in self.mentions(text.ids)[1:])
        return text

    def _drill(self, rng: np.random.Generator) -> TrainingText:
        """Options, then several queries for the letter of a content: needs no video."""
        contents = _drill_contents(rng)
        head = "Say: \nOptions:\n" + "\n".join(f"{'ABCD'[i]}. {c}" for i, c in enumerate(contents))
        queries = rng.integers(len(contents), size=6 if len(contents[0]) < 20 else 3)
        return self._values(head, [(contents[i], "ABCD"[i]) for i in queries])


def _drill_contents(rng: np.random.Generator) -> list[str]:
    which = int(rng.integers(6))
    if which == 3:
        some = rng.choice(np.array(CATEGORIES), 4, replace=False).tolist()
        pool: Sequence[str] = [", ".join(order) for order in itertools.permutations(some)]
    else:
        turns = [f"{a}, {b}" for a in TURNS for b in TURNS]
        pool = {0: DIRECTIONS[:3], 1: DIRECTIONS[3:], 2: turns}.get(which, CATEGORIES)
    return [pool[i] for i in rng.permutation(len(pool))[:4]]


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        frames: (n, 2 * STOPS, S, S, 3) of 0 to 255.
        vision: Dense targets of the vision tower.
        texts: Each scene's texts, if the stage has any; the indices below count their tokens, joined in order.
        supervised: (m,) indices of the supervised tokens.
        places: (k,) indices of the tokens that each probe of the texts reads.
        truths: (k, numbers) what each probe should read; (n * TOKENS, 1) stops and (n, numbers) summaries of videos.
    """

    frames: Tensor
    vision: dict[str, Tensor]
    texts: list[list[TrainingText]]
    supervised: Tensor
    places: dict[str, Tensor]
    truths: dict[str, Tensor]


def make_batch(
    frames: NDArray[np.uint8],
    examples: Sequence[Example],
    mix: Mix | None,
    curriculum: Curriculum,
    rng: np.random.Generator,
) -> Batch:
    """Everything that one step needs of some scenes."""
    texts = [curriculum.draw(example, mix, rng) for example in examples] if mix is not None else []
    supervised: list[int] = []
    found: dict[str, list[tuple[int, Sequence[float]]]] = defaultdict(list)
    start = 0
    for text in itertools.chain.from_iterable(texts):
        supervised += [start + i for i in text.supervised]
        for probe, i, truth in text.targets:
            found[probe].append((start + i, truth))
        start += len(text.ids)
    states = torch.from_numpy(np.stack([states_of(example) for example in examples]))
    stops = torch.arange(STOPS).repeat_interleave(CELLS * CELLS).repeat(len(examples))[:, None] / 4 - 1
    return Batch(
        torch.from_numpy(np.array(frames)),
        vision_targets(examples),
        texts,
        torch.tensor(supervised, dtype=torch.long),
        {name: torch.tensor([place for place, _ in items]) for name, items in found.items()},
        {
            "summary": torch.cat([states[..., 4].nan_to_num(-1.0), states[..., 5]], 1),
            "stop": stops,
            **{name: torch.tensor([truth for _, truth in items], dtype=torch.float) for name, items in found.items()},
        },
    )


class Batches(Dataset[Batch]):
    """Batches by (stage, step); a worker process opens the shards when it makes its first."""

    def __init__(self, shards: Sequence[Path], seed: int, plan: Sequence[tuple[Mix | None, int]]) -> None:
        self.shards, self.seed, self.plan = shards, seed, plan
        self._opened: tuple[list[tuple[NDArray[np.uint8], list[Example]]], Curriculum] | None = None

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        if self._opened is None:
            if get_worker_info() is not None:  # the training process has a number of threads of its own
                torch.set_num_threads(1)
            self._opened = [read_shard(path) for path in self.shards], Curriculum()
        shards, curriculum = self._opened
        mix, scenes = self.plan[index[0]]
        rng = np.random.default_rng([self.seed, *index])
        drawn = []
        for _ in range(scenes):
            frames, examples = shards[rng.integers(len(shards))]
            scene = rng.integers(len(examples))
            drawn.append((frames[scene], examples[scene]))
        clips, scenes_drawn = zip(*drawn, strict=True)
        return make_batch(np.stack(clips), scenes_drawn, mix, curriculum, rng)

    def ordered(self, indices: Sequence[tuple[int, int]], workers: int) -> DataLoader[Batch]:
        """The batches of these (stage, step) in order, made ahead by ``workers`` processes (0: when asked for)."""
        context = "spawn" if workers else None
        return DataLoader(self, sampler=indices, batch_size=None, num_workers=workers, multiprocessing_context=context)
