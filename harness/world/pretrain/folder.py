"""The model folder: written as a whole, with a recipe that carries the weights' sha256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2VLForConditionalGeneration

from harness.io import sha256_file, write_json
from harness.world.pretrain.network import save_processor_files
from harness.world.pretrain.tokenizer import save_tokenizer

WEIGHTS = "model.safetensors"
RECIPE = "recipe.json"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, from local files only."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def prepare_folder(folder: Path) -> PreTrainedTokenizerBase:
    """Write the tokenizer and processor files of a new model folder and return the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    save_processor_files(folder)
    return load_tokenizer(folder)


def save_model(model: Qwen2VLForConditionalGeneration, folder: Path, recipe: Mapping[str, Any]) -> str:
    """Write config, weights (bf16) and recipe; return the sha256 of the weights.

    The weights are stored in bfloat16 to halve the file; the configuration asks for float32, so that a
    plain ``from_pretrained`` computes in float32.
    """
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    shared = {id(model.lm_head.weight)} if model.config.tie_word_embeddings else set()
    tensors = {
        name: parameter.detach().to("cpu", torch.bfloat16).contiguous()
        for name, parameter in model.named_parameters()
        if id(parameter) not in shared or "embed_tokens" in name
    }
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)
    temporary.replace(folder / WEIGHTS)
    digest = sha256_file(folder / WEIGHTS)
    write_json(folder / RECIPE, {**recipe, "weights_sha256": digest})
    return digest
