"""A model's weights as its files hold them: whole, finite, and fitting its config.json, or refused by name.

transformers only warns about the rest: what is missing is drawn at random, what does not fit is left out.
"""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.errors import UserError, first_few
from harness.hub import WEIGHTS, WEIGHTS_INDEX, indexed_tensors, weight_files
from harness.models.quantisation import stored_quantisation

PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.", "model.")
"""What DataParallel, torch.compile, FSDP, PEFT and Lightning put before the name of every tensor."""

WITHOUT_EFFECT = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids)$")
"""Tensors of older versions of transformers that the model computes itself; the same that transformers leaves out."""

_SECTIONS = (16, 24, 24)
"""What transformers takes where a configuration names no ``mrope_section``; Qwen3-VL's add up to the same."""

_FLOATS = ("F64", "F32", "F16", "BF16")
_PARTS = re.compile(
    r"(?P<weight>.*\.weight)\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)"
    r"|(?P<module>.*)\.(SCB|weight_format)"
)
"""Tensors by which bitsandbytes reads a quantised weight."""

_AGAIN = "Fetch the folder again, or save the model again with save_pretrained"


class StoredTensor(NamedTuple):
    """A tensor as the header of its file has it."""

    file: str
    dtype: str
    shape: tuple[int, ...]


class StoredWeights(NamedTuple):
    """The weights of a folder.

    Attributes:
        folder: The folder.
        tensors: By name, without what has no effect.
        prefix: What is taken from the beginning of every name.
        remarks: What is worth knowing, in words.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    prefix: str
    remarks: tuple[str, ...]


def check_weights(folder: Path, config: Any) -> StoredWeights:
    """Check a folder's weights against its configuration, from the headers of its files alone.

    Raises:
        UserError: A file is missing or torn, tensors are missing, too many, empty, of another shape or ambiguous.
    """
    if name := getattr(config, "transformers_weights", None):
        raise UserError(f"`{folder / 'config.json'}`: `transformers_weights` = {name} is not supported; delete the key")
    _check_heads(folder, config.text_config)
    tensors, remarks = _read(folder)
    if empty := [name for name, one in tensors.items() if 0 in one.shape]:
        raise UserError(
            f"`{folder}`: empty tensors: {first_few(empty)}. DeepSpeed's ZeRO-3 writes them so unless "
            "it gathers the weights; convert its own checkpoint with zero_to_fp32.py"
        )
    if ignored := sorted(name for name in tensors if WITHOUT_EFFECT.search(name)):
        remarks.append(f"ignored, since the model computes them itself: {first_few(ignored)}")
    tensors = {name: one for name, one in tensors.items() if name not in ignored}
    faults: list[str] = []
    for prefix in _common_prefixes(tensors):
        found = _faults({name.removeprefix(prefix): one for name, one in tensors.items()}, config)
        if not found:
            if prefix:
                remarks.append(f"all {len(tensors)} names of its tensors begin with {prefix}, which is taken off")
            found_whole = StoredWeights(folder, tensors, prefix, tuple(remarks))
            _check_tied(found_whole, config)
            return found_whole
        faults = faults or found
    raise UserError(f"`{folder}`: the tensors do not fit its config.json: {'; '.join(faults)}. {_advice(faults)}")


def check_finite(weights: StoredWeights) -> list[str]:
    """Read every tensor of a folder and refuse NaN and infinite values.

    Returns:
        A remark on matrices that hold nothing but zeros, if there are any.

    Raises:
        UserError: There are some; the tensors are named.
    """
    packed = quantised_weights(weights)
    names = [name for name, one in weights.tensors.items() if one.dtype in _FLOATS and name not in packed]
    return _about_zeros(refuse_infinite(weights.folder, _values(weights, names)))


def quantised_weights(weights: StoredWeights) -> set[str]:
    """The names of the weights that are stored quantised."""
    return {name for kind in ("4bit", "8bit") for name in _quantised(weights.tensors, kind)}


def load_whole(weights: StoredWeights, **options: Any) -> Any:
    """Load a model of which every tensor comes from its files.

    Args:
        weights: Of its folder, checked.
        options: For ``from_pretrained``.

    Raises:
        UserError: transformers reports a tensor that is not loaded as it is stored, or one is not finite.
    """
    from transformers import AutoModelForImageTextToText

    folder, prefix = weights.folder, weights.prefix
    renamed = {"key_mapping": {f"^{re.escape(prefix)}": ""}} if prefix else {}
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, use_safetensors=True, trust_remote_code=False, **renamed, **options
    )
    if faults := _named(report):
        raise UserError(f"`{folder}`: the tensors do not fit its config.json: {'; '.join(faults)}. {_AGAIN}")
    plain = ((name, one) for name, one in model.named_parameters() if not hasattr(one, "quant_state"))
    for remark in _about_zeros(refuse_infinite(folder, plain)):
        logging.getLogger(__name__).warning("%s: %s", folder, remark)
    if prefix:  # or save_pretrained would put the prefix back
        own = [one for one in model._weight_conversions if one.source_patterns != list(renamed["key_mapping"])]
        model._weight_conversions = own
    return model


def refuse_infinite(folder: Path, values: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Refuse tensors with NaN or infinite values.

    Args:
        folder: Where they come from.
        values: Tensors by name; integers pass.

    Returns:
        The names of matrices that hold nothing but zeros.

    Raises:
        UserError: There are some; the tensors are named.
    """
    bad, zero = [], []
    for name, value in values:
        if value.is_floating_point():
            # aminmax passes NaN on, makes no copy, and is 30 times as fast as isfinite().all().
            ends = torch.stack(torch.aminmax(value.detach()))
            if not torch.isfinite(ends).all():
                bad.append(name)
            elif value.ndim > 1 and not ends.any():
                zero.append(name)
    if bad:
        raise UserError(
            f"`{folder}`: NaN or infinite values in {first_few(bad)}. The run that wrote them "
            "had diverged, or the file is damaged; use an earlier checkpoint or fetch it again"
        )
    return zero


def _about_zeros(names: Sequence[str]) -> list[str]:
    return [f"nothing but zeros, as a download that was cut off leaves them: {first_few(names)}"] if names else []


def _read(folder: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of a folder's weight files, and remarks on files that are not read."""
    names, tensors = weight_files(folder), dict[str, StoredTensor]()
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise UserError(
            f"`{folder}`: {len(absent)} of {len(names)} weight files are missing: {first_few(absent)}. {_AGAIN}"
        )
    for name in names:
        for key, one in _header(folder / name).items():
            if key in tensors:
                raise UserError(f"`{folder}`: {key} is in both {tensors[key].file} and {name}. {_AGAIN}")
            tensors[key] = one
    if names != [WEIGHTS]:
        listed = indexed_tensors(folder / WEIGHTS_INDEX)
        if nowhere := [key for key in listed if key not in tensors]:
            raise UserError(f"`{folder / WEIGHTS_INDEX}`: names tensors that are in no file: {first_few(nowhere)}")
    unread = []
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in names:
            try:
                double = [key for key in _header(path) if key in tensors]
            except UserError:
                double = []
            if double or path.name.startswith("shard-"):  # transformers prefers the latter to model.safetensors
                raise UserError(
                    f"`{folder}`: two sets of weights: {first_few(double[:1] or ['those'])} of {path.name} is in "
                    f"{first_few(names, shown=1)} too. Move the files that are not meant elsewhere"
                )
            unread.append(path.name)
    return tensors, [f"not read, since they are no part of its weights: {first_few(unread)}"] if unread else []


def _header(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            return {
                key: StoredTensor(path.name, one.get_dtype(), tuple(one.get_shape())) for key, one in slices.items()
            }
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(24).startswith(b"version https://git-lfs")
        fix = "It is a pointer of Git LFS: run `git lfs pull` there" if pointer else _AGAIN
        raise UserError(f"`{path}`: cannot load these weights: {error}. {fix}") from error


def _common_prefixes(tensors: Iterable[str]) -> Iterator[str]:
    """Nothing, then ever longer chains of known prefixes that every name begins with."""
    prefix, names = "", list(tensors)
    while names:
        yield prefix
        found = next((one for one in PREFIXES if all(name.startswith(prefix + one) for name in names)), None)
        if found is None:
            return
        prefix += found


def _faults(tensors: Mapping[str, StoredTensor], config: Any) -> list[str]:
    """In what tensors of these names and shapes do not fit a model, in words, as transformers reports it."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    kind = stored_quantisation(config)
    quantised = _quantised(tensors, kind)
    parts = {part for found in quantised.values() for part in found}
    plain = {name: one for name, one in tensors.items() if name not in parts}
    if kind != "none" and not quantised:
        return [f"`quantization_config` says that its tensors are stored in {kind}, and none is; delete that key"]
    if strange := [name for name, one in plain.items() if one.dtype not in _FLOATS and name not in quantised]:
        return [f"no floating-point numbers in {first_few(strange)}"]
    shapes = {name: _flat(one) if name in quantised and kind == "4bit" else one.shape for name, one in plain.items()}
    full = _unquantised(config)
    with _quiet():
        model, report = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(full)].from_pretrained(
            None,
            config=full,
            state_dict={name: torch.empty(shape, device="meta") for name, shape in shapes.items()},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            device_map="meta",
            trust_remote_code=False,
        )
    packed = {shapes[name] for name in quantised}
    report["mismatched_keys"] = [
        one for one in report["mismatched_keys"] if tuple(one[1]) not in packed or one[1].numel() != one[2].numel()
    ]
    if faults := _named(report):
        return faults
    shared = bool(full.tie_word_embeddings) and not all(_both_ends(plain))
    if len(plain) > len(model.state_dict()) - shared:
        return ["some are there twice, under the names of two versions of transformers"]
    return []


def _check_heads(folder: Path, text: Any) -> None:
    """The number of heads decides no shape of a weight, only how positions turn it."""
    width, sections = text.hidden_size // text.num_attention_heads, (text.rope_parameters or {}).get("mrope_section")
    head = getattr(text, "head_dim", None) or width
    wanted = 2 * sum(sections or _SECTIONS)
    if wanted != head:
        raise UserError(
            f"`{folder / 'config.json'}`: `mrope_section` = {sections or 'null'} is for heads {wanted} wide, and "
            f"`num_attention_heads` makes them {head} wide. {_AGAIN}"
        )


def _quantised(tensors: Iterable[str], kind: str) -> dict[str, list[str]]:
    """Each weight that bitsandbytes stored quantised, with the tensors that it is read by."""
    found: dict[str, list[str]] = {}
    for name in tensors:
        if match := _PARTS.fullmatch(name):
            found.setdefault(match["weight"] or f"{match['module']}.weight", []).append(name)
    needed = {"4bit": (".absmax", ".quant_map", ".quant_state."), "8bit": (".SCB",)}.get(kind, ("none",))
    return {
        weight: parts
        for weight, parts in found.items()
        if weight in tensors and all(any(f"{end}" in part for part in parts) for end in needed)
    }


def _flat(one: StoredTensor) -> tuple[int]:
    """The shape of a packed 4-bit weight, two numbers a byte, as one row."""
    return (math.prod(one.shape) * 2 * {"U8": 1, "I8": 1, "F16": 2, "BF16": 2}.get(one.dtype, 4),)


def _unquantised(config: Any) -> Any:
    full = copy.deepcopy(config)
    for one in (full, full.text_config):
        if getattr(one, "quantization_config", None) is not None:
            del one.quantization_config
    return full


def _named(report: Mapping[str, Any]) -> list[str]:
    """What transformers reports about loading, in words; nothing if every tensor was loaded as it is stored."""
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    others = [
        f"{name} ({list(stored)} in the file, {list(wanted)} by config.json)"
        for name, stored, wanted in sorted(report["mismatched_keys"])
    ]
    kinds = (("missing", missing), ("without a place in it", unexpected), ("of another shape", others))
    found = [f"{len(names)} {what}: {first_few(names)}" for what, names in kinds if names]
    return found + list(report["error_msgs"])


def _advice(faults: Iterable[str]) -> str:
    text = " ".join(faults)
    if ".lora_" in text or ".base_layer." in text:
        return "Adapters are in it that were not merged: merge them first (merge_and_unload of peft)"
    if re.search(r"1 missing: lm_head\.weight", text):
        return "If its output layer is the embedding, set tie_word_embeddings = true in its config.json"
    if re.search(r"\.(absmax|SCB|qweight|scales|weight_scale\w*)\b", text):
        return "They look quantised: its config.json lacks the quantization_config that says how"
    return f"{_AGAIN}, with the config.json that belongs to it"


def _both_ends(tensors: Iterable[str]) -> tuple[str, str]:
    """The names of the embedding and of the output layer, empty where there is none."""
    ends = ("embed_tokens.weight", "lm_head.weight")
    embedding, head = (next((name for name in tensors if name.endswith(end)), "") for end in ends)
    return embedding, head


def _check_tied(weights: StoredWeights, config: Any) -> None:
    """An output layer that config.json says is the embedding, and that is stored too, must be equal to it."""
    names = _both_ends(weights.tensors)
    if not config.tie_word_embeddings or not all(names):
        return
    embedding, head = (value for _, value in _values(weights, names))
    if not torch.equal(embedding, head):
        raise UserError(
            f"`{weights.folder / 'config.json'}`: `tie_word_embeddings` = true, but {names[1]} is another matrix than "
            f"{names[0]}. Set it to false if the weights are meant, or delete {names[1]} from them"
        )


def _values(weights: StoredWeights, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        with safe_open(weights.folder / weights.tensors[name].file, "pt") as file:
            yield name, file.get_tensor(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report and progress bar, for a load that is only a check."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
