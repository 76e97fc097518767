"""Memory that the engine takes, found by running it on tensors with shapes and no content.

The code that trains runs under PyTorch's FakeTensor for a language model of two and of three layers at its true width;
what the third layer adds, times the layers that are missing, extrapolates to the whole model.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config.study import ModelSection
from harness.engine.activation_recomputation import RecomputingCache
from harness.engine.activation_reuse import KeptPrefill, run_prefixes, run_suffixes
from harness.engine.packing import PackedRows, pack
from harness.engine.policy import Policy
from harness.models.loading import recompute_activations, weights_dtype, with_lora
from harness.models.prompt_state import PromptState

MANY_VIDEOS = 10**6
"""More than a run caches features of."""


@dataclass(frozen=True)
class Load:
    """What is in memory at once.

    Attributes:
        prompt: Tokens of a prompt, those of its video included.
        patches: Of one video, before they are merged into tokens.
        completions: Completions of a prompt that are trained on.
        length: The most tokens of a completion.
        micro_batch: Completions in one forward and backward pass.
        step: Prompts in one optimiser step.
        rollouts: Completions sampled for each prompt.
        sampled: Completions sampled at once; 0 for a method that samples none.
        evaluated: Questions of one batch in an evaluation.
        videos: Distinct videos in all; the features of a frozen tower are cached up to a limit.
        reused: Prompts whose prefill serves the update too (:mod:`harness.engine.activation_reuse`).
    """

    prompt: int
    patches: int
    completions: int
    length: int
    micro_batch: int
    step: int
    rollouts: int = 0
    sampled: int = 0
    evaluated: int = 0
    videos: int = MANY_VIDEOS
    reused: int = 0

    @property
    def prompts(self) -> int:
        """Distinct prompts of a micro-batch."""
        return min(self.step, max(1, self.micro_batch // self.completions))


def peak_of(config: Any, section: ModelSection, precision: str, load: Load, what: str) -> float:
    """Peak bytes of a phase, extrapolated from two and three layers; never below those of two."""
    layers = config.text_config.num_hidden_layers
    needed = replace(load, sampled=0, evaluated=0, reused=0)
    key = (config.to_json_string(), section.model_dump_json(), precision, needed, what)
    if key not in _TRACED:
        _TRACED[key] = [trace(config, section, precision, load, what, count) for count in (2, 3)]
    few, more = _TRACED[key]
    return max(few, few + (layers - 2) * (more - few))


_TRACED: dict[tuple[str, str, str, Load, str], list[int]] = {}
"""Traces of this process, by all that they depend on; the search for settings that fit repeats them."""


def trace(config: Any, section: ModelSection, precision: str, load: Load, what: str, layers: int) -> int:
    """Peak bytes that the engine allocates in one phase, with so many layers, weights not counted.

    Args:
        config: The model's configuration, at its true width.
        section: How it is trained.
        precision: ``fp32`` or ``bf16``.
        load: Of a micro-batch: prompts, their lengths, completions.
        what: ``update`` for a forward and backward pass, ``recomputing update`` for one after prefixes
            that were run in sampling and recompute their activations, ``prefill`` for the prompts' keys and values.
        layers: How many layers.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    trains = what != "prefill"
    rows = _rows(config, load, weights_dtype(section, precision), with_completions=trains)
    checkpointing = section.gradient_checkpointing and trains
    section = section.model_copy(update={"engine": "shared", "gradient_checkpointing": checkpointing})
    policy = policy_outline(config, section, precision, torch.device("cpu"), layers)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        _without_content(policy.model, gradients=trains)
        policy.model.train(trains)
        given = {name: mode.from_tensor(value) for name, value in rows._asdict().items() if isinstance(value, Tensor)}
        fake = rows._replace(vision={}, **given)  # type: ignore[arg-type]
        with LiveBytes() as live:
            {"update": _update, "recomputing update": _recomputing_update, "prefill": _prefill}[what](policy, fake)
    inputs = sum(value.nbytes for value in rows._asdict().values() if isinstance(value, Tensor))
    return live.peak + inputs + rows.embeddings.nbytes  # the packed rows, and the prompts' own states


def _update(policy: Policy, rows: PackedRows) -> None:
    _loss(policy, rows, policy.forward_packed(rows)).backward()


def _recomputing_update(policy: Policy, rows: PackedRows) -> None:
    """The same where the pass over the prefixes is that of sampling."""
    kept = KeptPrefill(run_prefixes(policy, rows), recompute=True)
    _loss(policy, rows, run_suffixes(policy, rows, RecomputingCache(len(kept.leaves), kept.leaves))).backward()
    kept.backward()


def _loss(policy: Policy, rows: PackedRows, hidden: Tensor) -> Tensor:
    return policy.token_log_probs(hidden.flatten(0, 1)[rows.source], rows.labels, 1.0).sum()


@torch.no_grad()
def _prefill(policy: Policy, rows: PackedRows) -> None:
    policy.prefill(rows)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that are allocated inside and still alive.

    Torch's own meters do not serve: ``torch.cuda.max_memory_allocated`` knows only GPUs, and MemTracker of
    ``torch.distributed._tools`` is private and counts the weights and inputs that were there before.

    Attributes:
        now: Bytes alive.
        peak: The most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._mine: set[int] = set()
        self._given: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for one in pytree.tree_leaves((args, kwargs)):
            if isinstance(one, Tensor):
                self._give(one.untyped_storage())
        result = function(*args, **(kwargs or {}))
        for one in pytree.tree_leaves(result):
            if isinstance(one, Tensor):
                self._add(one.untyped_storage())
        return result

    def _give(self, storage: Any) -> None:
        """Remember a storage made outside, until it is freed and its address may be used again."""
        if (key := storage._cdata) not in self._mine and key not in self._given:
            self._given.add(key)
            weakref.finalize(storage, self._given.discard, key)

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._mine or key in self._given:
            return
        self._mine.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._mine.discard(key)
        self.now -= size


def _rows(config: Any, load: Load, dtype: torch.dtype, *, with_completions: bool) -> PackedRows:
    """Packed rows of the load's shapes, each prompt with its own video."""
    width = config.text_config.hidden_size
    visual = torch.zeros(load.prompt, dtype=torch.bool)
    visual[: min(load.prompt - 1, load.patches // config.vision_config.spatial_merge_size**2)] = True
    states = {
        str(number): PromptState(
            torch.zeros(load.prompt, dtype=torch.long),
            visual,
            str(number),
            torch.zeros(load.prompt, width, dtype=dtype),
            torch.zeros(0),
            torch.zeros(3, load.prompt, dtype=torch.long),
            load.prompt,
        )
        for number in range(load.prompts)
    }
    answer = [0] * load.length
    completions = {
        key: [(place * load.completions + number, answer) for number in range(load.completions)]
        for place, key in enumerate(states)
        if with_completions
    }
    return pack(states, completions, load.length, lambda ids: torch.zeros(len(ids), width, dtype=dtype))


def policy_outline(config: Any, section: ModelSection, precision: str, device: torch.device, layers: int = 2) -> Policy:
    """A policy as training has it, with so many layers, and with shapes but no weights."""
    model = on_meta(_with_layers(config, layers), weights_dtype(section, precision))
    model.model.visual.requires_grad_(not section.freeze_vision)
    if section.tuning == "lora":
        with torch.device("meta"):
            model = with_lora(model, section)
    if section.gradient_checkpointing:
        recompute_activations(model.get_base_model() if section.tuning == "lora" else model)
    return Policy(model, None, device, precision, engine=section.engine)


def on_meta(config: Any, dtype: torch.dtype) -> Any:
    """A model with shapes but no weights."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _with_layers(config: Any, layers: int) -> Any:
    """The configuration with so many language layers and one vision layer."""
    small = copy.deepcopy(config)
    small.text_config.num_hidden_layers = layers
    if getattr(small.text_config, "layer_types", None):
        small.text_config.layer_types = small.text_config.layer_types[:1] * layers
    small.vision_config.depth = 1
    for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
        if getattr(small.vision_config, name, None):
            setattr(small.vision_config, name, [0])
    return small


def _without_content(model: nn.Module, *, gradients: bool) -> None:
    """Replace a model's tensors by tensors without content, which take a CPU's kernels; under FakeTensorMode."""
    model.to_empty(device="cpu")
    for weight in model.parameters():
        if gradients and weight.requires_grad:
            weight.grad = torch.empty_like(weight)
