"""Models with random weights, prompts with random pixels and a reward: what a step's cost depends on, and no disk."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.api.reward import Reward, WeightedRewards
from harness.data.encode import VIDEO_TOKEN_TYPE, EncodedPrompt
from harness.data.video.frames import ProcessedVideo
from harness.vsibench.records import Record

SPECIAL = ("<pad>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PAD, END, START, STOP, IMAGE, VIDEO = range(len(SPECIAL))
PATCH, DEPTH, MERGE = 14, 2, 2
FRAMES = 16
LEAST_TEXT = 48


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2-VL."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vision_layers: int
    vision_width: int
    vision_heads: int


SHAPES = {
    "tiny": Shape(256, 64, 2, 4, 2, 128, 2, 32, 2),
    "cpu-small": Shape(4096, 256, 6, 8, 2, 1024, 4, 256, 8),
    "qwen2-vl-2b": Shape(151_936, 1536, 28, 12, 2, 8960, 32, 1280, 16),
}
"""``cpu-small`` is that of the published prototypes; ``qwen2-vl-2b`` is Qwen2-VL-2B's true shape."""


def write_model(shape: Shape, folder: Path, seed: int, dtype: torch.dtype = torch.float32) -> None:
    """Save a random model and a tokenizer of its vocabulary where every contender loads them from."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    half = shape.hidden // shape.heads // 2
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 32_768,
            "bos_token_id": PAD,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8],
            },
        },
        vision_config={
            "depth": shape.vision_layers,
            "embed_dim": shape.vision_width,
            "hidden_size": shape.hidden,
            "num_heads": shape.vision_heads,
            "mlp_ratio": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": DEPTH,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=STOP,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = END
    model.save_pretrained(folder)
    _tokenizer(shape.vocabulary).save_pretrained(folder)


def _tokenizer(size: int) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {token: index for index, token in enumerate(SPECIAL)}
    words |= {str(index): index for index in range(len(SPECIAL), size)}
    plain = Tokenizer(WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token=SPECIAL[PAD],
        eos_token=SPECIAL[END],
        additional_special_tokens=list(SPECIAL[START:]),
    )


def grid_for(length: int) -> tuple[int, int, int]:
    """Patches in time, height and width of 16 frames that fill a prompt of ``length`` tokens but for its text."""
    times = FRAMES // DEPTH
    room = (length - LEAST_TEXT) // times
    if room < 1:
        raise SystemExit(
            f"--prompt {length}: at least {LEAST_TEXT + times} tokens are needed (16 frames and a question)"
        )
    sizes = [(h * w, h, w) for h in range(1, room + 1) for w in range(h, min(2 * h, room // h) + 1)]
    _, height, width = max(sizes)
    return times, height * MERGE, width * MERGE


def make_prompt(length: int, vocabulary: int, seed: int) -> EncodedPrompt:
    """A prompt of exactly ``length`` tokens: text, a video of random pixels, text."""
    grid = grid_for(length)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(grid[0] * grid[1] * grid[2], 3 * DEPTH * PATCH**2, generator=generator)
    return prompt_about(
        ProcessedVideo(pixels, torch.tensor([grid]), f"video-{seed}-{length}"), length, vocabulary, seed
    )


def prompt_about(video: ProcessedVideo, length: int, vocabulary: int, seed: int) -> EncodedPrompt:
    """A prompt of exactly ``length`` tokens: text, a video, text."""
    generator = torch.Generator().manual_seed(seed)
    tokens = len(video.pixel_values) // MERGE**2
    words = torch.randint(len(SPECIAL), vocabulary, (length - tokens - 2,), generator=generator)
    ids = torch.cat([words[:15], torch.tensor([START, *[VIDEO] * tokens, STOP]), words[15:]])
    record = Record(
        id=seed,
        dataset="synthetic",
        scene_name=f"video{seed}",
        question_type="object_counting",
        question="How many?",
        ground_truth="12",
    )
    return EncodedPrompt(
        id=f"synthetic-{seed}",
        record=record,
        mode="vanilla",
        input_ids=ids,
        mm_token_type_ids=(ids == VIDEO).long() * VIDEO_TOKEN_TYPE,
        video=video,
    )


class Checksum(Reward):
    """A number in [0, 1) that differs between texts."""

    def score(self, text: str, record: Record, mode: str) -> float:
        return zlib.crc32(text.encode()) % 1000 / 1000


def rewards() -> WeightedRewards:
    return WeightedRewards({"checksum": Checksum()}, {"checksum": 1.0})
