"""The pass over a prompt that its completions are sampled from, kept as the one that the update differentiates.

Where an update follows each rollout, both run the prompts through the same weights. So the pass is made once, with its
graph: decoding reads its keys and values as constants, and in the update the completions attend to them as leaves, in
as many micro-batches as there are; what has gathered in the leaves then goes back through the one pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.packing import PackedRows

if TYPE_CHECKING:
    from harness.config import ModelSection
    from harness.data.encode import EncodedPrompt
    from harness.models.policy import Policy
    from harness.types import Needs

KEPT_BYTES = 2**30
"""Most memory for the passes of one step; a prompt that would go beyond is run again in the update."""

_OF_WIDTH, _OF_INNER = 11, 4
"""Numbers kept a token and layer for each unit of the model's width and of its MLP's: counted by
``tests/unit/test_kept.py``."""


class _Pass(NamedTuple):
    """One prefill: its keys and values of every layer with their graph, and what the update reads in their place."""

    made: list[Tensor]
    leaves: list[Tensor]


class KeptTrunks:
    """The trunks' keys and values of a step's prompts, and the graph behind them.

    Args:
        config: The language model's configuration.
    """

    def __init__(self, config: Any) -> None:
        self._each = bytes_for(config, 1)
        self._room = float(KEPT_BYTES)
        self._passes: list[_Pass] = []
        self._places: dict[str, tuple[_Pass, int, int]] = {}
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

    def add(self, rows: PackedRows, layers: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Keep a prefill; return its keys and values as constants."""
        made = [part for layer in layers for part in layer]
        one = _Pass(made, [part.detach().requires_grad_(part.requires_grad) for part in made])
        self._passes.append(one)
        for row, rests in enumerate(rows.rests):
            length = int(rows.real[row].sum())
            self._places |= {key: (one, row, length) for key, _, _ in rests}
            self._room -= (length + rests[-1][2]) * self._each
        return [(keys.detach(), values.detach()) for keys, values in layers]

    def of(self, rows: PackedRows) -> list[tuple[Tensor, Tensor]] | None:
        """(B, kv heads, P, head size) keys and values of some rows' trunks in every layer; None unless all are kept.

        A trunk that was kept longer serves one that begins alike: keys and values depend on what came before alone.
        """
        lengths = rows.real.sum(1).tolist()
        places = [self._places.get(rests[0][0]) for rests in rows.rests]
        found = [place for place, length in zip(places, lengths, strict=True) if place and place[2] >= length]
        if len(found) < len(lengths):
            return None

        def part(layer: int) -> Tensor:
            cut = [
                F.pad(one.leaves[layer][row : row + 1, :, :length], (0, 0, 0, rows.trunk - length))
                for (one, row, _), length in zip(found, lengths, strict=True)
            ]
            return torch.cat(cut)

        return [(part(layer), part(layer + 1)) for layer in range(0, len(found[0][0].leaves), 2)]

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
        for made, leaves in passes:
            reached = [(one, leaf.grad) for one, leaf in zip(made, leaves, strict=True) if leaf.grad is not None]
            if reached:
                torch.autograd.backward([one for one, _ in reached], [gradient for _, gradient in reached])


def bytes_for(config: Any, tokens: int) -> float:
    """About what the graph of a pass over so many prompt tokens takes, in fp32.

    Args:
        config: The language model's configuration.
        tokens: Of the prompts.
    """
    each = _OF_WIDTH * config.hidden_size + _OF_INNER * config.intermediate_size
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

    Not with dropout, which only training has; not where memory is short (checkpointing; a GPU, where a prompt of a
    model of its size takes gigabytes); not with a trained vision tower, whose own graph would have to stay too.
    """
    if policy.engine != "shared" or policy.device.type != "cpu" or policy.precision != "fp32" or policy.video.trained:
        return False
    modules = list(policy.model.modules())
    dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in modules)
    return not dropout and not checkpointing and not policy.base.config.text_config.attention_dropout
