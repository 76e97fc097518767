"""The pass over a prompt that its completions are sampled from, kept as the one that the update differentiates.

Where an update follows each rollout, both run the prompts through the same weights. So the pass is made once, with its
graph: decoding reads its keys and values as constants, and in the update the completions attend to them as leaves, in
as many micro-batches as there are; what has gathered in the leaves then goes back through the one pass. The graph holds
what is dear to compute, attention, and computes the rest again (:mod:`harness.models.recompute`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.packing import Layers, PackedRows

if TYPE_CHECKING:
    from harness.config import ModelSection
    from harness.data.encode import EncodedPrompt
    from harness.models.policy import Policy
    from harness.types import Needs

KEPT_BYTES = 2**30
"""Most memory for the passes of one step; a prompt that would go beyond is run again in the update."""


class KeptPass:
    """One prefill: its keys and values of every layer with their graph, and what the update reads in their place.

    Args:
        layers: As the pass made them.

    Attributes:
        leaves: The same as leaves of other graphs.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.leaves = [(_leaf(keys), _leaf(values)) for keys, values in layers]

    def backward(self) -> None:
        """Send what has gathered in the leaves back through the pass."""
        pairs = zip(chain(*self._layers), chain(*self.leaves), strict=True)
        reached = [(made, leaf.grad) for made, leaf in pairs if leaf.grad is not None]
        if reached:
            torch.autograd.backward([made for made, _ in reached], [gradient for _, gradient in reached])


def _leaf(part: Tensor) -> Tensor:
    return part.detach().requires_grad_(part.requires_grad)


class KeptTrunks:
    """The trunks' keys and values of a step's prompts, and the graph behind them.

    Args:
        config: The language model's configuration.
    """

    def __init__(self, config: Any) -> None:
        self._each = bytes_for(config, 1)
        self._room = float(KEPT_BYTES)
        self._passes: list[KeptPass] = []
        self._places: dict[str, tuple[KeptPass, int, int]] = {}
        self._begun = False

    def wants(self, prompts: Sequence[EncodedPrompt]) -> bool:
        """Whether the pass over these prompts is to be kept: not twice, and only as far as there is room."""
        tokens = sum({prompt.id: len(prompt.input_ids) for prompt in prompts}.values())
        if any(prompt.id in self._places for prompt in prompts):
            return False
        fits = tokens * self._each <= self._room
        if not fits:
            logging.getLogger(__name__).debug("no room to keep the pass over %d prompt tokens for the update", tokens)
        return fits

    def add(self, rows: PackedRows, layers: Layers) -> Layers:
        """Keep a prefill; return its keys and values as constants."""
        one = KeptPass(layers)
        self._passes.append(one)
        for row, rests in enumerate(rows.rests):
            length = int(rows.real[row].sum())
            self._places |= {key: (one, row, length) for key, _, _ in rests}
            self._room -= (length + rests[-1][2]) * self._each
        return [(keys.detach(), values.detach()) for keys, values in layers]

    def of(self, rows: PackedRows) -> Layers | None:
        """(B, kv heads, P, head size) keys and values of some rows' trunks in every layer; None unless all are kept.

        A trunk that was kept longer serves one that begins alike: keys and values depend on what came before alone.
        """
        lengths = rows.real.sum(1).tolist()
        places = [self._places.get(rests[0][0]) for rests in rows.rests]
        found = [place for place, length in zip(places, lengths, strict=True) if place and place[2] >= length]
        if len(found) < len(lengths):
            return None

        def part(layer: int, which: int) -> Tensor:
            cut = [
                F.pad(one.leaves[layer][which][row : row + 1, :, :length], (0, 0, 0, rows.trunk - length))
                for (one, row, _), length in zip(found, lengths, strict=True)
            ]
            return torch.cat(cut)

        return [(part(layer, 0), part(layer, 1)) for layer in range(len(found[0][0].leaves))]

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


def bytes_for(config: Any, tokens: int) -> float:
    """What the graph of a pass over so many prompt tokens holds, in fp32: each layer's input, what its attention gave,
    keys and values. Counted by ``tests/unit/test_kept.py``.

    Args:
        config: The language model's configuration.
        tokens: Of the prompts.
    """
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attended = config.num_attention_heads * size
    each = config.hidden_size + attended + 2 * config.num_key_value_heads * size
    return 4.0 * tokens * config.num_hidden_layers * each


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
