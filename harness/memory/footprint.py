"""Estimating the memory that a method takes: counted weights, traced activations, KV caches.

Activations are not guessed: :mod:`harness.memory.trace` runs the engine itself on tensors without content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import nn

from harness.config.study import ModelSection
from harness.engine.activation_reuse import MAX_BYTES, activation_bytes, recomputes
from harness.engine.vision_features import CACHE_BYTES
from harness.memory.trace import Load, on_meta, peak_of
from harness.models.loading import LORA_TARGETS, weights_dtype

_PARAMETER_BYTES = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
"""Bytes of a quantised weight. 4 bits: a constant of one byte for 64 weights, and a float for 256 such constants."""

_DECODE_BYTES = 36
"""Per row and vocabulary entry while a token is sampled: logits, log-softmax and a copy in fp32, three in fp64."""

_FROZEN_TOWER = {"fp32": 62, "bf16": 52}
_TRAINED_TOWER = {"fp32": 98, "bf16": 62}
"""Bytes that the vision tower takes per patch and unit of width: at its peak without gradient; and,
kept for the backward pass, per layer. Measured on Qwen2-VL's tower at two widths and two depths; they
grow with neither."""

_PROGRAM_BYTES = 0.6 * 2**30
"""About what the program itself takes: CUDA and its libraries on a GPU, else Python, PyTorch and transformers."""

_ON_CPU = (
    "about what Python, PyTorch and transformers take; glibc may keep as much freed memory again as tensors take, "
    "which MALLOC_MMAP_THRESHOLD_=65536 in the environment prevents"
)
"""Measured: a process with 450 MB of tensors at the peak took 920 MB without that setting and 450 MB with it."""


class Part(NamedTuple):
    """One item of the estimate.

    Attributes:
        name: What takes the memory.
        arithmetic: How its size is calculated.
        bytes: Its size.
        phase: ``always``, or the one phase that needs it; phases do not overlap.
    """

    name: str
    arithmetic: str
    bytes: float
    phase: str = "always"


@dataclass(frozen=True)
class Footprint:
    """The whole estimate.

    Attributes:
        parts: Its items.
        parameters: Parameters of the model, without adapters.
        trained: Parameters that are trained, adapters included.
    """

    parts: tuple[Part, ...]
    parameters: int
    trained: int

    @property
    def phases(self) -> dict[str, float]:
        """Bytes of each phase alone."""
        names = dict.fromkeys(part.phase for part in self.parts if part.phase != "always")
        return {name: sum(part.bytes for part in self.parts if part.phase == name) for name in names}

    @property
    def always(self) -> float:
        return sum(part.bytes for part in self.parts if part.phase == "always")

    @property
    def peak(self) -> float:
        """Bytes in the phase that takes most."""
        return self.always + max(self.phases.values(), default=0.0)


def footprint(
    config: Any,
    section: ModelSection,
    precision: str,
    load: Load,
    *,
    reference: bool = False,
    optimizer: str = "adamw",
    cuda: bool = False,
) -> Footprint:
    """Estimate the memory of training one method.

    Args:
        config: The model's configuration.
        section: How it is trained.
        precision: ``fp32`` or ``bf16``, resolved.
        load: What is in memory at once.
        reference: Whether the method needs reference log-probabilities.
        optimizer: ``adamw`` or ``adamw_8bit``.
        cuda: Whether it runs on an NVIDIA GPU.
    """
    sizes = count_parameters(config, section)
    state = state_bytes(optimizer)
    parts = [
        *_weights(sizes, section, precision, reference),
        Part("gradients", f"{sizes.trained:,} x 4 bytes", sizes.trained * 4.0, "update"),
        Part("optimiser", f"{sizes.trained:,} x {state:g} bytes ({optimizer}: two moments)", sizes.trained * state),
    ]
    width, tokens = config.text_config.hidden_size, load.patches // config.vision_config.spatial_merge_size**2
    bytes_each = 2 if precision == "bf16" else 4
    if section.freeze_vision:
        one = tokens * width * bytes_each
        kept = f"{tokens:,} x {width:,} x {bytes_each} bytes a video, at most {CACHE_BYTES >> 20} MiB"
        parts.append(Part("video features", kept, min(CACHE_BYTES, load.videos * one)))
    parts.append(Part("the program", "about what CUDA and its libraries take" if cuda else _ON_CPU, _PROGRAM_BYTES))
    if not cuda:
        vision = config.vision_config
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        how = f"{load.step} videos of a step x {load.patches:,} patches x {values:,} values x 4 bytes"
        parts.append(Part("pixels", how, load.step * load.patches * values * 4.0))
    else:
        parts += _captured(config, sizes, section, precision, load)
    parts += _phases(config, section, precision, load)
    return Footprint(tuple(parts), sizes.total, sizes.trained)


class Sizes(NamedTuple):
    """Numbers of parameters.

    Attributes:
        total: Of the model as published.
        linear: Of the language model's linear layers, the ones that quantisation shrinks.
        vision: Of the vision tower.
        adapters: Of LoRA.
        trained: All that are trained.
    """

    total: int
    linear: int
    vision: int
    adapters: int
    trained: int


def count_parameters(config: Any, section: ModelSection) -> Sizes:
    """Count a model's parameters from its configuration alone."""
    model = on_meta(config, weights_dtype(section, "fp32"))
    total = sum(one.numel() for one in model.parameters())
    vision = sum(one.numel() for one in model.model.visual.parameters())
    layers = [one for one in model.model.language_model.modules() if isinstance(one, nn.Linear)]
    linear = sum(one.weight.numel() for one in layers)
    if section.tuning == "full":
        return Sizes(total, linear, vision, 0, total - (vision if section.freeze_vision else 0))
    targets = [
        one for name, one in model.named_modules() if isinstance(one, nn.Linear) and re.fullmatch(LORA_TARGETS, name)
    ]
    adapters = sum(section.lora_rank * (one.in_features + one.out_features) for one in targets)
    return Sizes(total, linear, vision, adapters, adapters + (0 if section.freeze_vision else vision))


def _weights(sizes: Sizes, section: ModelSection, precision: str, reference: bool) -> list[Part]:
    each = weights_dtype(section, precision).itemsize
    if section.quantisation == "none":
        parts = [Part("weights", f"{sizes.total:,} parameters x {each} bytes", sizes.total * each)]
    else:
        small = _PARAMETER_BYTES[section.quantisation]
        rest = sizes.total - sizes.linear
        how = f"{sizes.linear:,} x {small:.3f} bytes ({section.quantisation}) + {rest:,} x {each} bytes"
        parts = [Part("weights", how, sizes.linear * small + rest * each)]
    if sizes.adapters:
        parts.append(Part("adapters", f"{sizes.adapters:,} x 4 bytes (rank {section.lora_rank})", sizes.adapters * 4))
    if section.tuning == "full" and section.freeze_vision and precision == "bf16":
        parts.append(Part("frozen vision tower in bf16", f"{sizes.vision:,} x 2 bytes less", sizes.vision * -2.0))
    if section.tuning == "lora" and not section.freeze_vision:
        parts.append(
            Part("vision tower in fp32", f"{sizes.vision:,} x {4 - each} bytes more", sizes.vision * (4 - each))
        )
    if reference and (section.tuning == "full" or not section.freeze_vision):
        copied = sizes.total - (sizes.vision if section.freeze_vision else 0)
        parts.append(Part("reference model", f"{copied:,} parameters x {each} bytes", copied * each))
    return parts


def state_bytes(optimizer: str) -> float:
    """Bytes of an optimiser's state for each trained parameter: two moments, in fp32 or in blocks of 8 bits."""
    return 8.0 if optimizer == "adamw" else 2 + 8 / 256


def _captured(config: Any, sizes: Sizes, section: ModelSection, precision: str, load: Load) -> list[Part]:
    """What captured decode steps keep between calls, see :mod:`harness.engine.cuda_graphs`."""
    if not load.sampled or not load.rollouts:
        return []
    parts = []
    if section.tuning == "full" and precision == "bf16":
        output = config.text_config.vocab_size * config.text_config.hidden_size
        how = f"{sizes.linear + output:,} x 2 bytes: bf16 copies of matrices"
        parts.append(Part("weights for decoding", how, (sizes.linear + output) * 2.0))
    rows, token = min(load.sampled, load.step * load.rollouts), _token_bytes(config, precision)
    held = max(1, rows // load.rollouts) * load.prompt + rows * (load.length + 1)
    parts.append(Part("a captured decode step", f"{held:,} tokens x {token:,} bytes", held * token))
    return parts


def _token_bytes(config: Any, precision: str) -> int:
    """Bytes of a token's keys and values."""
    text = config.text_config
    heads = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * heads * (2 if precision == "bf16" else 4))


def _phases(config: Any, section: ModelSection, precision: str, load: Load) -> list[Part]:
    """What each phase of a step needs in addition; phases do not overlap."""
    text, vision = config.text_config, config.vision_config
    layers = text.num_hidden_layers
    rows, one = load.prompts, min(load.completions, load.micro_batch)
    what = "recomputing update" if load.reused and recomputes(text, load.reused * load.prompt) else "update"
    update = peak_of(config, section, precision, replace(load, completions=one), what)
    tokens = f"{rows} x ({load.prompt:,} + {one} x {load.length}) tokens"
    parts = [
        Part("activations", f"{tokens} x {layers} layers, logits: traced", update, "update"),
        *_reused(config, load),
    ]
    wide = getattr(vision, "embed_dim", None) or vision.hidden_size
    if section.freeze_vision:
        held, how = _FROZEN_TOWER[precision], "at the peak of one layer"
    else:
        held, how = _TRAINED_TOWER[precision] * vision.depth * rows, f"kept of {vision.depth} layers, {rows} videos"
    phase = "video" if section.freeze_vision else "update"
    amount = load.patches * wide * held
    parts.append(Part("vision tower", f"{load.patches:,} patches x {wide:,} wide x {held} bytes {how}", amount, phase))
    token = _token_bytes(config, precision)
    for phase, number, each in (("sampling", load.sampled, load.rollouts), ("evaluation", load.evaluated, 1)):
        if number and each:
            parts += _sampling(config, section, precision, load, phase, number, min(each, number), token)
    return parts


def _reused(config: Any, load: Load) -> list[Part]:
    """Prefills of sampling that the update reuses; those of its current micro-batch are among its activations."""
    parts = []
    for phase, prompts in (("sampling", load.reused), ("update", load.reused - load.prompts)):
        if load.reused and prompts > 0:
            how = f"{prompts} x {load.prompt:,} tokens, at most {MAX_BYTES >> 20} MiB"
            recompute = recomputes(config.text_config, load.reused * load.prompt)
            one = activation_bytes(config.text_config, load.prompt, recompute=recompute)
            parts.append(Part("prompts' activations reused by the update", how, min(MAX_BYTES, prompts * one), phase))
    return parts


def _sampling(
    config: Any, section: ModelSection, precision: str, load: Load, phase: str, number: int, each: int, token: int
) -> list[Part]:
    """Prefill and decoding of ``number`` rows, ``each`` of every prompt."""
    prompts = max(1, number // each)
    if phase == "sampling":
        prompts = min(prompts, load.step)
    rows = prompts * each
    held = (prompts * load.prompt + rows * (load.length + 1)) * token
    vocabulary = config.text_config.vocab_size
    alone = section.model_copy(update={"gradient_checkpointing": False})
    few = replace(load, micro_batch=prompts, step=prompts, completions=1, length=1, rollouts=0)
    prefill = peak_of(config, alone, precision, few, "prefill")
    decode = rows * vocabulary * _DECODE_BYTES
    kept = f"({prompts} x {load.prompt:,} + {rows} x {load.length + 1}) tokens x {token:,} bytes"
    rest = max(decode, prefill - prompts * load.prompt * token)
    return [
        Part(f"KV cache in {phase}", kept, held, phase),
        Part(f"work of {phase}", f"prefill of {prompts} prompts, or {rows} x {vocabulary:,} logits", rest, phase),
    ]
