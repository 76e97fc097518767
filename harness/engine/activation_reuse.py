"""Activation reuse: the prefill that completions are sampled from is also the prompts' forward pass of the update.

Where one update follows each rollout, sampling and update run the same prompts through the same weights. So the prefill
is made once, with its autograd graph. Decoding reads its keys and values as constants. In the update the completions
attend to them as leaves of their own graphs, in as many micro-batches as there are, and the gradients that accumulate
in the leaves are sent back through the one prefill at the end. A large prefill keeps only its layers' inputs and
attention outputs and computes the rest again (:mod:`harness.engine.activation_recomputation`).

:func:`can_reuse` decides whether a step does this, :class:`ActivationReuse` is what it keeps. A policy holds the one
while the step lasts (``Policy.activation_reuse``); training and sampling need nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from harness.engine.activation_recomputation import RecomputingCache
from harness.engine.attention import PackedLayout
from harness.engine.kv_cache import KeyValues, key_values
from harness.engine.model_runner import ModelRunner
from harness.engine.packing import PackedRows
from harness.models.families import vision_is_trained

if TYPE_CHECKING:
    from harness.api.types import Needs
    from harness.data.encode import EncodedPrompt

MAX_BYTES = 2**30
"""Most memory for the prefills of one step; prompts beyond it are run again in the update."""

MAX_FULL_BYTES = 3 * 2**26
"""A prefill whose activations take more recomputes them: a few per cent more time, a tenth of the memory."""

_PER_WIDTH, _PER_MLP_WIDTH, _PER_WIDTH_LAST = 9, 4, 4
"""Numbers that a layer keeps for each token besides keys and values: per unit of the model's width and of its MLP's,
and per unit of the width in the last layer, of which only keys and values are used. Counted by
``tests/unit/test_activation_reuse.py``."""


def can_reuse(policy: ModelRunner, needs: Needs, updates_per_batch: int) -> bool:
    """Whether the prefill that a method's completions are sampled from can serve its update.

    One update must follow each rollout, so that both have the same weights; and the two passes must be the same
    computation, so no dropout, which only training has, and no trained vision tower, whose graph would have to be kept
    too. With gradient checkpointing or on a GPU recomputing would cost as much as a second forward pass.

    Args:
        policy: The model as it is trained.
        needs: The method's.
        updates_per_batch: ``train.updates_per_batch``.
    """
    if updates_per_batch != 1 or not needs.rollouts or needs.offline or needs.shuffled:
        return False
    if policy.engine != "shared" or policy.device.type != "cpu" or policy.precision != "fp32":
        return False
    modules = list(policy.model.modules())
    dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in modules)
    attention_dropout = policy.base.config.text_config.attention_dropout
    return not (dropout or attention_dropout or checkpointing or vision_is_trained(policy.base))


class KeptPrefill:
    """One prefill: its keys and values with their graph, and the leaves that the update reads in their place.

    Args:
        layers: Keys and values as the prefill made them.
        recompute: Whether its activations are computed again in the backward pass.

    Attributes:
        leaves: The same keys and values, detached.
    """

    def __init__(self, layers: KeyValues, *, recompute: bool) -> None:
        self.recompute = recompute
        # Edges, not tensors: the graph must not keep the leaves' memory alive once they are dropped.
        self._edges = [get_gradient_edge(part) if part.requires_grad else None for part in chain(*layers)]
        self.leaves = [(_leaf(keys), _leaf(values)) for keys, values in layers]

    def backward(self) -> None:
        """Send the gradients accumulated in the leaves back through the prefill; once, and the leaves are freed."""
        gradients = [leaf.grad for leaf in chain(*self.leaves)]
        self.leaves = []
        reached = [(edge, one) for edge, one in zip(self._edges, gradients, strict=True) if edge and one is not None]
        if reached:
            torch.autograd.backward([edge for edge, _ in reached], [gradient for _, gradient in reached])


def _leaf(part: Tensor) -> Tensor:
    return part.detach().requires_grad_(part.requires_grad)


class ActivationReuse:
    """The prefills of one step, kept with their graphs for its update.

    Args:
        policy: Runs the model.
    """

    def __init__(self, policy: ModelRunner) -> None:
        self._policy = policy
        self._config = policy.base.config.text_config
        self._bytes_left = float(MAX_BYTES)
        self._prefills: list[KeptPrefill] = []
        self._places: dict[str, tuple[KeptPrefill, int, int]] = {}
        """Of each prompt: its prefill, its row there, and the length of its prefix."""
        self._begun = False

    # ------------------------------------------------------------------ sampling

    def accepts(self, prompts: Sequence[EncodedPrompt]) -> bool:
        """Whether the prefill of these prompts will be kept: each prompt once, and only while there is room."""
        tokens = sum({prompt.id: len(prompt.input_ids) for prompt in prompts}.values())
        if any(prompt.id in self._places for prompt in prompts):
            return False
        needed = activation_bytes(self._config, tokens, recompute=recomputes(self._config, tokens))
        if needed > self._bytes_left:
            logging.getLogger(__name__).debug("no room to keep the prefill of %d tokens for the update", tokens)
        return needed <= self._bytes_left

    def prefill(self, rows: PackedRows) -> tuple[Tensor, KeyValues]:
        """As :meth:`ModelRunner.prefill`, and kept for the update; the keys and values returned are constants."""
        recompute = recomputes(self._config, rows.prompt_tokens)
        if recompute:
            # Only the prefixes are kept; the few suffix tokens after them run again with the completions.
            cache = self._policy.kv_cache(self._keep(rows, run_prefixes(self._policy, rows), recompute=True))
            with torch.no_grad():
                return run_suffixes(self._policy, rows, cache), key_values(cache)
        cache = self._policy.kv_cache([])
        hidden = self._policy.forward_packed(rows, cache)
        return hidden, self._keep(rows, key_values(cache), recompute=False)

    def _keep(self, rows: PackedRows, layers: KeyValues, *, recompute: bool) -> KeyValues:
        kept = KeptPrefill(layers, recompute=recompute)
        self._prefills.append(kept)
        self._bytes_left -= activation_bytes(self._config, rows.prompt_tokens, recompute=recompute)
        for row, (length, suffixes) in enumerate(
            zip(rows.prefix_mask.sum(1).tolist(), rows.prompt_suffixes, strict=True)
        ):
            self._places |= {suffix.prompt_id: (kept, row, length) for suffix in suffixes}
        return [(keys.detach(), values.detach()) for keys, values in layers]

    # ------------------------------------------------------------------ update

    def suffix_hidden(self, rows: PackedRows) -> Tensor | None:
        """(B, S, hidden) of the suffix part, after kept prefixes; None unless the prefixes of all rows were kept.

        A prefix that was kept longer serves a shorter one, which begins alike: keys and values depend only on what
        comes before them.
        """
        lengths = rows.prefix_mask.sum(1).tolist()
        places = [self._places.get(suffixes[0].prompt_id) for suffixes in rows.prompt_suffixes]
        found = [place for place, length in zip(places, lengths, strict=True) if place and place[2] >= length]
        if len(found) < len(lengths):
            return None

        def part(layer: int, which: int) -> Tensor:
            cut = [
                _padded(kept.leaves[layer][which][row : row + 1, :, :length], rows.prefix_length)
                for (kept, row, _), length in zip(found, lengths, strict=True)
            ]
            return cut[0] if len(cut) == 1 else torch.cat(cut)

        layers = [(part(layer, 0), part(layer, 1)) for layer in range(len(found[0][0].leaves))]
        recompute = any(kept.recompute for kept, _, _ in found)
        cache = RecomputingCache(len(layers), layers) if recompute else self._policy.kv_cache(layers)
        return run_suffixes(self._policy, rows, cache)

    def begin(self) -> None:
        """Begin the gradient of a step; after a failure a second attempt reuses nothing."""
        if self._begun:
            # The failed try has left part of its gradient in the leaves.
            self._prefills.clear()
            self._places.clear()
        self._begun = True

    def backward(self) -> None:
        """After the last micro-batch: send the leaves' gradients back through the prefills, and free them."""
        prefills, self._prefills = self._prefills, []
        self._places.clear()
        for kept in prefills:
            kept.backward()


def _padded(part: Tensor, length: int) -> Tensor:
    missing = length - part.shape[2]
    return F.pad(part, (0, 0, 0, missing)) if missing else part


def run_prefixes(policy: ModelRunner, rows: PackedRows) -> KeyValues:
    """The prefixes' keys and values in every layer, with a graph that recomputes its activations."""
    cache = RecomputingCache(policy.base.config.text_config.num_hidden_layers)
    length, vision = rows.prefix_length, dict(rows.vision)
    if "visual_pos_masks" in vision:
        vision["visual_pos_masks"] = vision["visual_pos_masks"][:, :length]
    inputs = rows.embeddings[:, :length], rows.positions[..., :length], rows.mask[:, :, :0, :length]
    policy.forward(*inputs, cache, shared_prefix=PackedLayout(length), **vision)
    return cache.layers


def run_suffixes(policy: ModelRunner, rows: PackedRows, cache: Any) -> Tensor:
    """(B, S, hidden) of the suffix part, after prefixes whose keys and values the cache holds."""
    # A copy, so that a graph that holds these embeddings does not hold the prefixes' too.
    embeddings = rows.embeddings[:, rows.prefix_length :].clone()
    positions = rows.positions[..., rows.prefix_length :]
    return policy.forward(embeddings, positions, rows.mask, cache, shared_prefix=PackedLayout(0))


# ---------------------------------------------------------------------- memory


def activation_bytes(config: Any, tokens: int, *, recompute: bool) -> float:
    """About what the graph of a prefill of so many tokens takes in fp32, keys and values included.

    Args:
        config: The language model's configuration.
        tokens: Of the prompts.
        recompute: Whether only each layer's input and attention output are kept.
    """
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_value = 2 * config.num_key_value_heads * size
    if recompute:
        each, last = config.hidden_size + config.num_attention_heads * size, config.hidden_size
    else:
        each = _PER_WIDTH * config.hidden_size + _PER_MLP_WIDTH * config.intermediate_size
        last = _PER_WIDTH_LAST * config.hidden_size
    layers = config.num_hidden_layers
    return 4.0 * tokens * ((layers - 1) * each + last + layers * key_value)


def recomputes(config: Any, tokens: int) -> bool:
    """Whether the prefill of so many tokens recomputes its activations in the backward pass."""
    return activation_bytes(config, tokens, recompute=False) > MAX_FULL_BYTES
