"""What a pre-training step sees: question forms, look-up lists and letter drills, mixed by stage."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from harness.world.catalogue import CATEGORIES
from harness.world.pretrain.probes import Option, Relation, relations_of
from harness.world.pretrain.prompts import END, TURN
from harness.world.pretrain.shards import Example, category_token_ids
from harness.world.questions import DIRECTIONS, TURNS


@dataclass(frozen=True)
class TrainingText:
    """Token ids after the video, which of them are supervised, and what the probes should read."""

    kind: str
    ids: list[int]
    supervised: list[int]
    relations: list[Relation]
    options: list[Option]


@dataclass(frozen=True)
class Mix:
    """Per scene: how many questions, in which forms, how many lists and drills.

    Attributes:
        questions: Questions drawn per scene.
        forms: Relative weight of each form (see ``prompts.FORMS``).
        lists: Look-up lists per scene.
        drills: Letter drills per scene.
        types: Relative weight of question types, 1 where not named.
    """

    questions: int
    forms: Mapping[str, float]
    lists: int = 0
    drills: int = 0
    types: Mapping[str, float] | None = None


class Curriculum:
    """Draws the token sequences about a scene."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.category_ids = category_token_ids(tokenizer)
        self.video_id = int(tokenizer.convert_tokens_to_ids("<|video_pad|>"))
        self.kinds = {token: index for index, token in enumerate(self.category_ids)}
        self._markers = {tokenizer.encode(f"\n{letter}. ")[0]: k for k, letter in enumerate("ABCD")}
        self._letters = [tokenizer.encode(letter)[0] for letter in "ABCD"]
        self._newlines = {i for token, i in tokenizer.get_vocab().items() if token.startswith("\u010a")}
        self._newlines.add(tokenizer.encode(END)[0])
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.tokenizer.encode(text)
        return self._cache[text]

    def draw(self, example: Example, mix: Mix, rng: np.random.Generator) -> list[TrainingText]:
        """Sequences about one scene."""
        drawn = self._questions(example, mix, rng)
        drawn += [self._list(example, rng) for _ in range(mix.lists)]
        drawn += [self._drill(rng) for _ in range(mix.drills)]
        return drawn

    def _questions(self, example: Example, mix: Mix, rng: np.random.Generator) -> list[TrainingText]:
        weight = np.array([(mix.types or {}).get(q.type, 1.0) for q in example.questions])
        chosen = rng.choice(
            len(weight), min(mix.questions, int((weight > 0).sum())), replace=False, p=weight / weight.sum()
        )
        drawn = []
        for index in chosen:
            question = example.questions[index]
            forms = [f for f in question.forms if mix.forms.get(f, 0) > 0]
            if not forms:
                continue
            odds = np.array([mix.forms[f] for f in forms])
            form = forms[rng.choice(len(forms), p=odds / odds.sum())]
            ids, start = question.forms[form]
            relations = relations_of(question.type, ids[:start], self.kinds, example)
            options = self._options(ids.tolist(), int(ids[start]))
            asked = list(range(start, len(ids)))
            drawn.append(TrainingText(f"{question.type}/{form}", ids.tolist(), asked, relations, options))
        return drawn

    def _options(self, ids: Sequence[int], answer: int | None) -> list[Option]:
        """The options in a text; `answer` is the token of the right letter."""
        right = self._letters.index(answer) if answer in self._letters else None
        options: list[Option] = []
        spots: list[int] = []
        letter: int | None = None
        for i, token in enumerate(ids):
            if letter is None or token not in self._newlines:
                spots += [i] if letter is not None else []
            else:
                options.append(Option(tuple(spots), letter, None if right is None else letter == right))
                spots, letter = [], None
            letter = self._markers.get(token, letter)
        return options

    def _values(self, head: str, pairs: Sequence[tuple[str, str]]) -> TrainingText:
        """`head` and then "key=value, ..." with the values supervised."""
        ids = self.encode(head + TURN)[:]
        supervised: list[int] = []
        for k, (key, value) in enumerate(pairs):
            ids = ids + self.encode((", " if k else "") + key + "=")
            answer = self.encode(value)
            supervised += range(len(ids), len(ids) + len(answer))
            ids = ids + answer
        return TrainingText(
            head.split(":")[0].split(" ")[0], ids + self.encode(END), supervised, [], self._options(ids, None)
        )

    def _list(self, example: Example, rng: np.random.Generator) -> TrainingText:
        counts = np.bincount(example.kind, minlength=len(CATEGORIES))
        present = rng.permutation(np.flatnonzero(counts)).tolist()
        unique = [k for k in present if counts[k] == 1]
        name = CATEGORIES
        which = int(rng.integers(4))
        if which == 0:
            pairs = [(name[k], str(counts[k])) for k in present]
            return self._values("Count: ", pairs)
        if which == 1:
            longest = {int(k): v for k, v in zip(example.kind, example.longest, strict=True)}
            return self._values("Size: ", [(name[k], str(round(100 * longest[k]))) for k in unique])
        if which == 2:
            seen = [k for k in present if not np.isnan(example.first[k])]
            return self._values("Seen: ", [(name[k], str(int(example.first[k]))) for k in seen])
        anchor = unique[0]
        pairs = [(name[k], f"{max(float(example.nearest[k, anchor]), 0.1):.1f}") for k in present if k != anchor]
        sequence = self._values(f"Distance from the {name[anchor]}", pairs)
        spots = [(i, self.kinds[t]) for i, t in enumerate(sequence.ids) if t in self.kinds][1:]
        gaps = [(i, 0, float(np.log(max(example.nearest[k, anchor], 0.1))) - 0.5) for i, k in spots]
        return TrainingText(sequence.kind, sequence.ids, sequence.supervised, gaps, [])

    def _drill(self, rng: np.random.Generator) -> TrainingText:
        """Options, then several queries for the letter of a content: needs no video."""
        contents = _drill_contents(rng)
        head = "Say: \nOptions:\n" + "\n".join(f"{'ABCD'[i]}. {c}" for i, c in enumerate(contents))
        queries = rng.integers(len(contents), size=6 if len(contents[0]) < 20 else 3)
        return self._values(head, [(contents[i], "ABCD"[i]) for i in queries])


def _drill_contents(rng: np.random.Generator) -> list[str]:
    pool: list[str]
    which = int(rng.integers(6))
    if which == 0:
        pool = list(DIRECTIONS[:3])
    elif which == 1:
        pool = list(DIRECTIONS[3:])
    elif which == 2:
        pool = [f"{a}, {b}" for a in TURNS for b in TURNS]
    elif which == 3:
        some = rng.choice(np.array(CATEGORIES), 4, replace=False).tolist()
        pool = [", ".join(order) for order in itertools.permutations(some)]
    else:
        pool = list(CATEGORIES)
    picked: NDArray[np.int64] = rng.permutation(len(pool))[:4]
    return [pool[i] for i in picked]
