"""What a pre-training step sees: questions in several forms, look-up lists and letter drills, mixed by stage.

Batches are drawn from (seed, stage, step) alone, so they are the same for any number of processes.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from transformers import AutoTokenizer

from harness.vsibench.prompts import MODES, SYSTEM, answer_text, prompt_text
from harness.vsibench.records import Record
from harness.world.camera import STOPS
from harness.world.catalogue import CATEGORIES
from harness.world.pretrain.network import SHIPPED
from harness.world.pretrain.readouts import Target, gap, relations_of, states_of
from harness.world.pretrain.shards import CELLS, TOKENS, Example, read_shard
from harness.world.questions import DIRECTIONS, TURNS, Raw, free_form
from harness.world.renderer import Frames

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


def forms_of(question: Raw) -> tuple[str, ...]:
    """The forms in which a question can be asked: one without options has no other wording to be asked in words."""
    return FORMS if question["options"] is not None else tuple(form for form in FORMS if form != "words")


@dataclass(frozen=True)
class Stage:
    """A stretch of pre-training: what it shows, and how it learns.

    Attributes:
        name: What is learnt.
        steps: Optimiser steps.
        scenes: Scenes per step.
        questions: Questions drawn per scene; 0, without any other text, trains the vision tower alone.
        forms: Relative weight of each of their forms (see ``FORMS``).
        types: Relative weight of question types, 1 where not named.
        lists: Look-up lists per scene.
        drills: Letter drills per scene.
        vision: Learning-rate factor of the vision tower; 0 freezes it.
        rate: Muon learning rate (matched to AdamW's update size).
        decay: Share of the steps, at the end, over which the rate falls to a twentieth of itself.
        until: End the stage early, as soon as the held-out questions reach this mean of the eight tasks.
    """

    name: str
    steps: int
    scenes: int
    questions: int = 0
    forms: Mapping[str, float] = field(default_factory=dict)
    types: Mapping[str, float] = field(default_factory=dict)
    lists: int = 0
    drills: int = 0
    vision: float = 0.0
    rate: float = 3e-3
    decay: float = 0.0
    until: float | None = None


class TrainingText(NamedTuple):
    """Token ids after the video, which of them are supervised, and what the probes should read."""

    kind: str
    ids: list[int]
    supervised: list[int]
    targets: list[Target]


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


class Curriculum:
    """Draws the token sequences about a scene."""

    def __init__(self) -> None:
        tokenizer = self.tokenizer = AutoTokenizer.from_pretrained(
            SHIPPED, local_files_only=True, trust_remote_code=False
        )
        self.category_ids: list[int] = tokenizer.convert_tokens_to_ids(list(CATEGORIES))
        self._kinds = {token: index for index, token in enumerate(self.category_ids)}
        self._encode: Callable[[str], list[int]] = functools.lru_cache(10_000)(tokenizer.encode)
        self._markers = {self._encode(f"\n{letter}. ")[0]: k for k, letter in enumerate("ABCD")}
        self._letters = {self._encode(letter)[0]: k for k, letter in enumerate("ABCD")}
        self._ends = {i for token, i in tokenizer.get_vocab().items() if token.startswith(("\u010a", END))}

    def batch(self, frames: Frames, examples: Sequence[Example], stage: Stage, rng: np.random.Generator) -> Batch:
        """Everything that one step needs of some scenes."""
        drawn = [self.draw(example, stage, rng) for example in examples] if stage.questions else []
        supervised: list[int] = []
        places: dict[str, list[int]] = defaultdict(list)
        truths: dict[str, list[Sequence[float]]] = defaultdict(list)
        start = 0
        for text in itertools.chain.from_iterable(drawn):
            supervised += [start + i for i in text.supervised]
            for probe, i, truth in text.targets:
                places[probe].append(start + i)
                truths[probe].append(truth)
            start += len(text.ids)
        counts, firsts = torch.from_numpy(np.stack([states_of(example)[:, 4:] for example in examples])).unbind(-1)
        stops = torch.arange(STOPS).repeat_interleave(CELLS * CELLS).repeat(len(examples))[:, None] / 4 - 1
        return Batch(
            torch.from_numpy(np.array(frames)),
            default_collate([example.vision for example in examples]),
            drawn,
            torch.tensor(supervised, dtype=torch.long),
            {name: torch.tensor(found) for name, found in places.items()},
            {
                "summary": torch.cat([counts.nan_to_num(-1.0), firsts], 1),
                "stop": stops,
                **{name: torch.tensor(found, dtype=torch.float) for name, found in truths.items()},
            },
        )

    def draw(self, example: Example, stage: Stage, rng: np.random.Generator) -> list[TrainingText]:
        """Sequences about one scene."""
        drawn = list(self._questions(example, stage, rng))
        drawn += [self._list(example, rng) for _ in range(stage.lists)]
        drawn += [self._drill(rng) for _ in range(stage.drills)]
        states = states_of(example).tolist()
        for text in drawn:
            text.targets.extend(Target("state", i, states[kind]) for i, kind in self.mentions(text.ids))
        return drawn

    def encode(self, question: Raw, form: str) -> tuple[Record, list[int], list[int]]:
        """A question in a form: its record, and token ids after the video of the prompt and of the answer."""
        record = Record(**(free_form(question) if form == "words" else question))
        mode = MODES["vanilla" if form == "words" else form]
        thought = f"<{mode.tag}>{record.answer_words}</{mode.tag}>" if mode.tag else ""
        answer = thought + answer_text(record.ground_truth, mode.name)
        return record, self._encode(prompt_text(record, mode.name) + TURN), self._encode(answer + END)

    def mentions(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Token index and category of every mention of a category."""
        return [(i, self._kinds[token]) for i, token in enumerate(ids) if token in self._kinds]

    def _questions(self, example: Example, stage: Stage, rng: np.random.Generator) -> Iterator[TrainingText]:
        weight = np.array([stage.types.get(q["question_type"], 1.0) for q in example.questions])
        count = min(stage.questions, int((weight > 0).sum()))
        for index in rng.choice(len(weight), count, replace=False, p=weight / weight.sum()):
            question = example.questions[index]
            kind, forms = question["question_type"], forms_of(question)
            odds = np.array([stage.forms.get(form, 0.0) for form in forms])
            if not odds.any():
                continue
            form = forms[rng.choice(len(odds), p=odds / odds.sum())]
            _, prompt, answer = self.encode(question, form)
            targets = [*relations_of(kind, self.mentions(prompt), example)]
            targets += self._options(ids := prompt + answer, self._letters.get(answer[0]))
            yield TrainingText(f"{kind}/{form}", ids, list(range(len(prompt), len(ids))), targets)

    def _options(self, ids: Sequence[int], right: int | None) -> list[Target]:
        """The letter of every option's words, and at their end whether it is the right one, if that is known."""
        targets: list[Target] = []
        letter: int | None = None
        for i, token in enumerate(ids):
            if letter is not None and token not in self._ends:
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
        longest, count, first = example.known[:, 2:].T
        present = rng.permutation(np.flatnonzero(count > 0)).tolist()
        unique = [k for k in present if count[k] == 1]
        anchor = unique[0]
        metres = {k: example.nearest[anchor, k] for k in present if k != anchor}
        head, values = (
            ("Count: ", {k: f"{count[k]:.0f}" for k in present}),
            ("Size: ", {k: f"{100 * longest[k]:.0f}" for k in unique}),
            ("Seen: ", {k: f"{first[k]:.0f}" for k in present if first[k] >= 0}),
            (f"Distance from the {CATEGORIES[anchor]}", {k: f"{max(m, 0.1):.1f}" for k, m in metres.items()}),
        )[rng.integers(4)]
        text = self._values(head, [(CATEGORIES[k], value) for k, value in values.items()])
        if text.kind == "Distance":
            text.targets.extend(gap(i, metres[k]) for i, k in self.mentions(text.ids)[1:])
        return text

    def _drill(self, rng: np.random.Generator) -> TrainingText:
        """Options, then several queries for the letter of a content: needs no video."""
        which = int(rng.integers(6))
        if which == 3:
            some = rng.choice(np.array(CATEGORIES), 4, replace=False).tolist()
            pool: Sequence[str] = [", ".join(order) for order in itertools.permutations(some)]
        else:
            turns = [f"{a}, {b}" for a in TURNS for b in TURNS]
            pool = {0: DIRECTIONS[:3], 1: DIRECTIONS[3:], 2: turns}.get(which, CATEGORIES)
        contents = [pool[i] for i in rng.permutation(len(pool))[:4]]
        head = "Say: \nOptions:\n" + "\n".join(f"{'ABCD'[i]}. {c}" for i, c in enumerate(contents))
        queries = rng.integers(len(contents), size=6 if len(contents[0]) < 20 else 3)
        return self._values(head, [(contents[i], "ABCD"[i]) for i in queries])


@dataclass
class Batches(Dataset[Batch]):
    """Batches by (stage, step); a worker process opens the shards when it makes its first."""

    shards: Sequence[Path]
    seed: int
    stages: Sequence[Stage]

    @functools.cached_property
    def _opened(self) -> tuple[list[tuple[Frames, list[Example]]], Curriculum]:
        return [read_shard(path) for path in self.shards], Curriculum()

    def __getitem__(self, index: tuple[int, int]) -> Batch:
        shards, curriculum = self._opened
        stage = self.stages[index[0]]
        rng = np.random.default_rng([self.seed, *index])
        drawn = []
        for _ in range(stage.scenes):
            frames, examples = shards[rng.integers(len(shards))]
            scene = rng.integers(len(examples))
            drawn.append((frames[scene], examples[scene]))
        clips, scenes_drawn = zip(*drawn, strict=True)
        return curriculum.batch(np.stack(clips), scenes_drawn, stage, rng)
