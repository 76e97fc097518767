"""The tiny base model's tokenizer: byte-level BPE in which template phrases and things are single tokens.

Text is first split by one pattern: known phrases (longest first), single digits, words, and everything else.
A phrase is one token; anything else is spelled by byte-level BPE, so that every byte string has tokens.
Short prompts make the tiny model cheap: a question is 12 to 45 tokens. The vocabulary is built from the
phrases alone, so it is deterministic and needs no corpus. The shipped files are data; this is how they were made.
"""

from __future__ import annotations

import json
import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.vsibench.prompts import SYSTEM, prompt_text
from harness.vsibench.records import Record
from harness.world.catalogue import CATEGORIES
from harness.world.questions import DATASET, DIRECTIONS, TEMPLATES, TURNS, route_steps

SPECIAL_TOKENS: tuple[str, ...] = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
"""Qwen2-VL's special tokens, in its order."""

_THINGS: tuple[str, ...] = (
    *("armchair", "backpack", "basket", "bathtub", "bed", "bench", "bin", "blanket", "book", "bookshelf"),
    *("bowl", "box", "bucket", "cabinet", "carpet", "ceiling light", "chair", "clock", "closet", "coat hanger"),
    *("coffee table", "computer mouse", "computer tower", "couch", "counter", "crate", "cube", "cup"),
    *("curtain", "cushion", "desk", "dishwasher", "door", "drawer", "dresser", "fan", "fireplace"),
    *("fridge", "globe", "guitar", "headphones", "heater", "jacket", "keyboard", "lamp", "laptop"),
    *("microwave", "mirror", "monitor", "nightstand", "ottoman", "oven", "piano", "picture", "pillow"),
    *("plant", "pouf", "printer", "radiator", "refrigerator", "rug", "shelf", "shoes", "shower", "sink"),
    *("sofa", "speaker", "stool", "stove", "suitcase", "table", "telephone", "toilet", "towel", "toy"),
    *("trash bin", "trash can", "tv", "vase", "wardrobe", "washer", "washing machine", "whiteboard", "window"),
)
"""Names of furniture and household things: VSI-Bench's categories and their usual synonyms."""

_ANSWERS: tuple[str, ...] = (
    *(*DIRECTIONS, *TURNS, "front", "Go forward", "yes", "no", "none"),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("meters", "meter", "centimeters", "square meters"),
)

_LAYOUT: tuple[str, ...] = (
    *(f"system\n{SYSTEM}", "user\n", "assistant\n"),
    *("\nOptions:", "\nA. ", "\nB. ", "\nC. ", "\nD. ", "\n", ", ", ". ", ": ", "(", ")", "?", ".", ","),
    *("<think>", "</think>", "<observe>", "</observe>", "<answer>", "</answer>"),
    *("Map: ", "Seen: ", "Count: ", "Size: ", "Distance from the ", "Nearest to the ", "Order: ", "Say: ", "; ", "="),
)
"""Pieces of the chat layout and of the look-up lists that only pre-training uses."""

_UNUSED: tuple[str, ...] = (
    "\nPlease observe the video first and then answer the question using a single word or phrase.",
    "\nLet's think step by step and then answer the question using a single word or phrase.",
    "If there are multiple instances of an object category, measure to the closest.",
)
"""Further wordings of the benchmark and the paper, which have a token in the shipped model too."""


def _wordings() -> set[str]:
    """The fixed pieces of the prompts and of the question templates, these also with spaces for line breaks."""
    route = route_steps(["{a}", "{b}", "{c}", "{d}"])
    questions = [text.replace("{steps}", route) for text in TEMPLATES.values()]
    questions += [text.replace(" \n", "\n").replace("\n", " ") for text in questions]
    asked = {"id": 0, "dataset": DATASET, "scene_name": "a", "question_type": "route_planning", "ground_truth": "A"}
    prompts = [
        prompt_text(Record(**asked, question="{q}", options=options), mode)
        for mode in ("official", "vanilla", "think", "observe")
        for options in (None, ("{options}",))
    ]
    prompts = [text.replace("\nOptions:\n{options}", "{options}") for text in prompts]
    return {piece for text in (*questions, *prompts) for piece in re.split(r"\{\w+\}", text) if piece}


_WORD_LIKE = frozenset((*_ANSWERS, *_THINGS, *CATEGORIES))
PHRASES: tuple[str, ...] = tuple(sorted(_WORD_LIKE.union(_LAYOUT, _UNUSED, _wordings()), key=lambda p: (-len(p), p)))
"""What is one token wherever it stands, longest first."""
_WORDS = sorted({word for phrase in PHRASES for word in re.findall(r" ?[A-Za-z]+", phrase)})


def _pattern() -> str:
    """One alternation: longest phrase first; word-like phrases only at word boundaries.

    A space before a word-like phrase is a piece of its own, so that a thing is the same token everywhere.
    """
    escaped = {phrase: re.sub(r"([\\.\[\](){}?*+|^$])", r"\\\1", phrase) for phrase in PHRASES}
    whole = [rf"(?<![A-Za-z]){text}(?![A-Za-z])" if phrase in _WORD_LIKE else text for phrase, text in escaped.items()]
    word_like = "|".join(text for phrase, text in escaped.items() if phrase in _WORD_LIKE)
    space = rf" (?=(?:{word_like})(?![A-Za-z]))"
    return "|".join([*whole, r"\d", space, r" ?\p{L}+", r" ?[^\s\p{L}\d]", r"\s"])


def build_tokenizer() -> Tokenizer:
    """The tokenizer, built from the phrases alone.

    BPE needs every intermediate piece of a phrase as a token of its own. Whole pieces are looked up
    directly (``ignore_merges``), so those intermediates would be dead rows of the embedding: all are
    dropped but phrases, words and short pieces.
    """
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_pattern()), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*PHRASES, *_WORDS], trainer)
    state = json.loads(tokenizer.to_str())
    trained, merges = state["model"]["vocab"], state["model"]["merges"]
    whole = {as_bytes.pre_tokenize_str(text)[0][0] for text in (*PHRASES, *_WORDS)}.union(SPECIAL_TOKENS)
    kept = sorted((t for t in trained if t in whole or len(t) <= 3), key=trained.__getitem__)
    vocabulary = {token: index for index, token in enumerate(kept)}
    state["model"]["vocab"] = vocabulary
    state["model"]["merges"] = [m for m in merges if vocabulary.keys() >= {*m, "".join(m)}]
    for added in state["added_tokens"]:
        added["id"] = vocabulary[added["content"]]
    return Tokenizer.from_str(json.dumps(state))
