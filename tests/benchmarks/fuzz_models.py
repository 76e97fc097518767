"""Fuzz targets about model folders and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from fuzz_mutations import ODD_TEXT, Input, encoded, json_text, mutated_bytes, mutated_document, require
from safetensors.torch import load_file
from transformers.utils import logging

from harness.config.sections import ModelSection
from harness.io import digest_of
from harness.models.conversation import settle_conversation
from harness.models.loading import load_model, model_digest
from harness.models.presets import TINY
from harness.train.checkpoint import read_checkpoint, restore_state, restore_weights, save_checkpoint

CPU = torch.device("cpu")
TUNINGS = ("full", "lora")


def make_seeds(folder: Path) -> None:
    """A model in one file and in shards, and checkpoints of both tunings."""
    logging.disable_progress_bar()
    model = folder / "models" / "whole"
    shutil.copytree(TINY.location, model)
    loaded = _loaded(str(model), "full")
    loaded.model.save_pretrained(folder / "models" / "shards", max_shard_size="2MB")
    for file in model.iterdir():
        if not (folder / "models" / "shards" / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, folder / "models" / "shards")
    for tuning in TUNINGS:
        loaded = _loaded(str(model), tuning)
        trained = [one for one in loaded.model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        torch.manual_seed(0)
        for one in trained:
            one.grad = torch.randn_like(one)
        optimizer.step()
        about = {"cell": "c", "method": "sft", "seed": 0, "base": "b", "model": {}, "consumed": {"examples": 4}}
        state = {"cursor": 4, "meter": {"examples": 4}}
        save_checkpoint(folder / "checkpoints" / tuning, 2, loaded.model, loaded.tokenizer, optimizer, state, about)


def _loaded(name: str, tuning: str) -> Any:
    section = ModelSection(name=name, tuning=tuning, precision="fp32", freeze_vision=True)  # type: ignore[arg-type]
    return load_model(section, CPU)


def model_folders(given: Input) -> None:
    """A model's folder with one or two of its files damaged."""
    rng, folder = given.rng, given.folder / "model"
    source = given.seeds / "models" / rng.choice(("whole", "shards"))
    _linked(source, folder)
    for _ in range(rng.choice((1, 1, 2))):
        names = ("*config.json", "*.json", "model*.safetensors", "model*", "*")
        files = sorted(path for path in folder.glob(rng.choice(names)) if path.is_file())
        if files:
            _damage(rng, rng.choice(files))
    digest = model_digest(str(folder))
    loaded = _loaded(str(folder), "full")
    model = loaded.model
    settle_conversation(loaded.tokenizer, model.config, model.generation_config, str(folder))
    stored: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        stored |= load_file(file)
    whole = load_file(given.seeds / "models" / "whole" / "model.safetensors")
    same = digest == model_digest(str(source))
    found = loaded.model.state_dict()
    for name, value in found.items():
        require(bool(torch.isfinite(value).all()), f"a weight that is not finite: {name}")
    for name, value in whole.items():
        ours = next((found[one] for one in _names(name) if one in found), None)
        require(ours is not None, f"a weight that the model lacks: {name}")
        here = [tensor for one, tensor in stored.items() if one == name or one.endswith(f".{name}")]
        require(bool(here) and torch.equal(ours, here[0].float()), f"a weight that is not the folder's: {name}")
        require(not same or torch.equal(ours, value), f"a weight that changed under the same digest: {name}")
    require(bool(loaded.tokenizer("4 chairs").input_ids), "a tokenizer that gives nothing")


def _names(stored: str) -> tuple[str, ...]:
    """The names that a stored tensor may have in the model; Qwen2-VL's files have older ones."""
    return (
        stored,
        stored.replace("visual.", "model.visual.", 1),
        stored.replace("model.", "model.language_model.", 1),
    )


def _linked(source: Path, folder: Path) -> None:
    """A folder that links to another's files."""
    for path in sorted(source.rglob("*")):
        place = folder / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            place.symlink_to(path)


def _rewrite(file: Path, data: bytes) -> None:
    file.unlink()
    file.write_bytes(data)


def _damage(rng: random.Random, file: Path) -> None:
    data = file.read_bytes()
    if rng.random() < 0.08:
        file.unlink()
    elif file.suffix == ".safetensors" and rng.random() < 0.8:
        _rewrite(file, _damaged_tensors(rng, data))
    elif file.suffix == ".json" and rng.random() < 0.85:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):  # damaged already
            document = {}
        _rewrite(file, encoded(rng, json_text(rng, mutated_document(rng, document))))
    else:
        _rewrite(file, mutated_bytes(rng, data))


def _damaged_tensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, other names, or numbers that are none."""
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
        names = [name for name in header if "data_offsets" in header[name]]
        assert names
    except (struct.error, ValueError, TypeError, AssertionError):  # damaged already
        return mutated_bytes(rng, data)
    what = rng.choice(("header", "drop", "prefix", "rename", "number", "shape", "bytes", "length"))
    if what == "header":
        header = mutated_document(rng, header)
    elif what == "drop":
        for name in rng.sample(names, min(len(names), rng.choice((1, 3)))):
            del header[name]
    elif what == "prefix":
        prefix = rng.choice(("module.", "base_model.model.", "model.", "x."))
        chosen = set(names) if rng.random() < 0.7 else set(rng.sample(names, 1))
        header = {f"{prefix}{name}" if name in chosen else name: value for name, value in header.items()}
    elif what == "rename":
        name = rng.choice(names)
        header[rng.choice(ODD_TEXT)] = header.pop(name)
    elif what == "number":
        start, end = header[rng.choice(names)]["data_offsets"]
        at = rng.randrange(start, end, 4) if end > start else 0
        body[at : at + 4] = struct.pack("<f", rng.choice((math.nan, math.inf, -math.inf)))
    elif what == "shape":
        entry = header[rng.choice(names)]
        entry["shape"] = rng.choice((entry["shape"][::-1], [math.prod(entry["shape"])], [*entry["shape"], 1]))
    elif what == "bytes":
        body = bytearray(mutated_bytes(rng, bytes(body), 1))
    text = json.dumps(header).encode()
    length = len(text) if what != "length" else rng.choice((0, 1, len(text) - 1, len(text) + 1, 2**40, 2**63))
    return struct.pack("<Q", length) + text + bytes(body)


@functools.cache
def _policy(model: str, tuning: str) -> Any:
    return _loaded(model, tuning).model


def checkpoints(given: Input) -> None:
    """A checkpoint with one or two of its files damaged; what is restored is what was saved, bit by bit."""
    rng, tuning = given.rng, given.rng.choice(TUNINGS)
    source, folder = given.seeds / "checkpoints" / tuning / "step-000002", given.folder / "checkpoints" / "step-000002"
    _linked(source, folder)
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5:
            manifest = folder / "manifest.json"
            document = json.loads((source / "manifest.json").read_bytes())
            document["files"] = mutated_document(rng, document["files"]) if rng.random() < 0.5 else document["files"]
            document = mutated_document(rng, document)
            if isinstance(document, dict) and rng.random() < 0.5:  # as who recomputes the seal
                with contextlib.suppress(UnicodeEncodeError):  # half of a surrogate pair has no seal
                    document["seal"] = digest_of({key: value for key, value in document.items() if key != "seal"})
            changed = json_text(rng, document)
            if manifest.exists():
                data = encoded(rng, changed)
                _rewrite(manifest, data if rng.random() < 0.8 else mutated_bytes(rng, data))
            break
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if files:
            _damage(rng, rng.choice(files))
    model = _policy(str(given.seeds / "models" / "whole"), tuning)
    opened = read_checkpoint(folder)
    restore_weights(model, opened)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    state = restore_state(opened, optimizer)
    require(state == {"cursor": 4, "meter": {"examples": 4}}, f"the trainer's state is {str(state)[:300]}")
    weights, moments = _expected(str(source), str(given.seeds / "models" / "whole"), tuning)
    require(_equal(model.state_dict(), weights), "weights that are not those that were saved")
    again = optimizer.state_dict()["state"]
    same = again.keys() == moments.keys() and all(_equal(again[key], moments[key]) for key in moments)
    require(same, "an optimiser's state that is not what was saved")


Tensors = dict[str, torch.Tensor]


def _equal(found: Tensors, expected: Tensors) -> bool:
    """Whether the tensors are the same, bit by bit."""
    return found.keys() == expected.keys() and all(torch.equal(found[name], one) for name, one in expected.items())


@functools.cache
def _expected(source: str, base: str, tuning: str) -> tuple[Tensors, dict[int, Tensors]]:
    """The weights and the optimiser's state of the undamaged checkpoint."""
    model = _loaded(base, tuning).model
    opened = read_checkpoint(Path(source))
    restore_weights(model, opened)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    restore_state(opened, optimizer)
    return model.state_dict(), optimizer.state_dict()["state"]
