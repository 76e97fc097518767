"""Loading a model and its tokenizer: full fine-tuning or LoRA, frozen or trained vision tower."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from harness.config.study import ModelSection
from harness.errors import UserError, unknown_name
from harness.hub import (
    MODEL_SETTINGS,
    HubName,
    cached_model,
    fetch_model,
    fetch_settings,
    hub_name,
    model_digests,
)
from harness.io import digest_of, read_json
from harness.models.families import FAMILIES
from harness.models.presets import ModelPreset
from harness.models.quantisation import (
    agreed_quantisation,
    compute_in,
    keep_weights_trainable_on_cpu,
    quantisation_config,
)
from harness.models.remote_code import refuse_remote_code
from harness.models.weights import StoredWeights, check_finite, check_weights, load_whole, quantised_weights
from harness.plugins import registry
from harness.seeds import seed_for

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""LoRA goes on every linear layer of the language model; the paper does not say where. Ours."""


class LoadedModel(NamedTuple):
    """A model ready to train, and its tokenizer."""

    model: nn.Module
    tokenizer: Any
    device: torch.device
    precision: str


def locate(name: str) -> str:
    """The folder or hub id that a model name stands for.

    A hub id may end in ``@REVISION``.

    Raises:
        UserError: The name is neither registered, nor a model folder, nor a hub id.
    """
    if name in registry.names("models"):
        preset: ModelPreset = registry.load("models", name)
        return preset.location
    path = Path(name)
    if path.is_dir():
        _refuse_adapters(name, path)
        if not (path / "config.json").is_file():
            raise UserError(f"`model.name` = {name}: the folder has no config.json, so it is not a model")
        return str(path)
    if hub_name(name):
        return name
    raise unknown_name(f"--model {name}", name, registry.names("models"))


def _refuse_adapters(name: str, folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        content = read_json(folder / "adapter_config.json")
        base = content.get("base_model_name_or_path") if isinstance(content, dict) else "an unknown model"
        raise UserError(
            f"`model.name` = {name}: the folder holds adapters for {base}, not a model. Name the base model; a "
            "cell's checkpoint is evaluated with `harness evaluate CHECKPOINT`, other adapters are merged into "
            "their base first (merge_and_unload of peft)"
        )


def settings_folder(name: str) -> Path:
    """The folder of a model's settings, from the hub if need be; its weights need not be there.

    Raises:
        UserError: The model cannot be found, or asks for code of its own.
    """
    location = locate(name)
    try:
        folder = Path(location) if Path(location).is_dir() else fetch_settings(location)
        refuse_remote_code(folder)
    except UserError as error:
        raise UserError(f"`--model {name}`: {error}") from error
    return folder


def _of_hub(location: str) -> HubName | None:
    return None if Path(location).is_dir() else hub_name(location)


def model_config(name: str) -> Any:
    """The configuration of a model, without its weights.

    Raises:
        UserError: It cannot be found, or is not of a supported family.
    """
    from transformers import AutoConfig

    folder = settings_folder(name)
    with readable(name, folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
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


@contextmanager
def readable(name: str, folder: Path) -> Iterator[None]:
    """Around a library's reading of a model's files: whatever it raises about them is a :class:`UserError`."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"`--model {name}`: cannot load {folder}: {type(error).__name__}: {error}. Fetch the folder again"
        ) from error


def load_tokenizer(name: str, folder: Path) -> Any:
    """A model's tokenizer; transformers makes an empty one where a folder has none.

    Args:
        name: As the study names the model.
        folder: As :func:`settings_folder` gives it.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with readable(name, folder):
        if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise UserError(
                f"`--model {name}`: it has no tokenizer.json. Copy the tokenizer's files and the chat template of the "
                "Instruct model that it comes from next to its config.json"
            )
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def model_digest(name: str) -> str:
    """Identifies a model: SHA-256 over those of its weights, configuration, tokenizer and templates.

    It is equal on the hub and in a local copy.

    Raises:
        UserError: The model cannot be found, is not of a supported family, or has no safetensors.
    """
    model_config(name)
    return digest_of(model_digests(locate(name)))


def local_folder(location: str) -> Path | None:
    """Where a located model is on this machine, in the hub's cache too; None if it is not."""
    return Path(location) if Path(location).is_dir() else cached_model(location)


def check_model(section: ModelSection, *, values: bool = True) -> list[str]:
    """Check a model without loading it: configuration, quantisation and weights must fit each other.

    Of a model of the hub that is not on this machine, only the configuration is checked; :func:`load_model` does the
    rest.

    Args:
        section: Which model, and how it is trained.
        values: Read the weights too, and refuse NaN and infinite ones; else only the headers of their files are read.

    Returns:
        What is worth knowing about it, in words.

    Raises:
        UserError: They do not, or the model cannot be found; the message names what does not fit and the fix.
    """
    config, location = model_config(section.name), locate(section.name)
    stored = agreed_quantisation(section, config)
    remarks = [] if stored == "none" else [f"its weights are stored in {stored}"]
    if not (folder := local_folder(location)):
        return remarks
    weights = _fitting_weights(section, folder, config)
    zeros = check_finite(weights) if values else []
    return [*remarks, *weights.remarks, *zeros]


def _fitting_weights(section: ModelSection, folder: Path, config: Any) -> StoredWeights:
    _refuse_adapters(section.name, folder)
    for name in MODEL_SETTINGS:  # transformers takes its own defaults for a generation_config.json that it can't read
        if (
            name.endswith("_config.json")
            and (folder / name).is_file()
            and not isinstance(read_json(folder / name), dict)
        ):
            raise UserError(f"`{folder / name}`: it is no JSON object. Fetch the folder again")
    with readable(section.name, folder):
        weights = check_weights(folder, config)
    if not section.freeze_vision and any("visual." in name for name in quantised_weights(weights)):
        raise UserError(
            f"`model.freeze_vision` = false: the vision tower of {section.name} is stored quantised and cannot be "
            "trained. Set it to true, or name the model that it was made from, in full precision"
        )
    return weights


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
    location, config = locate(section.name), model_config(section.name)
    stored = agreed_quantisation(section, config)
    folder = Path(location) if Path(location).is_dir() else fetch_model(location)
    precision = choose_precision(section, device)
    dtype = weights_dtype(section, precision)
    options: dict[str, Any] = {"config": config}
    if section.quantisation != "none":
        quantised = quantisation_config(section.quantisation, dtype)
        if stored == "none":
            options["quantization_config"] = quantised
        compute_in(config, dtype)
        options["device_map"] = {"": device}
    weights = _fitting_weights(section, folder, config)
    for remark in weights.remarks:
        logging.getLogger(__name__).warning("%s: %s", section.name, remark)
    tokenizer = load_tokenizer(section.name, folder)
    with readable(section.name, folder):
        model = load_whole(
            weights,
            dtype=dtype,
            attn_implementation={"text_config": "sdpa", "vision_config": vision_attention(device, precision)},
            **options,
        )
    model.name_or_path = at.repository if (at := _of_hub(location)) else location  # which adapters name as their base
    if section.quantisation == "none":
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
        revision=at.revision if (at := _of_hub(locate(section.name))) else None,
    )
    vision_trained = not section.freeze_vision
    wrapped = get_peft_model(model, config)
    if vision_trained:
        # In fp32 like the adapters: in bf16 the updates of a small learning rate would be rounded away.
        wrapped.get_base_model().model.visual.float().requires_grad_(True)
    return wrapped
