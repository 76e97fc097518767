"""Faster versions of transformers' layers with the same results, mixed into a model's modules."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.engine.activation_recomputation import RecomputingLayer
from harness.engine.attention import PackedLayout

QUICK_GELU = 1.702
"""The constant of transformers' ``quick_gelu``, x sigmoid(1.702 x)."""


class SuffixOnlyLayer:
    """Mixed into the last decoder layer: nothing reads its output for prefix tokens, so only their keys and values are
    computed. What is returned for them is meaningless.
    """

    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module
    self_attn: nn.Module
    mlp: nn.Module

    def forward(self, hidden_states: Tensor, *args: Any, **inputs: Any) -> Tensor:
        layout = inputs.get("shared_prefix")
        if args or not isinstance(layout, PackedLayout):
            output: Tensor = super().forward(hidden_states, *args, **inputs)  # type: ignore[misc]
            return output
        inputs["shared_prefix"] = replace(layout, suffix_only=True)
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **inputs)
        prefix, suffix = hidden_states[:, : layout.prefix_length], hidden_states[:, layout.prefix_length :]
        suffix = suffix + attended[:, layout.prefix_length :]
        return torch.cat([prefix, suffix + self.mlp(self.post_attention_layernorm(suffix))], 1)


class LinearPatchEmbedding:
    """Mixed into the patch embedding: a convolution whose stride equals its kernel is one matrix product, several times
    faster than the convolution kernels of some back ends.
    """

    proj: nn.Conv3d

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.proj.weight.flatten(1)
        return F.linear(hidden_states.to(weight.dtype), weight, self.proj.bias)


class BatchedFrameAttention:
    """Mixed into the vision tower's attention: frames of equal size are one batched call, where transformers makes a
    call for each frame and synchronises with the device for the frames' sizes in each layer.
    """

    config: Any
    num_heads: int
    scaling: float
    qkv: Any
    proj: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **inputs: Any,
    ) -> Tensor:
        frames = _equal_frames(cu_seqlens)
        if not frames or position_embeddings is None or self.config._attn_implementation != "sdpa":
            output: Tensor = super().forward(  # type: ignore[misc]
                hidden_states, cu_seqlens=cu_seqlens, position_embeddings=position_embeddings, **inputs
            )
            return output
        query, key, value = self._projections(hidden_states, *position_embeddings)
        query, key, value = (part.unflatten(0, (frames, -1)).transpose(1, 2) for part in (query, key, value))
        seen = F.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        projected: Tensor = self.proj(seen.transpose(1, 2).reshape(len(hidden_states), -1))
        return projected

    def _projections(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Queries and keys with their rotary embedding, and values, each (patches, heads, head size).

        A frozen tower on a CPU rotates them as complex numbers, in one pass where transformers makes six. The numbers
        that rotate together are put next to each other, in queries and keys alike, so that no product of them changes.
        """
        shape = (len(hidden), 3, self.num_heads, -1)
        if torch.is_grad_enabled() or not hidden.is_cpu or hidden.dtype != torch.float32 or self._wrapped:
            query, key, value = self.qkv(hidden).view(shape).unbind(1)
            rotate = sys.modules[type(self).__module__].apply_rotary_pos_emb_vision
            return *rotate(query, key, cos, sin), value
        order = torch.arange(len(self.qkv.weight)).view(3, self.num_heads, 2, -1)
        order = torch.cat([order[:2].mT.flatten(), order[2].flatten()])
        bias = None if self.qkv.bias is None else self.qkv.bias[order]
        projections = F.linear(hidden, self.qkv.weight[order], bias).view(shape)
        turn = torch.complex(cos, sin)[:, None, None, : cos.shape[-1] // 2]
        torch.view_as_complex(projections[:, :2].unflatten(-1, (-1, 2))).mul_(turn)
        return projections.unbind(1)

    @property
    def _wrapped(self) -> bool:
        """Whether the projection is more than a matrix: quantised, or with an adapter."""
        return type(self.qkv) is not nn.Linear


def _equal_frames(cu_seqlens: Tensor) -> int:
    """How many frames there are if all have equal size, else 0; the device is asked once for all layers."""
    known: int | None = getattr(cu_seqlens, "equal_frames", None)
    if known is None:
        sizes = cu_seqlens.diff()
        known = len(sizes) if bool((sizes == sizes[0]).all()) else 0
        cu_seqlens.equal_frames = known  # type: ignore[attr-defined]
    return known


class FoldedQuickGELU:
    """Mixed into the MLPs of Qwen2-VL's vision tower: x sigmoid(a x) = silu(a x) / a, and both factors are folded into
    the matrix products, so that one pass is made over the wide activations where transformers makes three.
    """

    fc1: nn.Linear
    fc2: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        # The scaled bias is small; a factor on it in the product would keep it out of a GPU's fused kernel.
        wide = torch.addmm(self.fc1.bias * QUICK_GELU, x, self.fc1.weight.T, alpha=QUICK_GELU)
        wide = F.silu(wide, inplace=not torch.is_grad_enabled())
        return torch.addmm(self.fc2.bias, wide, self.fc2.weight.T, alpha=1 / QUICK_GELU)


class FusedRMSNorm:
    """Mixed into root-mean-square norms: one kernel where transformers launches seven; on a CPU, which has no such
    kernel and where PyTorch's replacement is slower, five.
    """

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        dtype = hidden_states.dtype
        if hidden_states.is_cpu and dtype == self.weight.dtype and dtype.itemsize >= 4:
            squares = (hidden_states * hidden_states).mean(-1, keepdim=True)
            return hidden_states * torch.rsqrt(squares + self.variance_epsilon) * self.weight
        normed = F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
        return normed.to(torch.promote_types(hidden_states.dtype, self.weight.dtype))


class FusedLoRA:
    """Mixed into peft's LoRA layers: W x + s B (A x), the last product added as it is computed, and inputs left in
    autocast's type, where peft first copies them to the adapters' fp32.
    """

    def forward(self, x: Tensor, *args: Any, **inputs: Any) -> Tensor:
        layer: Any = self
        names = layer.active_adapters
        if args or inputs or layer.merged or len(names) != 1 or not _is_plain(layer, names[0], x):
            output: Tensor = super().forward(x, *args, **inputs)  # type: ignore[misc]
            return output
        result: Tensor = layer.base_layer(x)
        if layer.disable_adapters:
            return result
        low, up = layer.lora_A[names[0]](x), layer.lora_B[names[0]].weight
        added = torch.addmm(result.flatten(0, -2), low.flatten(0, -2), up.T, alpha=layer.scaling[names[0]])
        return added.view_as(result)


def _is_plain(layer: Any, name: str, x: Tensor) -> bool:
    """Whether an adapter is just two matrices, of the input's type or cast by autocast."""
    return (
        name in layer.lora_A
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and (x.dtype == layer.lora_A[name].weight.dtype or torch.is_autocast_enabled(x.device.type))
    )


def install(model: Any) -> None:
    """Mix these layers into a vision-language model. Its weights, their names and ordinary calls stay unchanged.

    The classes of modules are replaced, rather than their ``forward``, so that a deep copy of the model is right too.
    """
    _mix_in(SuffixOnlyLayer, model.model.language_model.layers[-1])
    for layer in model.model.language_model.layers:
        _mix_in(RecomputingLayer, layer)
    _mix_in(LinearPatchEmbedding, model.model.visual.patch_embed)
    for block in model.model.visual.blocks:
        _mix_in(BatchedFrameAttention, block.attn)
        if _is_quick_gelu(block.mlp):
            _mix_in(FoldedQuickGELU, block.mlp)
    for module in model.model.language_model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            _mix_in(FusedRMSNorm, module)
        elif type(module).__module__ == "peft.tuners.lora.layer" and type(module).__name__ == "Linear":
            _mix_in(FusedLoRA, module)


def _is_quick_gelu(mlp: Any) -> bool:
    """Whether an MLP is Qwen2-VL's: two plain linear layers (not quantised) around that activation."""
    layers = (getattr(mlp, "fc1", None), getattr(mlp, "fc2", None))
    activation = type(getattr(mlp, "act", None)).__name__
    return activation == "QuickGELUActivation" and all(type(layer) is nn.Linear for layer in layers)


def _mix_in(mixin: type, module: nn.Module) -> None:
    if not isinstance(module, mixin):
        module.__class__ = _mixed(mixin, type(module))  # type: ignore[arg-type]  # classes are hashable


@functools.cache
def _mixed(mixin: type, found: type) -> type:
    """One class for all modules of a kind, so that code compiled for one serves them all."""
    return type(found.__name__, (mixin, found), {"__module__": found.__module__})
