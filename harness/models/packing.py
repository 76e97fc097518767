"""Packed rows: each distinct prompt once, its completions behind it, without padding between completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.models.attention import PackedPrefix

if TYPE_CHECKING:
    from harness.models.policy import PromptState


class PackedRows(NamedTuple):
    """B rows ``[prefix; s1; ...; sG]``, one for each distinct prompt.

    The prefix is the prompt without its last token; a suffix is that token and the completion without its last one,
    so that every suffix token predicts one completion token and the prompt's last token needs no special case.

    Attributes:
        embeddings: (B, P + S, hidden), prefixes right-padded to P and suffixes to S.
        positions: (3, B, P + S) M-RoPE positions.
        prefix: The attention layout.
        suffix: (B, S) bool, real suffix tokens.
        labels: (tokens,) what each real suffix token predicts, row by row.
        target: (tokens,) where its log-probability goes in the flattened (n, L) result.
    """

    embeddings: Tensor
    positions: Tensor
    prefix: PackedPrefix
    suffix: Tensor
    labels: Tensor
    target: Tensor


def pack(
    states: Sequence[PromptState],
    completions: Sequence[Sequence[tuple[int, Sequence[int]]]],
    width: int,
    embed: Callable[[Tensor], Tensor],
) -> PackedRows:
    """Pack completions behind their prompts.

    Args:
        states: B distinct prompts.
        completions: For each of them, (row of the result, token ids) of its completions.
        width: L, columns of the result.
        embed: Token ids to embeddings.
    """
    device = states[0].embeddings.device
    length = max(len(state.embeddings) for state in states) - 1
    inputs, positions, segments, labels, targets = [], [], [], [], []
    for state, owned in zip(states, completions, strict=True):
        tokens = [torch.tensor(one, device=device) for _, one in owned]
        last = state.embeddings[-1:]
        pieces = [part for one in tokens for part in (last, embed(one[:-1]).to(last.dtype))]
        inputs.append(torch.cat(pieces))
        positions.append(torch.cat([_suffix_positions(state, len(one)) for one in tokens], dim=1).T)
        segments.append(torch.cat([torch.full((len(one),), index, device=device) for index, one in enumerate(tokens)]))
        labels += tokens
        targets += [row * width + torch.arange(len(one), device=device) for row, one in owned]
    suffix = pad_sequence(segments, batch_first=True, padding_value=-1)
    prefix = pad_sequence([state.embeddings[:-1] for state in states], batch_first=True)
    places = pad_sequence([state.positions[:, :-1].T for state in states], batch_first=True)
    return PackedRows(
        torch.cat([prefix, pad_sequence(inputs, batch_first=True)], 1),
        torch.cat([places, pad_sequence(positions, batch_first=True)], 1).permute(2, 0, 1),
        PackedPrefix(length, _suffix_mask(states, suffix, length)),
        suffix >= 0,
        torch.cat(labels),
        torch.cat(targets),
    )


def _suffix_positions(state: PromptState, count: int) -> Tensor:
    """The last prompt token's own position, then the completion's."""
    return torch.cat([state.positions[:, -1:], state.following(count - 1)], dim=1)


def _suffix_mask(states: Sequence[PromptState], suffix: Tensor, length: int) -> Tensor:
    """(B, 1, S, length + S): a suffix token sees its prompt's prefix and its own suffix up to itself."""
    device, count = suffix.device, suffix.shape[1]
    real = torch.tensor([len(state.embeddings) - 1 for state in states], device=device)
    to_prefix = (torch.arange(length, device=device)[None] < real[:, None])[:, None].expand(-1, count, -1)
    same = suffix[:, :, None] == suffix[:, None, :]
    to_suffix = same & torch.ones(count, count, dtype=torch.bool, device=device).tril()
    seen = torch.cat([to_prefix, to_suffix], 2)
    dtype = states[0].embeddings.dtype
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, -torch.inf)[:, None]
