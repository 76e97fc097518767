"""The tiny base model's tokenizer: byte-level BPE in which template phrases and things are single tokens.

Text is first split by one pattern: known phrases (longest first), single digits, words, and the rest.
A phrase is one token; anything else is spelled by byte-level BPE, so that every byte string has tokens.
Short prompts make the tiny model cheap: a question is 12 to 45 tokens.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.world.pretrain.vocabulary import DIRECTIONS, NUMBER_WORDS, PHRASES, SPECIAL_TOKENS, THINGS

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's chat layout."""

_WORD_LIKE = set((*DIRECTIONS, *NUMBER_WORDS, *THINGS))


def _pattern() -> str:
    """One alternation: longest phrase first; word-like phrases only at word boundaries.

    A space before a word-like phrase stands alone, so that a thing is the same token everywhere.
    """
    longest_first = sorted(PHRASES, key=len, reverse=True)
    escaped = {phrase: re.sub(r"([\\.\[\](){}?*+|^$])", r"\\\1", phrase) for phrase in longest_first}
    wordlike = "|".join(escaped[phrase] for phrase in longest_first if phrase in _WORD_LIKE)
    whole = [
        rf"(?<![A-Za-z]){escaped[phrase]}(?![A-Za-z])" if phrase in _WORD_LIKE else escaped[phrase]
        for phrase in longest_first
    ]
    space = rf" (?=(?:{wordlike})(?![A-Za-z]))"
    return "|".join([*whole, r"\d", space, r" ?\p{L}+", r" ?[^\s\p{L}\d]", r"\s"])


def build_tokenizer() -> Tokenizer:
    """The tokenizer, built from `vocabulary` alone: deterministic, no corpus."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern()), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = sorted({w for phrase in PHRASES for w in re.findall(r" ?[A-Za-z]+", phrase)})
    tokenizer.train_from_iterator([*PHRASES, *words], trainer)
    return _without_fragments(tokenizer)


def _without_fragments(tokenizer: Tokenizer) -> Tokenizer:
    """Keep whole phrases, words and bytes; drop the merges that only served to build a long phrase.

    BPE needs every intermediate piece of a phrase as a token of its own. Whole pieces are looked up
    directly (``ignore_merges``), so those intermediates are dead rows of the embedding.
    """
    state = json.loads(tokenizer.to_str())
    model = state["model"]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def spell(text: str) -> str:
        return as_bytes.pre_tokenize_str(text)[0][0]

    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    words = {w for phrase in PHRASES for w in re.findall(r" ?[A-Za-z]+", phrase)}
    keep = alphabet | set(SPECIAL_TOKENS) | {spell(p) for p in PHRASES} | {spell(w) for w in words}
    short = {t for t in model["vocab"] if len(t) <= 3}
    order = sorted((t for t in model["vocab"] if t in keep | short), key=model["vocab"].__getitem__)
    vocab = {token: index for index, token in enumerate(order)}
    merges = [m for m in model["merges"] if m[0] in vocab and m[1] in vocab and "".join(m) in vocab]
    model["vocab"], model["merges"] = vocab, merges
    for added in state["added_tokens"]:
        added["id"] = vocab[added["content"]]
    return Tokenizer.from_str(json.dumps(state))


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into `folder`."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(),
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
