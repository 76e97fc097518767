"""A vision-language model as the engine uses it: video features, prompt embeddings, per-token log-probabilities."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from harness.data.encode import EncodedPrompt
from harness.errors import UserError
from harness.models.attention import NAME
from harness.models.features import VideoFeatures
from harness.models.packing import pack

Engine = Literal["shared", "naive"]

LOGITS_AT_ONCE = 2**26
"""Logits computed at once, rows x vocabulary (256 MB in fp32); more rows go in checkpointed chunks."""


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

    def following(self, count: int) -> Tensor:
        """(3, count) positions of the tokens after the prompt."""
        places = torch.arange(self.next_position, self.next_position + count, device=self.positions.device)
        return places[None].expand(3, -1)


class Policy:
    """Wraps a model with what every method shares: one way to embed a prompt, one log-probability function.

    Args:
        model: A Qwen2-VL model, possibly inside a PEFT wrapper.
        tokenizer: Its tokenizer.
        device: Where it lives.
        precision: ``fp32`` or ``bf16`` (autocast).
        video: The vision tower's features, when shared with another policy.
        engine: ``shared`` runs each prompt once for all its completions, ``naive`` once for each.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        device: torch.device,
        precision: str,
        video: VideoFeatures | None = None,
        engine: Engine = "shared",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.precision = precision
        self.video = video or VideoFeatures(self.base, device, precision)
        self.engine = engine
        self.forward_passes = 0
        if engine == "shared":
            # Without a shared prefix this is plain SDPA, so it may stay set for good (checkpointing needs that).
            self.language_model.config._attn_implementation = NAME

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

        Each distinct prompt is run once and its completions attend to it (or, with the ``naive`` engine, once a
        completion). ``lm_head`` runs only on the positions that predict a completion token.

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
        lengths = torch.tensor([len(completion) for completion in completions], device=self.device)
        width = int(lengths.max())
        real = torch.arange(width, device=self.device)[None] < lengths[:, None]
        run = self._packed if self.engine == "shared" else self._repeated
        hidden, labels, target = run(states, prompts, completions, width)
        chosen = self._token_log_probs(hidden, labels, temperature)
        values = chosen.new_zeros(real.numel()).index_put((target,), chosen).view(real.shape)
        return values, real.to(values.dtype)

    def _packed(
        self, states: dict[str, PromptState], prompts: Sequence[EncodedPrompt], completions: Sequence[Any], width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each distinct prompt once, with its completions behind it."""
        owned: dict[str, list[tuple[int, Sequence[int]]]] = {key: [] for key in states}
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            owned[prompt.id].append((row, completion))
        rows = pack(list(states.values()), list(owned.values()), width, self.base.get_input_embeddings())
        unmasked = dict.fromkeys(self.base.config.text_config.layer_types)
        hidden = self._forward(rows.embeddings, rows.positions, unmasked, shared_prefix=rows.prefix)
        return hidden[:, rows.prefix.length :][rows.suffix], rows.labels, rows.target

    def _repeated(
        self, states: dict[str, PromptState], prompts: Sequence[EncodedPrompt], completions: Sequence[Any], width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The plain way, kept as the oracle: every row is [prompt; completion], right-padded."""
        rows = [states[prompt.id] for prompt in prompts]
        labels = [torch.tensor(completion, device=self.device) for completion in completions]
        embed = self.base.get_input_embeddings()
        pairs = [(row, embed(label[:-1]).to(row.embeddings.dtype)) for row, label in zip(rows, labels, strict=True)]
        embeddings = pad_sequence([torch.cat([row.embeddings, suffix]) for row, suffix in pairs], batch_first=True)
        places = [torch.cat([row.positions, row.following(len(suffix))], dim=1).T for row, suffix in pairs]
        lengths = torch.tensor([len(place) for place in places], device=self.device)
        mask = torch.arange(embeddings.shape[1], device=self.device)[None] < lengths[:, None]
        positions = pad_sequence(places, batch_first=True).permute(2, 0, 1)
        hidden = self._forward(embeddings, positions, mask.long())
        first = [len(row.embeddings) - 1 for row in rows]
        kept = [hidden[i, at : at + len(label)] for i, (at, label) in enumerate(zip(first, labels, strict=True))]
        target = [i * width + torch.arange(len(label), device=self.device) for i, label in enumerate(labels)]
        return torch.cat(kept), torch.cat(labels), torch.cat(target)

    def _forward(self, embeddings: Tensor, positions: Tensor, mask: Any, **layout: Any) -> Tensor:
        self.forward_passes += 1
        with self.autocast():
            output = self.language_model(
                inputs_embeds=embeddings, position_ids=positions, attention_mask=mask, use_cache=False, **layout
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def next_logits(self, embeddings: Tensor, positions: Tensor, mask: Any, cache: Any, **layout: Any) -> Tensor:
        """(rows, vocabulary) logits after the last column, in at least fp32; keys and values go into the cache."""
        self.forward_passes += 1
        with self.autocast():
            output = self.language_model(
                inputs_embeds=embeddings,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **layout,
            )
            logits: Tensor = self.base.lm_head(output.last_hidden_state[:, -1])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _token_log_probs(self, hidden: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """(m,) log-probabilities of labels; in row chunks, so that (m, vocabulary) logits never stand at once."""

        def part(some: Tensor, wanted: Tensor) -> Tensor:
            with self.autocast():
                logits = self.base.lm_head(some)
            precise = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
            return precise.log_softmax(-1).gather(-1, wanted[:, None])[:, 0]

        rows = max(1, LOGITS_AT_ONCE // self.base.config.text_config.vocab_size)
        if len(hidden) <= rows:
            return part(hidden, labels)
        chunks = zip(hidden.split(rows), labels.split(rows), strict=True)
        return torch.cat([checkpoint(part, some, wanted, use_reentrant=False) for some, wanted in chunks])

    # ------------------------------------------------------------------ the reference model

    def reference(self) -> Policy:
        """A frozen view of this policy as it is now.

        With adapters and a frozen vision tower the same weights serve (see :meth:`as_reference`); otherwise the model
        is copied, all but a frozen vision tower. Call it before any training or restoring.
        """
        if hasattr(self.model, "disable_adapter") and not self.video.trained:
            return self
        tower = self.base.model.visual
        frozen = copy.deepcopy(self.model, memo={} if self.video.trained else {id(tower): tower})
        frozen.requires_grad_(False)
        video = None if self.video.trained else self.video
        return Policy(frozen, self.tokenizer, self.device, self.precision, video, self.engine)

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """Inside, this policy answers as the reference: adapters off, no gradient."""
        disable = getattr(self.model, "disable_adapter", None)
        with torch.no_grad(), disable() if disable else contextlib.nullcontext():
            yield
