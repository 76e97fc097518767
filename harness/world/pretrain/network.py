"""The tiny base model's architecture and its processor files: a genuine, small Qwen2-VL."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen2VLConfig, Qwen2VLForConditionalGeneration

HIDDEN = 192
LAYERS = 6
HEAD_DIM = 32
FRAME_PIXELS = 84
FRAMES = 16
PATCH = 14
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


def tiny_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
    """Architecture: 192 wide, 6 layers, vision tower 128 wide, 3 layers; about 4 million parameters."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in _SPECIALS}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD_DIM,
        "num_key_value_heads": HIDDEN // HEAD_DIM,
        "intermediate_size": 448,
        "max_position_embeddings": 2048,
        "initializer_range": round(1 / math.sqrt(HIDDEN), 4),
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 3,
        "embed_dim": 128,
        "hidden_size": HIDDEN,
        "num_heads": 4,
        "mlp_ratio": 4,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "initializer_range": 0.04,
    }
    return Qwen2VLConfig(
        architectures=["Qwen2VLForConditionalGeneration"],
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
        dtype="float32",
    )


_SPECIALS = ("endoftext", "im_start", "im_end", "image_pad", "video_pad", "vision_start", "vision_end")


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen2VLForConditionalGeneration:
    """A freshly initialised model.

    Weights start at about 1/sqrt(fan-in): at the usual 0.02 the attention of a network this narrow is
    flat and no look-up ever forms. Output projections are scaled down by the depth.
    """
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(tiny_config(tokenizer))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            scale = 1 / math.sqrt(module.in_features)
            if name.endswith(("o_proj", "down_proj", "attn.proj", "fc2")):
                scale /= math.sqrt(2)
            nn.init.normal_(module.weight, std=scale)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = model.model.visual.patch_embed.proj
    nn.init.normal_(projection.weight, std=1 / math.sqrt(projection.weight[0].numel()))
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=1 / math.sqrt(HIDDEN))
    match_like_with_like(model)
    model.tie_weights()
    model.generation_config.update(
        bos_token_id=model.config.text_config.bos_token_id,
        eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
        do_sample=False,
        max_new_tokens=16,
    )
    return model


@torch.no_grad()
def match_like_with_like(model: Qwen2VLForConditionalGeneration) -> None:
    """Let half of the heads start with equal query and key projections.

    Such a head attends to tokens similar to its own, which is the beginning of every look-up: the word
    "chair" finds the video tokens that show one, an option finds its equal.
    """
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        half = attention.k_proj.out_features // 2
        attention.k_proj.weight[:half] = attention.q_proj.weight[:half]


def save_processor_files(folder: Path) -> None:
    """Image and video processor settings with explicit sizes, so that 84-pixel frames stay 84 pixels."""
    shared = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "rescale_factor": 1 / 255,
        "resample": 3,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    # Edges are pixel counts of one frame: 84 x 84 is kept, anything larger is scaled down to that area.
    size = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": FRAME_PIXELS**2}
    image = {
        **shared,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "size": size,
    }
    video = {
        **shared,
        "video_processor_type": "Qwen2VLVideoProcessor",
        "processor_class": "Qwen2VLProcessor",
        "size": size,
        "min_frames": 2,
        "max_frames": 128,
        "num_frames": FRAMES,
        "do_sample_frames": False,
        "cap_pixels_per_frame": False,
    }
    for name, content in (("preprocessor_config.json", image), ("video_preprocessor_config.json", video)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
