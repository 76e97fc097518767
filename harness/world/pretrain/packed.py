"""The fast training path: one video prefix shared by all questions about it, no padding in the linear layers.

Tokens of a batch lie flat: first every scene's prefix (system turn and video), then every question.
A question attends to its scene's prefix and to itself, exactly as if it stood alone behind the video,
so logits equal those of plain transformers on each question separately (tested to 1e-4).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration
from transformers.vision_utils import get_vision_position_ids

_BUCKETS = (14, 20, 26, 34, 48, 10_000)


def moved(value: Any, device: torch.device) -> Any:
    """A copy of nested dicts, tuples and plain objects with every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if hasattr(value, "__dict__"):
        twin = copy.copy(value)
        for name, item in vars(value).items():
            object.__setattr__(twin, name, moved(item, device))
        return twin
    return value


@dataclass(frozen=True)
class Bucket:
    """Questions of similar length, gathered into a padded block for attention.

    Attributes:
        scene: (n,) the scene of each question.
        gather: (n, L) flat indices, relative to the first question token; padding repeats the last.
        valid: flat indices of real tokens inside the (n, L) block.
        target: the same tokens' indices relative to the first question token.
        bias: (L, prefix + L) additive causal mask.
    """

    scene: Tensor
    gather: Tensor
    valid: Tensor
    target: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Pack:
    """A batch: flat tokens, their (3, T) positions, and the attention blocks of the questions."""

    ids: Tensor
    positions: Tensor
    scenes: int
    prefix_length: int
    starts: Tensor
    scene_of_token: Tensor
    buckets: tuple[Bucket, ...]
    order: Tensor


@dataclass(frozen=True)
class Prefix:
    """The tokens before the question's text and their positions by the model's own rule."""

    ids: Tensor
    positions: Tensor
    next_position: int


def video_prefix(model: Qwen2VLForConditionalGeneration, token_ids: Sequence[int], grid: Tensor) -> Prefix:
    """Positions (3, P) of the prefix `token_ids` holding one video of `grid` (1, 3), from get_rope_index."""
    ids = torch.tensor([[*token_ids, 0]])
    kinds = (ids == model.config.video_token_id).int() * 2
    positions, _ = model.model.get_rope_index(ids, kinds, video_grid_thw=grid)
    return Prefix(ids[0, :-1], positions[:, 0, :-1], int(positions[0, 0, -1]))


def pack(prefix: Prefix, questions: Sequence[Sequence[int]], scene_of: Sequence[int], scenes: int) -> Pack:
    """Lay out `questions` (token ids after the prefix, answer included) about `scenes` videos."""
    length = prefix.ids.numel()
    sizes = torch.tensor([len(q) for q in questions])
    starts = torch.cumsum(sizes, 0) - sizes
    owner = torch.tensor(list(scene_of))
    flat = torch.tensor([token for q in questions for token in q])
    within = torch.cat([torch.arange(n) for n in sizes.tolist()]) + prefix.next_position
    positions = torch.cat([prefix.positions.repeat(1, scenes), within.expand(3, -1)], 1)
    buckets = []
    low = 0
    for high in _BUCKETS:
        index = ((sizes > low) & (sizes <= high)).nonzero()[:, 0]
        low = high
        if index.numel() == 0:
            continue
        width = int(sizes[index].max())
        steps = torch.arange(width)
        gather = starts[index, None] + torch.minimum(steps[None], sizes[index, None] - 1)
        valid = (steps[None] < sizes[index, None]).flatten().nonzero()[:, 0]
        causal = torch.full((width, width), float("-inf")).triu(1)
        bias = torch.cat([torch.zeros(width, length), causal], 1)
        buckets.append(Bucket(owner[index], gather, valid, gather.flatten()[valid], bias))
    order = torch.cat([b.target for b in buckets]).argsort()
    token_scene = torch.cat([torch.arange(scenes).repeat_interleave(length), owner.repeat_interleave(sizes)])
    ids = torch.cat([prefix.ids.repeat(scenes), flat])
    return Pack(ids, positions, scenes, length, starts + scenes * length, token_scene, tuple(buckets), order)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return (x * cos + turned * sin).to(x.dtype)


def vision_features(model: Qwen2VLForConditionalGeneration, patches: Tensor, grid: Tensor) -> Tensor:
    """The vision tower on clips of one common `grid` (3,), frames attended in one batched call.

    Args:
        patches: (clips * t * h * w, 1176) normalised patches in the processor's order.
        grid: (3,) temporal, vertical and horizontal patches of every clip.

    Returns:
        (clips * t * h * w / 4, hidden) video embeddings.
    """
    tower = model.model.visual
    height, width = int(grid[1]), int(grid[2])
    kernel = tower.patch_embed.proj.weight.flatten(1)
    x = F.linear(patches, kernel).view(-1, height * width, tower.config.embed_dim)
    where = get_vision_position_ids(torch.tensor([[1, height, width]]), tower.config.spatial_merge_size)
    cos, sin = tower.rotary_pos_emb(x, where.to(x.device))
    for block in tower.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(*x.shape[:2], 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + attention.proj(mixed)
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x.flatten(0, 1))


def hidden_states(
    model: Qwen2VLForConditionalGeneration, batch: Pack, video: Tensor, tap: Sequence[int] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Final hidden states (T, hidden), and the residual stream after each layer index in `tap`."""
    language = model.model.language_model
    x = language.embed_tokens(batch.ids)
    slots = (batch.ids == model.config.video_token_id).nonzero()[:, 0]
    x = x.index_put((slots,), video.to(x.dtype))
    cos, sin = language.rotary_emb(x, batch.positions[:, None])
    cos, sin = cos[0][:, None], sin[0][:, None]
    taps = []
    for index, layer in enumerate(language.layers):
        x = _layer(layer, x, cos, sin, batch)
        if index in tap:
            taps.append(x)
    return language.norm(x), taps


def _gathered(t: Tensor, index: Tensor) -> Tensor:
    """Rows (n, L) of (T, heads, width) as (n, heads, L, width); F.embedding has the fast backward pass."""
    return F.embedding(index, t.flatten(1)).unflatten(-1, t.shape[1:]).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(n, heads, L, width) queries to (n, L, heads * width) outputs.

    Written out: for blocks this small the fused CPU kernel's backward pass is several times slower.
    """
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + bias.to(q.dtype)
    return (weights.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def _layer(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, batch: Pack) -> Tensor:
    attention = layer.self_attn
    width, prefix = attention.head_dim, batch.scenes * batch.prefix_length
    h = layer.input_layernorm(x)
    q, k, v = (f(h).view(len(x), -1, width) for f in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)

    def of_prefix(t: Tensor) -> Tensor:
        return t[:prefix].view(batch.scenes, batch.prefix_length, -1, width).transpose(1, 2)

    shared_k, shared_v = of_prefix(k), of_prefix(v)
    causal = torch.full((batch.prefix_length, batch.prefix_length), float("-inf"), device=x.device).triu(1)
    outputs = [_attend(of_prefix(q), shared_k, shared_v, causal).flatten(0, 1)]
    own_q, own_k, own_v = q[prefix:], k[prefix:], v[prefix:]
    rows = []
    for bucket in batch.buckets:
        bq, own_bk, own_bv = (_gathered(t, bucket.gather) for t in (own_q, own_k, own_v))
        bk = torch.cat([shared_k[bucket.scene], own_bk], 2)
        bv = torch.cat([shared_v[bucket.scene], own_bv], 2)
        rows.append(_attend(bq, bk, bv, bucket.bias).flatten(0, 1)[bucket.valid])
    if rows:
        outputs.append(torch.cat(rows)[batch.order])
    x = x + attention.o_proj(torch.cat(outputs))
    return x + layer.mlp(layer.post_attention_layernorm(x))
