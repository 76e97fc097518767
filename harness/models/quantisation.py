"""Weights in 4 or 8 bits: quantised by us while they are loaded, or stored so in the checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.config.study import ModelSection
from harness.errors import UserError

NOT_QUANTISED = ["model.visual", "lm_head"]
"""Parts that are not quantised, by their full prefix: ``visual`` alone would match nothing."""


def stored_quantisation(config: Any) -> str:
    """How a checkpoint's weights are stored by its own ``quantization_config``: ``none``, ``4bit`` or ``8bit``.

    Raises:
        ValueError: In another way, which is named; transformers would read some of them, and none can be trained here.
    """
    own = _own_settings(config)
    if own is None:
        return "none"
    kinds = [kind for kind in ("4bit", "8bit") if own.get(f"load_in_{kind}")]
    method = own.get("quant_method", "bitsandbytes" if kinds else "")
    if method != "bitsandbytes" or len(kinds) != 1:
        raise ValueError(
            f"its weights are stored quantised by {method or 'an unnamed method'}, which cannot be trained here; only "
            "bitsandbytes in 4 or 8 bits can. Name the model that it was made from, in full precision"
        )
    return kinds[0]


def compute_in(config: Any, dtype: torch.dtype) -> None:
    """Have layers that a checkpoint stores in 4 bits compute as the study says, not as who stored them did."""
    if stored_quantisation(config) == "4bit" and (own := _own_settings(config)):
        own["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")


def _own_settings(config: Any) -> dict[str, Any] | None:
    """The ``quantization_config`` of a config.json, where transformers looks for it."""
    for one in (config, config.text_config):
        if (own := getattr(one, "quantization_config", None)) is not None:
            found: dict[str, Any] = own
            return found
    return None


def agreed_quantisation(section: ModelSection, config: Any) -> str:
    """The quantisation that is stored in a checkpoint, if the study agrees with it.

    Raises:
        UserError: The study says otherwise, or the weights are stored in a way that cannot be used.
    """
    try:
        stored = stored_quantisation(config)
    except ValueError as error:
        raise UserError(f"`model.name` = {section.name}: {error}") from error
    if stored not in ("none", section.quantisation):
        raise UserError(
            f"`model.quantisation` = {section.quantisation}: the weights of {section.name} are stored in {stored} "
            f"(quantization_config of its config.json). Set model.quantisation = {stored} with model.tuning = lora, or "
            "name the model that it was made from, in full precision"
        )
    return stored


def quantisation_config(kind: str, compute: torch.dtype) -> Any:
    """The configuration for ``from_pretrained``, or None for ``none``.

    4 bits are NF4 with doubly quantised constants (QLoRA, arXiv 2305.14314).

    Raises:
        UserError: bitsandbytes is asked for and not installed.
    """
    if kind == "none":
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(f'`model.quantisation` = "{kind}" needs bitsandbytes: pip install bitsandbytes') from error
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=NOT_QUANTISED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=NOT_QUANTISED,
    )


def describe_quantisation(model: nn.Module) -> str:
    """How a loaded model's weights are quantised, for people: by its layers and its configuration."""
    layers = [name for name, one in model.named_modules() if type(one).__module__.startswith("bitsandbytes")]
    if not layers:
        return "none"
    own = model.config.quantization_config.to_dict()  # type: ignore[union-attr, operator]
    kind = f"4bit {own['bnb_4bit_quant_type']}" if own.get("load_in_4bit") else "8bit"
    twice = ", constants quantised too" if own.get("load_in_4bit") and own["bnb_4bit_use_double_quant"] else ""
    tower = "with" if any(".visual." in name for name in layers) else "without"
    return f"{kind}{twice}: {len(layers)} layers, {tower} the vision tower's"


def keep_weights_trainable_on_cpu(model: nn.Module) -> None:
    """Keep 4-bit layers from repacking their weights for inference on a CPU with AVX512-BF16.

    bitsandbytes 0.50 does that in the first evaluation and the next training step then fails.
    """
    for module in model.modules():
        if hasattr(module, flag := "support_avx512bf16_for_cpu"):
            setattr(module, flag, False)
