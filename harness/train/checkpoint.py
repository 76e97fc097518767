"""Checkpoints: written whole or not at all, checked by digest, loaded only from safetensors."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.config import digest_of
from harness.errors import UserError
from harness.io import read_json, sha256_file, write_json

MANIFEST = "manifest.json"
STATE = "trainer"
VISION = "vision.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        folder: ``.../checkpoints/step-000200``.
        step: The trainer's step.
        digest: SHA-256 over the weight files' digests: the identity of the weights.
        manifest: The manifest's content.
    """

    folder: Path
    step: int
    digest: str
    manifest: dict[str, Any]


def folder_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:06d}"


def save_checkpoint(
    root: Path,
    step: int,
    model: nn.Module,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    about: dict[str, Any],
) -> Checkpoint:
    """Write a checkpoint under a temporary name, sync it, and rename it into place.

    Weights are in transformers' (or PEFT's) own layout, so that plain ``from_pretrained`` reads them. The optimiser
    state of earlier checkpoints is dropped once the new one is whole.

    Args:
        root: The cell's ``checkpoints`` folder.
        step: The trainer's step.
        model: The (possibly PEFT-wrapped) model.
        tokenizer: Saved beside the weights.
        optimizer: Its state goes into ``trainer/``.
        state: JSON-serialisable trainer state (meter, cursor).
        about: What the manifest says about the cell.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    final, temporary = root / folder_name(step), root / f".{folder_name(step)}.tmp"
    temporary.mkdir()
    adapter = hasattr(model, "peft_config")
    model.save_pretrained(temporary)  # type: ignore[operator]
    if adapter and any(p.requires_grad for p in model.get_base_model().model.visual.parameters()):  # type: ignore[operator]
        save_file(model.get_base_model().model.visual.state_dict(), temporary / VISION)  # type: ignore[operator]
    tokenizer.save_pretrained(temporary)
    weights = {file.name: sha256_file(file) for file in sorted(temporary.glob("*.safetensors"))}
    _save_state(temporary / STATE, optimizer, state)
    files = {
        str(file.relative_to(temporary)): sha256_file(file) for file in sorted(temporary.rglob("*")) if file.is_file()
    }
    manifest = {**about, "step": step, "adapter": adapter, "digest": digest_of(weights), "files": files}
    write_json(temporary / MANIFEST, manifest)
    _sync_folder(temporary)
    temporary.rename(final)
    _sync(root)
    for older in root.glob("step-*"):
        if older != final and (older / STATE).exists():
            shutil.rmtree(older / STATE)
    return Checkpoint(final, step, manifest["digest"], manifest)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint and check every weight file against its digest.

    Raises:
        UserError: It has no manifest, lacks a file, or a file is not what was written.
    """
    manifest = read_json(folder / MANIFEST)
    for name, expected in manifest["files"].items():
        path = folder / name
        if name.startswith(f"{STATE}/") and not (folder / STATE).exists():
            continue
        if not path.is_file():
            raise UserError(f"`{folder}`: the checkpoint lacks {name}; use another checkpoint, or train again")
        if sha256_file(path) != expected:
            raise UserError(
                f"`{path}`: its content is not what was written (digest differs); "
                "the checkpoint is refused. Use another checkpoint, or delete this one and run again"
            )
    return Checkpoint(folder, int(manifest["step"]), str(manifest["digest"]), manifest)


def list_checkpoints(root: Path) -> list[Path]:
    """Whole checkpoints in ascending order of step."""
    return sorted(folder for folder in root.glob("step-*") if (folder / MANIFEST).is_file())


def restore_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model of the same shape and tuning.

    Raises:
        UserError: The checkpoint was made with another tuning, or does not fit the model.
    """
    adapter = hasattr(model, "peft_config")
    if adapter != checkpoint.manifest["adapter"]:
        kind = "LoRA adapters" if checkpoint.manifest["adapter"] else "full weights"
        raise UserError(f"`{checkpoint.folder}` holds {kind}; set model.tuning to match")
    try:
        if adapter:
            _restore_adapter(model, checkpoint.folder)
        else:
            source = type(model).from_pretrained(  # type: ignore[attr-defined]
                checkpoint.folder, dtype=torch.float32, use_safetensors=True
            )
            model.load_state_dict(source.state_dict())
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"`{checkpoint.folder}`: does not fit this model: {error}") from error


def _restore_adapter(model: Any, folder: Path) -> None:
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise ValueError(f"unknown adapter weights, for example {result.unexpected_keys[0]}")
    if (folder / VISION).exists():
        model.get_base_model().model.visual.load_state_dict(load_file(folder / VISION))


def restore_state(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the optimiser's state and return the trainer's.

    Raises:
        UserError: The checkpoint has none (a later one replaced it).
    """
    folder = checkpoint.folder / STATE
    if not folder.is_dir():
        raise UserError(f"`{checkpoint.folder}`: holds no optimiser state; only the last checkpoint can be continued")
    tensors = load_file(folder / "optimizer.safetensors")
    document = read_json(folder / "state.json")
    loaded: dict[str, Any] = {"param_groups": document["param_groups"], "state": {}}
    for key, value in {**document["scalars"], **tensors}.items():
        index, *path = key.split("/")
        node = loaded["state"].setdefault(int(index), {})
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    optimizer.load_state_dict(loaded)
    state: dict[str, Any] = document["state"]
    return state


def _save_state(folder: Path, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    folder.mkdir()
    saved = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            tensors[prefix] = value.detach().cpu().contiguous().clone()
        elif isinstance(value, dict):
            for key, item in value.items():
                flatten(f"{prefix}/{key}", item)
        else:
            scalars[prefix] = value

    for index, entry in saved["state"].items():
        flatten(str(index), entry)
    save_file(tensors, folder / "optimizer.safetensors")
    groups = json.loads(json.dumps(saved["param_groups"]))
    write_json(folder / "state.json", {"param_groups": groups, "scalars": scalars, "state": state})


def _sync_folder(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
