"""The tiny base model's folder: a genuine, small Qwen2-VL.

Its configuration, tokenizer and processor files are data, with one home: the shipped folder. Pre-training takes
them from there and makes the weights again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from transformers import AutoConfig, GenerationConfig, Qwen2VLForConditionalGeneration

from harness.io import json_text, sha256_file
from harness.models.presets import TINY
from harness.outputs import Outputs

SHIPPED = Path(TINY.location)
WEIGHTS, RECIPE_FILE = "model.safetensors", "recipe.json"
HIDDEN: int = AutoConfig.from_pretrained(SHIPPED, trust_remote_code=False).text_config.hidden_size


def build_model(seed: int) -> Qwen2VLForConditionalGeneration:
    """A freshly initialised model.

    Weights start at about 1/sqrt(fan-in): at the usual 0.02 the attention of a network this narrow is
    flat and no look-up ever forms. Output projections are scaled down by the depth. Half of the heads
    start with equal query and key projections: such a head attends to tokens similar to its own, which
    is the beginning of every look-up (the word "chair" finds the video tokens that show one).
    """
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(AutoConfig.from_pretrained(SHIPPED, trust_remote_code=False))
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
    for layer in model.model.language_model.layers:
        with torch.no_grad():
            layer.self_attn.k_proj.weight[: HIDDEN // 2] = layer.self_attn.q_proj.weight[: HIDDEN // 2]
    model.tie_weights()
    model.generation_config = GenerationConfig.from_pretrained(SHIPPED, trust_remote_code=False)
    return model


def check_folder(folder: Path) -> None:
    """Refuse, before training, a folder that :func:`save_model` could not write.

    Raises:
        UserError: As :meth:`harness.outputs.Outputs.check`.
    """
    Outputs(folder).check([*(path.name for path in _shared()), WEIGHTS, RECIPE_FILE])


def _shared() -> list[Path]:
    """The shipped files that do not depend on the weights."""
    return [path for path in SHIPPED.glob("*.j*") if path.name not in (RECIPE_FILE, "scores.json")]


def save_model(model: Qwen2VLForConditionalGeneration, folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write a model folder: the shipped one with other weights, and with a recipe that has their sha256.

    The weights are stored in bfloat16 to halve the file; the configuration asks for float32, so that a
    plain ``from_pretrained`` computes in float32.
    """
    outputs = Outputs(folder)
    for path in _shared():
        outputs.write(path.name, path.read_bytes())
    tensors = {name: one.detach().to("cpu", torch.bfloat16).contiguous() for name, one in model.named_parameters()}
    weights = outputs.write(WEIGHTS, save(tensors, metadata={"format": "pt"}))
    outputs.write(RECIPE_FILE, json_text({**recipe, "weights_sha256": sha256_file(weights)}).encode())
