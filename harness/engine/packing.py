"""Packed rows: what prompts share once, then each prompt's rest and its completions, without padding between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.engine.attention import PackedPrefix
from harness.models.families import vision_inputs

if TYPE_CHECKING:
    from harness.models.prompt_state import PromptState

Completions = Sequence[tuple[int, Sequence[int]]]
"""(row of the result, token ids) of a prompt's completions."""

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of (B, kv heads, columns, head size) in every layer."""


class Trunk(NamedTuple):
    """Prompts that begin alike: same tokens and same video.

    Attributes:
        keys: Ids of the prompts.
        length: Tokens they share; every prompt has at least one more.
    """

    keys: list[str]
    length: int


def find_trunks(states: Mapping[str, PromptState]) -> list[Trunk]:
    """Group prompts by what they share up to the end of their video; a prompt alone keeps all but its last token."""
    alike: dict[tuple[str, bytes], list[str]] = {}
    for key, state in states.items():
        end = int(state.visual.nonzero().max()) + 1
        alike.setdefault((state.video, state.ids[:end].numpy().tobytes()), []).append(key)
    return [Trunk(keys, _common_length([states[key].ids for key in keys])) for keys in alike.values()]


def _common_length(rows: Sequence[Tensor]) -> int:
    shortest = min(len(row) for row in rows) - 1
    same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)
    return int(same.long().cumprod(0).sum())


class PackedRows(NamedTuple):
    """B rows ``[trunk; rest of prompt 1; its completions; rest of prompt 2; ...]``, one for each trunk.

    A completion stands without its last token, which predicts nothing.

    Attributes:
        embeddings: (B, P + S, hidden), trunks right-padded to P and suffixes to S.
        positions: (3, B, P + S) M-RoPE positions.
        mask: (B, 1, S, P + S) additive mask of the suffix part.
        trunk: P.
        real: (B, P) bool, trunk tokens that are not padding.
        vision: Further inputs of the language model.
        rests: For each trunk, each of its prompts' id, and the first and the last + 1 suffix column of its rest.
        source: (tokens,) the place in the flattened (B, S) suffix part that predicts a completion token.
        labels: (tokens,) that token.
        target: (tokens,) where its log-probability goes in the flattened (n, L) result.
    """

    embeddings: Tensor
    positions: Tensor
    mask: Tensor
    trunk: int
    real: Tensor
    vision: dict[str, Any]
    rests: list[list[tuple[str, int, int]]]
    source: Tensor
    labels: Tensor
    target: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of a prefill: of the trunks, and of the rests behind them."""
        return int(self.real.sum()) + sum(rests[-1][2] for rests in self.rests)

    @property
    def layout(self) -> dict[str, Any]:
        """What the language model takes besides embeddings, positions and mask."""
        return {"shared_prefix": PackedPrefix(self.trunk), **self.vision}

    @property
    def trunks(self) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
        """Embeddings, positions and (empty) mask of the trunks alone, and what the language model takes besides."""
        vision = dict(self.vision)
        if "visual_pos_masks" in vision:
            vision["visual_pos_masks"] = vision["visual_pos_masks"][:, : self.trunk]
        inputs = self.embeddings[:, : self.trunk], self.positions[..., : self.trunk], self.mask[:, :, :0, : self.trunk]
        return inputs, {"shared_prefix": PackedPrefix(self.trunk), **vision}

    @property
    def suffixes(self) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
        """The same of the suffix part, for a cache that holds the trunks; a copy, so that it does not keep them too."""
        inputs = self.embeddings[:, self.trunk :].clone(), self.positions[..., self.trunk :], self.mask
        return inputs, {"shared_prefix": PackedPrefix(0)}


class _Suffix:
    """The suffix part of one row while it grows."""

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
    """Pack prompts behind what they share, and completions behind their prompts.

    Args:
        states: Distinct prompts by id.
        completions: Completions by prompt id; none for a prefill.
        width: L, columns of the result.
        embed: Token ids to embeddings.
    """
    trunks = find_trunks(states)
    rows: list[_Suffix] = []
    rests: list[list[tuple[str, int, int]]] = []
    wanted: list[tuple[int, list[int], Tensor, int]] = []
    for trunk in trunks:
        row, places = _Suffix(), []
        for number, key in enumerate(trunk.keys):
            state = states[key]
            start = row.add(state.embeddings[trunk.length :], state.positions[:, trunk.length :].T, number, -1)
            places.append((key, start, len(row)))
            last = len(row) - 1
            for branch, (result, tokens) in enumerate(completions.get(key, ())):
                ids = torch.tensor(tokens, device=state.embeddings.device)
                inputs = embed(ids[:-1]).to(state.embeddings.dtype)
                first = row.add(inputs, state.following(len(inputs)).T, number, branch)
                columns = [last, *range(first, len(row))]
                wanted.append((len(rows), columns, ids, result * width))
        rows.append(row)
        rests.append(places)
    return _stack(states, trunks, rows, rests, wanted)


def _stack(
    states: Mapping[str, PromptState],
    trunks: Sequence[Trunk],
    rows: Sequence[_Suffix],
    rests: list[list[tuple[str, int, int]]],
    wanted: Sequence[tuple[int, list[int], Tensor, int]],
) -> PackedRows:
    """Pad the rows and put them together."""
    first = [states[trunk.keys[0]] for trunk in trunks]
    device = first[0].embeddings.device
    lengths = torch.tensor([trunk.length for trunk in trunks], device=device)
    length, count = int(lengths.max()), max(len(row) for row in rows)
    real = torch.arange(length, device=device)[None] < lengths[:, None]
    heads = [(s.embeddings[: t.length], s.positions[:, : t.length].T) for s, t in zip(first, trunks, strict=True)]
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
        _suffix_mask(rows, real, suffixes.dtype),
        length,
        real,
        vision_inputs(first, [0] * len(first), length + count),
        rests,
        source,
        labels,
        target,
    )


def _suffix_mask(rows: Sequence[_Suffix], real: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, S, P + S): a suffix token sees its trunk, its prompt's rest and its own branch, up to itself."""
    device = real.device
    prompts, branches = (
        pad_sequence([torch.tensor(ids, device=device) for ids in lists], batch_first=True, padding_value=-2)
        for lists in ([row.prompts for row in rows], [row.branches for row in rows])
    )
    count = prompts.shape[1]
    same_prompt = prompts[:, :, None] == prompts[:, None, :]
    same_branch = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == -1)
    before = torch.ones(count, count, dtype=torch.bool, device=device).tril()
    seen = torch.cat([real[:, None].expand(-1, count, -1), same_prompt & same_branch & before], 2)
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, -torch.inf)[:, None]
