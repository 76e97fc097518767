"""Work that the shared engine leaves out without changing a result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.attention import PackedPrefix


class SuffixOnly:
    """Mixed into the last decoder layer: nothing reads its output for trunk tokens, so only their keys and values are
    computed. The rows returned for them are not meaningful.
    """

    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module
    self_attn: nn.Module
    mlp: nn.Module

    def forward(self, hidden_states: Tensor, *args: Any, **inputs: Any) -> Tensor:
        layout = inputs.get("shared_prefix")
        if args or not isinstance(layout, PackedPrefix):
            output: Tensor = super().forward(hidden_states, *args, **inputs)  # type: ignore[misc]
            return output
        inputs["shared_prefix"] = replace(layout, suffix_only=True)
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **inputs)
        trunk, suffix = hidden_states[:, : layout.length], hidden_states[:, layout.length :]
        suffix = suffix + attended[:, layout.length :]
        return torch.cat([trunk, suffix + self.mlp(self.post_attention_layernorm(suffix))], 1)


class MatrixPatches:
    """Mixed into the patch embedding: a convolution whose stride is its kernel is one matrix product, which is several
    times faster than the convolution kernels of some back ends.
    """

    proj: nn.Conv3d

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.proj.weight.flatten(1)
        return F.linear(hidden_states.to(weight.dtype), weight, self.proj.bias)


def install(model: Any) -> None:
    """Give a vision-language model both shortcuts. Its weights, their names and its ordinary calls stay as they are.

    The classes of two modules are replaced, rather than their ``forward``, so that copies of the model are right.
    """
    _mix_in(SuffixOnly, model.model.language_model.layers[-1])
    _mix_in(MatrixPatches, model.model.visual.patch_embed)


def _mix_in(shortcut: type, module: nn.Module) -> None:
    found = type(module)
    if not isinstance(module, shortcut):
        module.__class__ = type(found.__name__, (shortcut, found), {"__module__": found.__module__})
