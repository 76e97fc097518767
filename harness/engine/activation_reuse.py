"""The pass over a prompt that its completions are sampled from, kept as the one that the update differentiates.

Where an update follows each rollout, both run the prompts through the same weights. So the pass is made once, with its
graph: decoding reads its keys and values as constants, and in the update the completions attend to them as leaves, in
as many micro-batches as there are; what has gathered in the leaves then goes back through the one pass. The graph of a
large pass is lean: it holds what is dear to compute, attention, and computes the rest again
(:mod:`harness.engine.recomputation`).
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

from harness.engine.packing import Layers, PackedRows

if TYPE_CHECKING:
    from harness.api.types import Needs
    from harness.config.study import ModelSection
    from harness.data.encode import EncodedPrompt
    from harness.engine.policy import Policy

KEPT_BYTES = 2**30
"""Most memory for the passes of one step; a prompt that would go beyond is run again in the update."""

WHOLE_BYTES = 3 * 2**26
"""A pass that takes more is made lean, which costs a few per cent of a step and saves nine tenths of this."""

_OF_WIDTH, _OF_INNER, _OF_LAST = 9, 4, 4
"""Numbers that a whole pass keeps a token and layer besides keys and values: for each unit of the model's width and of
its MLP's, and for each unit of the width in the last layer, of which only keys and values are asked for. Counted by
``tests/unit/test_kept.py``."""


class KeptPass:
    """One prefill: its keys and values of every layer with their graph, and what the update reads in their place.

    Args:
        layers: As the pass made them.
        lean: Whether its graph is.

    Attributes:
        leaves: The same keys and values as leaves of other graphs.
    """

    def __init__(self, layers: Layers, *, lean: bool) -> None:
        self.lean = lean
        self._edges = [get_gradient_edge(part) if part.requires_grad else None for part in chain(*layers)]
        self.leaves = [(_leaf(keys), _leaf(values)) for keys, values in layers]

    def backward(self) -> None:
        """Send what has gathered in the leaves back through the pass; once, and the leaves are gone before it."""
        gradients = [leaf.grad for leaf in chain(*self.leaves)]
        self.leaves = []
        reached = [(edge, one) for edge, one in zip(self._edges, gradients, strict=True) if edge and one is not None]
        if reached:
            torch.autograd.backward([edge for edge, _ in reached], [gradient for _, gradient in reached])


def _leaf(part: Tensor) -> Tensor:
    return part.detach().requires_grad_(part.requires_grad)


def _padded(part: Tensor, length: int) -> Tensor:
    """Without a copy where nothing is missing."""
    missing = length - part.shape[2]
    return F.pad(part, (0, 0, 0, missing)) if missing else part


class KeptTrunks:
    """The trunks' keys and values of a step's prompts, and the graph behind them.

    Args:
        config: The language model's configuration.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._room = float(KEPT_BYTES)
        self._passes: list[KeptPass] = []
        self._places: dict[str, tuple[KeptPass, int, int]] = {}
        self._begun = False

    def wants(self, prompts: Sequence[EncodedPrompt]) -> bool:
        """Whether the pass over these prompts is to be kept: not twice, and only as far as there is room."""
        tokens = sum({prompt.id: len(prompt.input_ids) for prompt in prompts}.values())
        if any(prompt.id in self._places for prompt in prompts):
            return False
        fits = bytes_for(self._config, tokens, lean=is_lean(self._config, tokens)) <= self._room
        if not fits:
            logging.getLogger(__name__).debug("no room to keep the pass over %d prompt tokens for the update", tokens)
        return fits

    def lean(self, rows: PackedRows) -> bool:
        """Whether the pass over these prompts is to be lean."""
        return is_lean(self._config, rows.tokens)

    def add(self, rows: PackedRows, layers: Layers) -> Layers:
        """Keep a prefill; return its keys and values as constants."""
        one = KeptPass(layers, lean=self.lean(rows))
        self._passes.append(one)
        self._room -= bytes_for(self._config, rows.tokens, lean=one.lean)
        for row, (length, rests) in enumerate(zip(rows.real.sum(1).tolist(), rows.rests, strict=True)):
            self._places |= {key: (one, row, length) for key, _, _ in rests}
        return [(keys.detach(), values.detach()) for keys, values in layers]

    def of(self, rows: PackedRows) -> tuple[Layers, bool]:
        """(B, kv heads, P, head size) keys and values of some rows' trunks in every layer, none unless all are kept;
        and whether the pass over them is lean, so that what stands behind them should be, too.

        A trunk that was kept longer serves one that begins alike: keys and values depend on what came before alone.
        """
        lengths = rows.real.sum(1).tolist()
        places = [self._places.get(rests[0][0]) for rests in rows.rests]
        found = [place for place, length in zip(places, lengths, strict=True) if place and place[2] >= length]
        if len(found) < len(lengths):
            return [], False

        def part(layer: int, which: int) -> Tensor:
            cut = [
                _padded(one.leaves[layer][which][row : row + 1, :, :length], rows.trunk)
                for (one, row, _), length in zip(found, lengths, strict=True)
            ]
            return cut[0] if len(cut) == 1 else torch.cat(cut)

        layers = [(part(layer, 0), part(layer, 1)) for layer in range(len(found[0][0].leaves))]
        return layers, any(one.lean for one, _, _ in found)

    def begin(self) -> None:
        """Before the gradient of a step; when it begins again after a failure, nothing is kept any more."""
        if self._begun:
            self._passes.clear()
            self._places.clear()
        self._begun = True

    def backward(self) -> None:
        """Send what the micro-batches have left in the leaves back through the passes, which are then gone."""
        passes, self._passes = self._passes, []
        self._places.clear()
        for one in passes:
            one.backward()


def bytes_for(config: Any, tokens: int, *, lean: bool) -> float:
    """About what the graph of a pass over so many prompt tokens takes, in fp32. Counted by ``tests/unit/test_kept.py``.

    Args:
        config: The language model's configuration.
        tokens: Of the prompts.
        lean: Whether nothing else than each layer's input and what its attention gave is held with keys and values.
    """
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys_and_values = 2 * config.num_key_value_heads * size
    if lean:
        each, last = config.hidden_size + config.num_attention_heads * size, config.hidden_size
    else:
        each = _OF_WIDTH * config.hidden_size + _OF_INNER * config.intermediate_size
        last = _OF_LAST * config.hidden_size
    layers = config.num_hidden_layers
    return 4.0 * tokens * ((layers - 1) * each + last + layers * keys_and_values)


def is_lean(config: Any, tokens: int) -> bool:
    """Whether a pass over so many prompt tokens is to be lean."""
    return bytes_for(config, tokens, lean=False) > WHOLE_BYTES


def updates_what_it_sampled(needs: Needs, updates: int) -> bool:
    """Whether one update follows each rollout, so that both run the same prompts through the same weights.

    Args:
        needs: The method's.
        updates: ``train.updates_per_batch``.
    """
    return updates == 1 and needs.rollouts > 0 and not needs.shuffled


def may_keep(section: ModelSection, precision: str, *, cuda: bool) -> bool:
    """Whether the settings let a pass be kept, as :func:`can_keep` finds of the model that is made of them."""
    dropout = section.tuning == "lora" and section.lora_dropout > 0
    spare = not cuda and not section.gradient_checkpointing
    return spare and section.engine == "shared" and precision == "fp32" and section.freeze_vision and not dropout


def can_keep(policy: Policy) -> bool:
    """Whether a policy's sampling pass is its training pass, and its graph may stay.

    Not with dropout, which only training has; not with checkpointing or on a GPU, where what is computed again would
    cost what a second pass costs; not with a trained vision tower, whose own graph would have to stay too.
    """
    if policy.engine != "shared" or policy.device.type != "cpu" or policy.precision != "fp32" or policy.video.trained:
        return False
    modules = list(policy.model.modules())
    dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in modules)
    return not dropout and not checkpointing and not policy.base.config.text_config.attention_dropout
