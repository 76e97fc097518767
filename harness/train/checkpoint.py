"""Checkpoints: written whole or not at all, checked by digest, loaded only from safetensors."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from harness.errors import UserError, first_few
from harness.io import digest_of, read_as, read_json, read_sealed, sha256_file, write_json, write_sealed
from harness.models.remote_code import refuse_remote_code
from harness.models.weights import check_weights, load_whole, refuse_infinite

MANIFEST = "manifest.json"
STATE, STATE_FILE, STATE_TENSORS = "trainer", "state.json", "optimizer.safetensors"
STEP_FOLDER = re.compile(r"step-\d{6,}")
VISION = "vision.safetensors"
ADAPTER_SETTINGS = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
"""What decides how adapters' tensors act, besides their names and shapes."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        folder: ``.../checkpoints/step-000200``.
        step: The trainer's step.
        digest: SHA-256 over the weight files' digests: the identity of the weights.
        adapter: Whether the weights are adapters, else a whole model's.
        base: What identifies the model that training started from.
        training: What identifies the training that wrote it: method, seed, model, data, settings.
        earlier: The digests of the same training's earlier checkpoints, by folder.
    """

    folder: Path
    step: int
    digest: str
    adapter: bool
    base: str
    training: str = ""
    earlier: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Manifest:
    """Of a checkpoint's manifest, what is read: its files by their path in the folder, with the digest of each."""

    step: int
    adapter: bool
    digest: str
    files: dict[str, str]
    base: str = ""
    training: str = ""
    earlier: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _State:
    """What :func:`_save_state` writes besides tensors: the optimiser's groups and scalars, the trainer's state."""

    param_groups: list[dict[str, Any]]
    scalars: dict[str, Any]
    state: dict[str, Any]


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
        tokenizer: Saved next to the weights.
        optimizer: Its state goes into ``trainer/``.
        state: JSON-serialisable trainer state (meter, cursor).
        about: What the manifest says about the cell: ``base`` and ``training``, see :class:`Checkpoint`, and more.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".step-*.tmp"):
        if re.fullmatch(r"\.step-\d{6,}\.tmp", leftover.name) and not leftover.is_symlink():
            shutil.rmtree(leftover)
    training = str(about.get("training", ""))
    earlier = {one.folder.name: one.digest for one in map(_described, list_checkpoints(root)) if one.step < step}
    final, temporary = root / folder_name(step), root / f".{folder_name(step)}.tmp"
    try:
        temporary.mkdir()
        adapter = _save_weights(model, temporary)
        tokenizer.save_pretrained(temporary)
        _save_state(temporary / STATE, optimizer, state)
        files = {str(f.relative_to(temporary)): sha256_file(f) for f in sorted(temporary.rglob("*")) if f.is_file()}
        digest = _weights_digest(files)
        manifest = {**about, "step": step, "adapter": adapter, "digest": digest, "earlier": earlier, "files": files}
        write_sealed(temporary / MANIFEST, manifest)
        for name in files:  # safetensors' own are readable by their owner alone, whatever the umask
            (temporary / name).chmod((temporary / MANIFEST).stat().st_mode)
        for path in (*temporary.rglob("*"), temporary):
            _sync(path)
        temporary.rename(final)
    except BaseException:
        # The disk is probably full: free the space.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(root)
    drop_older_states(final)
    return Checkpoint(final, step, digest, adapter, str(about.get("base", "")), training, earlier)


def _weights_digest(files: Mapping[str, str]) -> str:
    """What identifies a checkpoint's weights, from the digests of all its files."""
    return digest_of({name: files[name] for name in sorted(files) if re.fullmatch(r"[^/]+\.safetensors", name)})


def drop_older_states(last: Path) -> None:
    """Remove the optimiser states of all but the last checkpoint, the only one that training can resume from.

    A state is renamed before it is removed, so that a kill leaves it whole or gone, never partial.
    """
    for older in list_checkpoints(last.parent):
        if older != last and (older / STATE).exists():
            (older / STATE).rename(older / f".{STATE}.tmp")
        left = older / f".{STATE}.tmp"
        for name in (STATE_FILE, STATE_TENSORS):
            (left / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is gone, or holds something else
            left.rmdir()


def _save_weights(model: Any, folder: Path) -> bool:
    """Write the trained weights; return whether they are an adapter."""
    if not hasattr(model, "peft_config"):
        model.save_pretrained(folder)
        return False
    # Embeddings are never trained with adapters; by default PEFT would ask the hub whether they were.
    model.save_pretrained(folder, save_embedding_layers=False)
    vision = model.get_base_model().model.visual
    if any(parameter.requires_grad for parameter in vision.parameters()):
        save_file(vision.state_dict(), folder / VISION)
    return True


def read_checkpoint(folder: Path, training: str | None = None) -> Checkpoint:
    """Read a checkpoint's manifest and check every file against its digest.

    Args:
        folder: The checkpoint.
        training: What identifies the training that must have written it; None for any.

    Raises:
        UserError: It has no manifest; a file is missing, or there is another that would be loaded; a digest differs; or
            it belongs to another step or training than its place says.
    """
    again = _again(folder)
    manifest, found = _manifest(folder), _described(folder)
    if training is not None and found.training != training:
        raise UserError(f"`{folder}`: it was not written by the training of this cell. {again}")
    outside = any(Path(name).is_absolute() or ".." in Path(name).parts for name in manifest.files)
    if outside or manifest.digest != _weights_digest(manifest.files):
        raise UserError(f"`{folder / MANIFEST}`: `digest` is not that of the weights among `files`. {again}")
    for name, expected in manifest.files.items():
        path = folder / name
        if name.startswith(f"{STATE}/") and not (folder / STATE).exists():
            continue
        if not path.is_file():
            raise UserError(f"`{folder}`: the checkpoint lacks {name} and is refused. {again}")
        if sha256_file(path) != expected:
            raise UserError(
                f"`{path}`: its content is not what was written (digest differs); the checkpoint is refused. {again}"
            )
    read = (one.name for one in folder.iterdir() if one.suffix in (".safetensors", ".json", ".jinja"))
    if strange := sorted(name for name in read if name not in manifest.files and name != MANIFEST):
        raise UserError(f"`{folder}`: {first_few(strange)} was not written with this checkpoint; move it elsewhere")
    return found


def _described(folder: Path) -> Checkpoint:
    """A checkpoint as its manifest describes it, which must be of the step that the folder's name says."""
    one = _manifest(folder)
    if STEP_FOLDER.fullmatch(folder.name) and folder.name != folder_name(one.step):
        raise UserError(f"`{folder}`: its manifest says step {one.step}. {_again(folder)}")
    return Checkpoint(folder, one.step, one.digest, one.adapter, one.base, one.training, one.earlier)


def _manifest(folder: Path) -> _Manifest:
    return read_sealed(_Manifest, folder / MANIFEST, _again(folder))


def _again(folder: Path) -> str:
    return f"Use another checkpoint, or delete the folder {folder.parent} and train again"


def list_checkpoints(root: Path) -> list[Path]:
    """Whole checkpoints in ascending order of step; folders of other names, such as copies, are none."""
    found = [folder for folder in root.glob("step-*") if STEP_FOLDER.fullmatch(folder.name)]
    whole = [folder for folder in found if (folder / MANIFEST).is_file() and not folder.is_symlink()]
    return sorted(whole, key=lambda folder: int(folder.name.removeprefix("step-")))


def trained_checkpoints(root: Path, training: str) -> list[Checkpoint]:
    """The checkpoints of a complete training, in the order of their steps.

    Raises:
        UserError: As :func:`read_checkpoint`; or they are not those that the last one's manifest lists.
    """
    found = [read_checkpoint(folder, training) for folder in list_checkpoints(root)]
    if not found:
        raise UserError(f"`{root}`: it holds no checkpoint; run the same command again")
    last, there = found[-1], {one.folder.name: one.digest for one in found}
    if there != (written := {**last.earlier, last.folder.name: last.digest}):
        odd = sorted(name for name in there | written if there.get(name) != written.get(name))
        raise UserError(
            f"`{root}`: {first_few(odd)}: missing, or not what training wrote there. Put it back, or delete the folder "
            f"{root} and train again"
        )
    return found


def restore_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint's weights into a model of the same shape and tuning.

    Raises:
        UserError: The checkpoint was made with another tuning, or does not fit the model.
    """
    adapter = hasattr(model, "peft_config")
    if adapter != checkpoint.adapter:
        kind = "LoRA adapters" if checkpoint.adapter else "full weights"
        raise UserError(f"`{checkpoint.folder}` holds {kind}; set model.tuning to match")
    try:
        if adapter:
            _restore_adapter(model, checkpoint.folder)
        else:
            _restore_full(model, checkpoint.folder)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"`{checkpoint.folder}`: does not fit this model: {error}") from error


def _restore_full(model: nn.Module, folder: Path) -> None:
    from transformers import AutoConfig

    refuse_remote_code(folder)
    weights = check_weights(folder, AutoConfig.from_pretrained(folder, trust_remote_code=False))
    model.load_state_dict(load_whole(weights, dtype=torch.float32).state_dict())


def _restore_adapter(model: Any, folder: Path) -> None:
    """Load adapters, all of them or none: PEFT leaves out what does not fit."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    saved, mine = read_json(folder / "adapter_config.json"), model.peft_config[model.active_adapter].to_dict()
    for key in ADAPTER_SETTINGS:
        if saved[key] != mine[key]:
            raise ValueError(f"its adapters have {key} = {saved[key]}, the model section asks for {mine[key]}")
    tensors = load_file(folder / "adapter_model.safetensors")
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes, stored = ({name: one.shape for name, one in some.items()} for some in (own, tensors))
    if wrong := sorted(name for name in shapes | stored if shapes.get(name) != stored.get(name)):
        raise ValueError(f"its adapters and the model's differ in name or shape: {first_few(wrong)}")
    refuse_infinite(folder, tensors.items())
    set_peft_model_state_dict(model, tensors)
    if (folder / VISION).exists():
        vision = load_file(folder / VISION)
        refuse_infinite(folder, vision.items())
        model.get_base_model().model.visual.load_state_dict(vision)


def restore_state(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load the optimiser's state and return the trainer's.

    Raises:
        UserError: The checkpoint has none (a later one replaced it).
    """
    folder = checkpoint.folder / STATE
    if not folder.is_dir():
        raise UserError(
            f"`{checkpoint.folder}`: holds no optimiser state, since it was not the last checkpoint; to train again "
            f"from the start, delete the folder {checkpoint.folder.parent}"
        )
    tensors = load_file(folder / STATE_TENSORS)
    document = read_as(_State, folder / STATE_FILE, f"Delete the folder {checkpoint.folder} and train again")
    loaded: dict[str, Any] = {"param_groups": document.param_groups, "state": {}}
    for key, value in {**document.scalars, **tensors}.items():
        index, *path = key.split("/")
        node = loaded["state"].setdefault(int(index), {})
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    optimizer.load_state_dict(loaded)
    return document.state


def _save_state(folder: Path, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    folder.mkdir()
    saved = optimizer.state_dict()
    values = dict(_flattened(saved["state"]))
    tensors = {key: one.detach().cpu().contiguous().clone() for key, one in values.items() if torch.is_tensor(one)}
    save_file(tensors, folder / STATE_TENSORS)
    scalars = {key: one for key, one in values.items() if key not in tensors}
    write_json(folder / STATE_FILE, {"param_groups": saved["param_groups"], "scalars": scalars, "state": state})


def _flattened(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries, with their keys joined by slashes."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
