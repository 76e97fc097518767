"""Loading a model and its tokenizer: full fine-tuning or LoRA, frozen or trained vision tower."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from harness.config.study import ModelSection
from harness.errors import UserError, unknown_name
from harness.hub import unavailable, weight_digests
from harness.io import digest_of, read_json, sha256_file
from harness.models.families import FAMILIES
from harness.models.presets import ModelPreset
from harness.plugins import registry
from harness.seeds import seed_for

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""LoRA goes on every linear layer of the language model; the paper does not say where. Ours."""

NOT_QUANTISED = ["model.visual", "lm_head"]
"""Parts that are not quantised, by their full prefix: ``visual`` alone would match nothing."""


class LoadedModel(NamedTuple):
    """A model ready to train, and its tokenizer."""

    model: nn.Module
    tokenizer: Any
    device: torch.device
    precision: str


def locate(name: str) -> str:
    """The folder or hub id that a model name stands for.

    Raises:
        UserError: The name is neither registered, nor a model folder, nor a hub id.
    """
    if name in registry.names("models"):
        preset: ModelPreset = registry.load("models", name)
        return preset.location
    path = Path(name)
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
            raise UserError(
                f"`model.name` = {name}: the folder holds adapters for {base}, not a model. Name the base model; a "
                "cell's checkpoint is evaluated with `harness evaluate CHECKPOINT`, other adapters are merged into "
                "their base first (merge_and_unload of peft)"
            )
        if not (path / "config.json").is_file():
            raise UserError(f"`model.name` = {name}: the folder has no config.json, so it is not a model")
        return str(path)
    if name.count("/") == 1 and not path.is_absolute() and not name.startswith("."):
        return name
    raise unknown_name(f"--model {name}", name, registry.names("models"))


def model_config(name: str) -> Any:
    """The configuration of a model, without its weights.

    Raises:
        UserError: It cannot be found, or is not of a supported family.
    """
    from transformers import AutoConfig

    location = locate(name)
    try:
        config = AutoConfig.from_pretrained(location)
    except Exception as error:
        raise _not_loadable(name, location, error) from error
    if config.model_type not in FAMILIES:
        raise UserError(
            f"`--model {name}`: models of type {config.model_type} are not supported. Supported: "
            f"{', '.join(f'{title} ({kind})' for kind, title in FAMILIES.items())}. What a further family needs is in "
            "harness/models/families.py"
        )
    return config


def model_sizes(name: str) -> Any:
    """The configuration of a model for counting; those of 2b and 7b are packaged, so that no download is needed.

    Raises:
        UserError: As :func:`model_config`.
    """
    preset: ModelPreset | None = registry.load("models", name) if name in registry.names("models") else None
    if preset is None or not preset.sizes:
        return model_config(name)
    from transformers import AutoConfig

    content = read_json(files("harness.models").joinpath(preset.sizes))
    return AutoConfig.for_model(content.pop("model_type"), **content)


def _not_loadable(name: str, location: str, error: Exception) -> UserError:
    if not Path(location).is_dir():
        return UserError(f"`--model {name}`: {unavailable(error, location, 'model')}")
    return UserError(f"`--model {name}`: cannot load {location}: {error}. Fetch the folder again")


def model_digest(name: str) -> str:
    """Identifies the weights: SHA-256 over their files' own, which are equal on the hub and in a local copy.

    Raises:
        UserError: The model cannot be found, is not of a supported family, or has no safetensors.
    """
    model_config(name)
    location = Path(locate(name))
    if not location.is_dir():
        return digest_of(weight_digests(str(location)))
    weights = sorted(location.glob("*.safetensors"))
    if not weights:
        raise UserError(f"`model.name` = {name}: {location} has no .safetensors file; only safetensors are loaded")
    return digest_of({file.name: sha256_file(file) for file in weights})


def choose_precision(section: ModelSection, device: torch.device) -> str:
    """Resolve ``auto``: bf16 on a GPU that has it, else fp32."""
    if section.precision != "auto":
        return section.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def load_model(section: ModelSection, device: torch.device, seed: int = 0) -> LoadedModel:
    """Load a model by name for training or evaluation.

    With full fine-tuning the weights are fp32 and computation is under autocast; with LoRA the frozen weights have
    the precision of the computation, and what is trained stays fp32.

    Args:
        section: Which model, and how it is trained.
        device: Where it goes.
        seed: Of the adapters' initial weights.

    Raises:
        UserError: The model cannot be found or read; the message says which and how to get it.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    location = locate(section.name)
    model_config(section.name)
    precision = choose_precision(section, device)
    dtype = weights_dtype(section, precision)
    quantised = quantisation_config(section.quantisation, dtype)
    options = {} if quantised is None else {"quantization_config": quantised, "device_map": {"": device}}
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        model = AutoModelForImageTextToText.from_pretrained(
            location,
            dtype=dtype,
            attn_implementation={"text_config": "sdpa", "vision_config": vision_attention(device, precision)},
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loadable(section.name, location, error) from error
    if quantised is None:
        model.to(device)
    else:
        keep_weights_trainable_on_cpu(model)
        model.requires_grad_(False)
    if section.freeze_vision:
        model.model.visual.requires_grad_(False)
        if precision == "bf16":
            model.model.visual.to(torch.bfloat16)  # frozen, so its weights need no fp32
    if section.tuning == "lora":
        torch.manual_seed(seed_for(seed, "adapters"))
        model = with_lora(model, section)
    if section.gradient_checkpointing:
        recompute_activations(model.get_base_model() if section.tuning == "lora" else model)
    model.eval()
    return LoadedModel(model, tokenizer, device, precision)


def weights_dtype(section: ModelSection, precision: str) -> torch.dtype:
    """Of the weights that are not quantised: bf16 only where they are frozen."""
    return torch.bfloat16 if precision == "bf16" and section.tuning == "lora" else torch.float32


def vision_attention(device: torch.device, precision: str) -> str:
    """FlashAttention for the vision tower where it is installed and supported, else SDPA.

    The language model always uses the engine's own attention, which calls SDPA (flash kernels on a GPU).
    """
    from transformers.utils import is_flash_attn_2_available

    flash = device.type == "cuda" and precision == "bf16" and is_flash_attn_2_available()
    return "flash_attention_2" if flash else "sdpa"


def recompute_activations(model: Any, reentrant: bool = False) -> None:
    """Switch gradient checkpointing on; transformers renamed the call in 5.23 and removes the old name in 6."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


def with_lora(model: nn.Module, section: ModelSection) -> nn.Module:
    """The model with LoRA adapters on the language model's linear layers, initialised by torch's global generator."""
    # On a CPU bitsandbytes, which peft imports, warns that a kernel for 4-bit inference is missing; none is needed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=section.lora_rank,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )
    vision_trained = not section.freeze_vision
    wrapped = get_peft_model(model, config)
    if vision_trained:
        # In fp32 like the adapters: in bf16 the updates of a small learning rate would be rounded away.
        wrapped.get_base_model().model.visual.float().requires_grad_(True)
    return wrapped


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
