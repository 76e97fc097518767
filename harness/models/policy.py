"""A vision-language model as the engine uses it: video features, prompt embeddings, per-token log-probabilities."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from harness.data.encode import EncodedPrompt
from harness.errors import UserError
from harness.models.features import VideoFeatures


class PromptState(NamedTuple):
    """A prompt as the language model receives it.

    Attributes:
        embeddings: (P, hidden) token embeddings with the video's features in place.
        positions: (3, P) M-RoPE positions from the model's own rule.
        next_position: The position of the first completion token on all three axes.
    """

    embeddings: Tensor
    positions: Tensor
    next_position: int


class Policy:
    """Wraps a model with what every method shares: one way to embed a prompt, one log-probability function.

    Args:
        model: A Qwen2-VL model, possibly inside a PEFT wrapper.
        tokenizer: Its tokenizer.
        device: Where it lives.
        precision: ``fp32`` or ``bf16`` (autocast).
        video: The vision tower's features, when shared with another policy.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        device: torch.device,
        precision: str,
        video: VideoFeatures | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.precision = precision
        self.video = video or VideoFeatures(self.base, device, precision)
        self.forward_passes = 0

    @property
    def base(self) -> Any:
        """The Qwen2-VL model itself, without a PEFT wrapper (adapters stay inside its layers)."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def language_model(self) -> Any:
        return self.base.model.language_model

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Token ids that end an answer."""
        ends = self.base.generation_config.eos_token_id
        return tuple(ends) if isinstance(ends, (list, tuple)) else (int(ends),)

    @property
    def banned_tokens(self) -> tuple[int, ...]:
        """Special tokens that must never be sampled: a sampled video token would ask for features it has not."""
        config = self.base.config
        special = {*self.tokenizer.all_special_ids, config.video_token_id, config.image_token_id}
        special |= {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return tuple(sorted(special - set(self.end_tokens)))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    # ------------------------------------------------------------------ prompts

    def prompt_states(self, prompts: Sequence[EncodedPrompt]) -> dict[str, PromptState]:
        """Embed each distinct prompt once; each distinct video passes the vision tower once.

        Raises:
            UserError: A prompt's video tokens have no matching features. It is never trained on silently.
        """
        distinct = {prompt.id: prompt for prompt in prompts}
        features = self.video.of(distinct.values())
        return {key: self._prompt_state(prompt, features[prompt.video.digest]) for key, prompt in distinct.items()}

    def _prompt_state(self, prompt: EncodedPrompt, features: Tensor) -> PromptState:
        core, config = self.base.model, self.base.config
        ids = prompt.input_ids.to(self.device)
        where = ids == config.video_token_id
        if int(where.sum()) != len(features) or len(features) == 0:
            raise UserError(
                f"record {prompt.record.key} ({prompt.record.dataset}/{prompt.record.scene_name}): the prompt has "
                f"{int(where.sum())} video tokens but the video gives {len(features)} features; it is refused, since "
                "a loss that does not see the video would be wrong without any error"
            )
        embeddings = core.get_input_embeddings()(ids)
        embeddings = embeddings.masked_scatter(where.unsqueeze(-1), features.to(embeddings.dtype))
        kinds = prompt.mm_token_type_ids.to(self.device)
        positions, _ = core.get_rope_index(
            ids[None], mm_token_type_ids=kinds[None], video_grid_thw=prompt.video.grid_thw.to(self.device)
        )
        self._check_length(len(ids), prompt)
        return PromptState(embeddings, positions[:, 0], int(positions.max()) + 1)

    def _check_length(self, length: int, prompt: EncodedPrompt) -> None:
        limit = self.base.config.text_config.max_position_embeddings
        if length >= limit:
            raise UserError(
                f"record {prompt.record.key}: the prompt has {length} tokens, the model takes {limit}; "
                "lower data.frames or data.max_pixels"
            )

    # ------------------------------------------------------------------ log-probabilities

    def log_probs(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Per-token log-probabilities of completions, one row each, after their prompts.

        The plain way: every row is [prompt; completion], right-padded. ``lm_head`` runs on the positions that
        predict a completion token only.

        Args:
            prompts: n prompts; equal ones are embedded once.
            completions: n token sequences, none empty.
            temperature: Divides the logits.

        Returns:
            (n, L) float32 log-probabilities, 0 on padding, and the (n, L) mask, 1.0 on real tokens.
        """
        if any(len(completion) == 0 for completion in completions):
            raise ValueError("an empty completion has no log-probability")
        states = self.prompt_states(prompts)
        rows = [states[prompt.id] for prompt in prompts]
        labels = [torch.tensor(completion, device=self.device) for completion in completions]
        embed = self.base.get_input_embeddings()
        hidden = self._hidden(rows, [embed(label[:-1]) for label in labels])
        starts = torch.tensor([len(row.embeddings) - 1 for row in rows], device=self.device)
        target = pad_sequence(labels, batch_first=True)
        lengths = torch.tensor([len(label) for label in labels], device=self.device)
        columns = torch.arange(target.shape[1], device=self.device)[None]
        real = columns < lengths[:, None]
        at = (starts[:, None] + columns).clamp(max=hidden.shape[1] - 1)
        with self.autocast():
            logits = self.base.lm_head(hidden[torch.arange(len(rows), device=self.device)[:, None], at][real])
        chosen = (logits.float() / temperature).log_softmax(-1).gather(-1, target[real][:, None])[:, 0]
        values = torch.zeros(target.shape, dtype=chosen.dtype, device=self.device).masked_scatter(real, chosen)
        return values, real.to(values.dtype)

    def _hidden(self, rows: Sequence[PromptState], suffixes: Sequence[Tensor]) -> Tensor:
        pairs = list(zip(rows, suffixes, strict=True))
        inputs = [torch.cat([row.embeddings, suffix.to(row.embeddings.dtype)]) for row, suffix in pairs]
        positions = [
            torch.cat([row.positions, self._text_positions(row.next_position, len(suffix))], dim=1).T
            for row, suffix in pairs
        ]
        lengths = torch.tensor([len(item) for item in inputs], device=self.device)
        embeddings = pad_sequence(inputs, batch_first=True)
        mask = torch.arange(embeddings.shape[1], device=self.device)[None] < lengths[:, None]
        self.forward_passes += 1
        with self.autocast():
            output = self.language_model(
                inputs_embeds=embeddings,
                position_ids=pad_sequence(positions, batch_first=True).permute(2, 0, 1),
                attention_mask=mask.long(),
                use_cache=False,
            )
        return output.last_hidden_state

    def _text_positions(self, start: int, length: int) -> Tensor:
        return torch.arange(start, start + length, device=self.device)[None].expand(3, -1)

    # ------------------------------------------------------------------ the reference model

    def reference(self) -> Policy:
        """A frozen view of this policy as it is now.

        With adapters the same weights serve (see :meth:`as_reference`); otherwise the language model is copied and
        a frozen vision tower is shared. Call it before any training or restoring.
        """
        if hasattr(self.model, "disable_adapter"):
            return self
        tower = self.base.model.visual
        frozen = copy.deepcopy(self.model, memo={} if self.video.trained else {id(tower): tower})
        frozen.requires_grad_(False)
        video = None if self.video.trained else self.video
        return Policy(frozen, self.tokenizer, self.device, self.precision, video)

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """Inside, this policy answers as the reference: adapters off, no gradient."""
        disable = getattr(self.model, "disable_adapter", None)
        with torch.no_grad(), disable() if disable else contextlib.nullcontext():
            yield
