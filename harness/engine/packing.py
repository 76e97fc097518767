"""Packed rows: a shared prefix once, then each prompt's suffix and its completions, without padding between them.

What several prompts share, from their first token to the end of their video at least, is their *prefix*; what follows
it is a prompt's *suffix*, and its completions follow that. So a prefix is run once for all its prompts and completions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.engine.attention import PackedLayout
from harness.models.families import vision_inputs

if TYPE_CHECKING:
    from harness.models.prompt_state import PromptState

Completions = Sequence[tuple[int, Sequence[int]]]
"""(row of the result, token ids) of a prompt's completions."""


class Prefix(NamedTuple):
    """What some prompts share: their first tokens and the video.

    Attributes:
        prompt_ids: The prompts.
        length: Tokens they share; every prompt has at least one more.
    """

    prompt_ids: list[str]
    length: int


def group_by_prefix(states: Mapping[str, PromptState]) -> list[Prefix]:
    """Group prompts that are equal up to the end of their video; a lone prompt's prefix is all but its last token."""
    groups: dict[tuple[str, bytes], list[str]] = {}
    for key, state in states.items():
        end = int(state.visual.nonzero().max()) + 1
        groups.setdefault((state.video, state.ids[:end].numpy().tobytes()), []).append(key)
    return [Prefix(keys, _common_length([states[key].ids for key in keys])) for keys in groups.values()]


def _common_length(rows: Sequence[Tensor]) -> int:
    # One token less than the shortest prompt: the last one predicts the first completion token, so it is never shared.
    shortest = min(len(row) for row in rows) - 1
    same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)
    return int(same.long().cumprod(0).sum())


class PromptSuffix(NamedTuple):
    """Where a prompt's tokens after the prefix are: its first suffix column, and the one after its last."""

    prompt_id: str
    start: int
    end: int


class PackedRows(NamedTuple):
    """B rows ``[prefix; suffix of prompt 1; its completions; suffix of prompt 2; ...]``, one for each prefix.

    A completion is packed without its last token, which predicts nothing.

    Attributes:
        embeddings: (B, P + S, hidden), prefixes right-padded to P and suffix parts to S.
        positions: (3, B, P + S) M-RoPE positions.
        mask: (B, 1, S, P + S) additive mask of the suffix part.
        prefix_length: P.
        prefix_mask: (B, P) bool, prefix tokens that are not padding.
        vision: Further inputs of the language model.
        prompt_suffixes: For each prefix, the suffixes of its prompts.
        source: (tokens,) the place in the flattened (B, S) suffix part that predicts a completion token.
        labels: (tokens,) that token.
        target: (tokens,) where its log-probability goes in the flattened (n, L) result.
    """

    embeddings: Tensor
    positions: Tensor
    mask: Tensor
    prefix_length: int
    prefix_mask: Tensor
    vision: dict[str, Any]
    prompt_suffixes: list[list[PromptSuffix]]
    source: Tensor
    labels: Tensor
    target: Tensor

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, in prefixes and suffixes; all there are in a prefill."""
        return int(self.prefix_mask.sum()) + sum(suffixes[-1].end for suffixes in self.prompt_suffixes)

    @property
    def options(self) -> dict[str, Any]:
        """What the language model takes besides embeddings, positions and mask."""
        return {"shared_prefix": PackedLayout(self.prefix_length), **self.vision}


class _SuffixPart:
    """The suffix part of one row while it is built.

    Attributes:
        prompts: For each column, the number of its prompt.
        branches: For each column, the number of its completion; -1 in the prompt's own suffix, which all of them see.
    """

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.prompts: list[int] = []
        self.branches: list[int] = []

    def __len__(self) -> int:
        return len(self.prompts)

    def add(self, inputs: Tensor, positions: Tensor, prompt: int, branch: int) -> int:
        """Append tokens; return the column of the first."""
        start = len(self)
        self.inputs.append(inputs)
        self.positions.append(positions)
        self.prompts += [prompt] * len(inputs)
        self.branches += [branch] * len(inputs)
        return start


def pack(
    states: Mapping[str, PromptState],
    completions: Mapping[str, Completions],
    width: int,
    embed: Callable[[Tensor], Tensor],
) -> PackedRows:
    """Pack prompts after the prefix that they share, and completions after their prompts.

    Args:
        states: Distinct prompts by id.
        completions: Completions by prompt id; none for a prefill.
        width: L, columns of the result.
        embed: Token ids to embeddings.
    """
    prefixes = group_by_prefix(states)
    rows: list[_SuffixPart] = []
    prompt_suffixes: list[list[PromptSuffix]] = []
    wanted: list[tuple[int, list[int], Tensor, int]] = []
    for prefix in prefixes:
        row, suffixes = _SuffixPart(), []
        for number, key in enumerate(prefix.prompt_ids):
            state = states[key]
            start = row.add(state.embeddings[prefix.length :], state.positions[:, prefix.length :].T, number, -1)
            suffixes.append(PromptSuffix(key, start, len(row)))
            last = len(row) - 1
            for branch, (result, tokens) in enumerate(completions.get(key, ())):
                ids = torch.tensor(tokens, device=state.embeddings.device)
                inputs = embed(ids[:-1]).to(state.embeddings.dtype)
                # Every completion continues from the same position, whatever column it is packed in.
                first = row.add(inputs, state.following(len(inputs)).T, number, branch)
                columns = [last, *range(first, len(row))]
                wanted.append((len(rows), columns, ids, result * width))
        rows.append(row)
        prompt_suffixes.append(suffixes)
    return _stack(states, prefixes, rows, prompt_suffixes, wanted)


def _stack(
    states: Mapping[str, PromptState],
    prefixes: Sequence[Prefix],
    rows: Sequence[_SuffixPart],
    prompt_suffixes: list[list[PromptSuffix]],
    wanted: Sequence[tuple[int, list[int], Tensor, int]],
) -> PackedRows:
    """Pad the rows and put them together."""
    first = [states[prefix.prompt_ids[0]] for prefix in prefixes]
    device = first[0].embeddings.device
    lengths = torch.tensor([prefix.length for prefix in prefixes], device=device)
    length, count = int(lengths.max()), max(len(row) for row in rows)
    prefix_mask = torch.arange(length, device=device)[None] < lengths[:, None]
    heads = [(s.embeddings[: p.length], s.positions[:, : p.length].T) for s, p in zip(first, prefixes, strict=True)]
    embeddings = pad_sequence([head for head, _ in heads], batch_first=True)
    positions = pad_sequence([head for _, head in heads], batch_first=True)
    suffixes = pad_sequence([torch.cat(row.inputs) for row in rows], batch_first=True)
    places = pad_sequence([torch.cat(row.positions) for row in rows], batch_first=True)
    source, labels, target = [torch.zeros(0, dtype=torch.long, device=device)] * 3
    if wanted:
        source = torch.tensor([row * count + at for row, columns, _, _ in wanted for at in columns], device=device)
        labels = torch.cat([ids for _, _, ids, _ in wanted])
        target = torch.tensor([at + i for *_, ids, at in wanted for i in range(len(ids))], device=device)
    return PackedRows(
        torch.cat([embeddings, suffixes], 1),
        torch.cat([positions, places], 1).permute(2, 0, 1),
        _suffix_mask(rows, prefix_mask, suffixes.dtype),
        length,
        prefix_mask,
        vision_inputs(first, [0] * len(first), length + count),
        prompt_suffixes,
        source,
        labels,
        target,
    )


def _suffix_mask(rows: Sequence[_SuffixPart], prefix_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, P + S): a suffix token sees its prefix, its prompt's suffix and its own completion, up to itself."""
    device = prefix_mask.device
    prompts, branches = (
        pad_sequence([torch.tensor(ids, device=device) for ids in lists], batch_first=True, padding_value=-2)
        for lists in ([row.prompts for row in rows], [row.branches for row in rows])
    )
    count = prompts.shape[1]
    same_prompt = prompts[:, :, None] == prompts[:, None, :]
    same_branch = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == -1)
    before = torch.ones(count, count, dtype=torch.bool, device=device).tril()
    seen = torch.cat([prefix_mask[:, None].expand(-1, count, -1), same_prompt & same_branch & before], 2)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, -torch.inf)[:, None]
