"""The least time a step can take on this machine: arithmetic over the measured matrix-product rate, or bytes moved over
the measured bandwidth, whichever is longer, for each part of a step that pays for its prompt once.

A multiply-add counts as two operations. Attention counts half of the prompt's square (it is causal). LoRA computes no
weight gradients. What AdamW reads and writes (seven float32 numbers a trained parameter) is part of the update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

PAPER_PROMPTS = 100_000
"""Prompts of the paper's run (arXiv 2504.00883): one pass over VSI-100k; it reports 120 GPU hours."""
PAPER_HOURS = 120


@dataclass(frozen=True)
class Rates:
    """What this machine does: operations a second in matrix products, and bytes a second in a copy."""

    operations: float
    bytes: float


def measure(device: torch.device, precision: str, now: Callable[[], float]) -> Rates:
    """The best of ten, in the precision of the step; ``now`` is the clock that the step is measured with."""
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size, length = (8192, 2**30) if cuda else (1024, 2**26)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(length, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _fastest(lambda: left @ right, now)
    copy = _fastest(lambda: target.copy_(source), now)
    return Rates(2 * size**3 / product, 2 * length / copy)


def _fastest(run: Callable[[], Any], now: Callable[[], float]) -> float:
    times = []
    for _ in range(11):
        start = now()
        run()
        times.append(now() - start)
    return min(times[1:])


def floor_seconds(
    config: Any,
    grid: tuple[int, int, int],
    sizes: tuple[int, int, int],
    lora: bool,
    reference: bool,
    rates: Rates,
    width: int,
) -> dict[str, float]:
    """Floors of sampling, reference, update and step.

    Args:
        config: The Qwen2-VL configuration.
        grid: Patches in time, height and width.
        sizes: Prompt tokens, tokens of a completion, completions.
        lora: Whether only adapters are trained.
        reference: Whether there is a reference pass.
        rates: This machine's.
        width: Bytes of a number in the step's precision.
    """
    prompt, completion, group = sizes
    text, vision = config.text_config, config.vision_config
    head = text.hidden_size // text.num_attention_heads
    keys = text.num_key_value_heads * head
    linear = text.num_hidden_layers * (
        2 * text.hidden_size**2 + 2 * text.hidden_size * keys + 3 * text.hidden_size * text.intermediate_size
    )
    output = text.vocab_size * text.hidden_size
    attention = 4 * text.num_hidden_layers * text.hidden_size

    def run(tokens: float, context: float) -> float:
        return 2 * linear * tokens + attention * context * tokens

    suffix = group * (run(completion, prompt + completion / 2) + 2 * output * completion)
    forward = run(prompt, prompt / 2) + suffix
    tower = _tower(vision, grid, text.hidden_size)
    weights = width * (linear + output)
    cache = 2 * text.num_hidden_layers * keys * width
    steps = weights + cache * (prompt + group * completion / 2)
    trained = 0 if lora else linear + output
    sampling = max((tower + run(prompt, prompt / 2)) / rates.operations, weights / rates.bytes)
    sampling += completion * max(steps / rates.bytes, suffix / completion / rates.operations)
    parts = {
        "sampling": sampling,
        "reference": max(forward / rates.operations, weights / rates.bytes) if reference else 0.0,
        "update": max((2 if lora else 3) * forward / rates.operations, 2 * weights / rates.bytes)
        + 7 * 4 * trained / rates.bytes,
    }
    return parts | {"step": sum(parts.values())}


def _tower(vision: Any, grid: tuple[int, int, int], hidden: int) -> float:
    """Operations of one pass of the vision tower; attention stays within a time step."""
    times, height, width = grid
    patches, wide = times * height * width, vision.embed_dim
    blocks = vision.depth * (2 * (4 + 2 * vision.mlp_ratio) * wide**2 * patches + 4 * height * width * wide * patches)
    embedding = 2 * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * wide * patches
    merged = vision.spatial_merge_size**2 * wide
    return blocks + embedding + 2 * merged * (merged + hidden) * patches / vision.spatial_merge_size**2
