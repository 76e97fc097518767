"""QLoRA: the language model's linear layers in 4 or 8 bits by bitsandbytes, adapters in full precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.errors import UserError

NOT_QUANTISED = ["model.visual", "lm_head"]
"""Parts that are not quantised, by their full prefix: ``visual`` alone would match nothing."""


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


def keep_weights_trainable_on_cpu(model: nn.Module) -> None:
    """Keep 4-bit layers from repacking their weights for inference on a CPU with AVX512-BF16.

    bitsandbytes 0.50 does that in the first evaluation and the next training step then fails.
    """
    for module in model.modules():
        if hasattr(module, flag := "support_avx512bf16_for_cpu"):
            setattr(module, flag, False)
