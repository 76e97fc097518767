"""A vision-language model as the engine uses it: video features, prompt embeddings, per-token log-probabilities."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from harness.data.encode import EncodedPrompt
from harness.engine import shortcuts
from harness.engine.activation_reuse import KeptTrunks, can_keep
from harness.engine.attention import NAME, register
from harness.engine.features import VideoFeatures
from harness.engine.packing import Layers, PackedRows, pack
from harness.engine.recomputation import Recomputed
from harness.errors import UserError
from harness.models.families import prompt_positions, vision_inputs
from harness.models.prompt_state import PromptState

Engine = Literal["shared", "naive"]

LOGITS_AT_ONCE = 2**26
"""Logits computed at once, rows x vocabulary (256 MB in fp32); more rows go in checkpointed chunks."""


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
        self.engine = self._usable(engine)
        self.forward_passes = 0
        self.kept: KeptTrunks | None = None
        if self.engine == "shared":
            # Without a shared prefix this is plain SDPA, so it may stay set for good (checkpointing needs that).
            self.language_model.config._attn_implementation = NAME
            shortcuts.install(self.base)

    def _usable(self, engine: Engine) -> Engine:
        """The naive engine, said so, where the shared one cannot run."""
        layers = set(getattr(self.base.config.text_config, "layer_types", None) or ["full_attention"])
        if engine == "naive":
            return engine
        if not register():
            return self.fall_back("this transformers has no attention registry; install transformers>=5.17")
        if layers != {"full_attention"}:
            return self.fall_back(f"the model has other layers than full attention ({', '.join(sorted(layers))})")
        return engine

    def fall_back(self, reason: str) -> Engine:
        """Go on with the naive engine and say why."""
        logging.getLogger(__name__).warning(
            "model.engine = shared is not used: %s. The naive engine gives the same results, more slowly.", reason
        )
        self.engine = "naive"
        return self.engine

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
            UserError: A prompt is too long, or its video tokens have no matching features. It is never trained on
                silently.
        """
        distinct = {prompt.id: prompt for prompt in prompts}
        for prompt in distinct.values():
            self._check_length(prompt)
        features = self.video.of(distinct.values())
        return {key: self._prompt_state(prompt, features[prompt.video.digest]) for key, prompt in distinct.items()}

    def _prompt_state(self, prompt: EncodedPrompt, features: Tensor) -> PromptState:
        visual = prompt.input_ids == self.base.config.video_token_id
        count, given = int(visual.sum()), features.shape[1]
        if count != given or given == 0:
            raise UserError(
                f"record {prompt.record.key} ({prompt.record.dataset}/{prompt.record.scene_name}): the prompt has "
                f"{count} video tokens but the video gives {given} features; it is refused, since a loss that does "
                "not see the video would be wrong without any error"
            )
        embeddings = self.embed(prompt.input_ids.to(self.device))
        where = visual.to(self.device).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(where, features[0].to(embeddings.dtype))
        positions = prompt_positions(self.base, prompt, self.device)
        return PromptState(
            prompt.input_ids,
            visual,
            prompt.video.digest,
            embeddings,
            features[1:],
            positions,
            int(positions.max()) + 1,
        )

    def _check_length(self, prompt: EncodedPrompt) -> None:
        length, limit = len(prompt.input_ids), self.base.config.text_config.max_position_embeddings
        if length >= limit:
            raise UserError(
                f"record {prompt.record.key}: the prompt has {length} tokens, the model takes {limit}; "
                "lower data.frames or data.max_pixels"
            )

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings."""
        embeddings: Tensor = self.base.get_input_embeddings()(ids)
        return embeddings

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
        self._check_completions(prompts, completions)
        states = self.prompt_states(prompts)
        lengths = torch.tensor([len(completion) for completion in completions], device=self.device)
        width = int(lengths.max())
        real = torch.arange(width, device=self.device)[None] < lengths[:, None]
        run = self._packed if self.engine == "shared" else self._repeated
        hidden, labels, target = run(states, prompts, completions, width)
        chosen = self.token_log_probs(hidden, labels, temperature)
        values = chosen.new_zeros(real.numel()).index_put((target,), chosen).view(real.shape)
        return values, real.to(values.dtype)

    def _check_completions(self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[int]]) -> None:
        vision = {self.base.config.video_token_id, self.base.config.image_token_id}
        for prompt, completion in zip(prompts, completions, strict=True):
            if not len(completion):
                raise ValueError(f"record {prompt.record.key}: an empty completion has no log-probability")
            if vision & set(completion):
                raise UserError(
                    f"record {prompt.record.key}: a completion contains a vision token ({vision & set(completion)}), "
                    "which would ask for features that it has not; remove it from the data"
                )

    def _packed(
        self, states: dict[str, PromptState], prompts: Sequence[EncodedPrompt], completions: Sequence[Any], width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each distinct prompt once, with its completions behind it."""
        owned: dict[str, list[tuple[int, Sequence[int]]]] = {key: [] for key in states}
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            owned[prompt.id].append((row, completion))
        rows = pack(states, owned, width, self.embed)
        trunks, lean = self.kept.of(rows) if self.kept and torch.is_grad_enabled() else ([], False)
        if trunks:
            hidden = self.behind(rows, self.recomputed(trunks) if lean else self.filled(trunks))
        else:
            hidden = self.whole(rows)
        return hidden.flatten(0, 1)[rows.source], rows.labels, rows.target

    def whole(self, rows: PackedRows, cache: Any = None) -> Tensor:
        """(B, S, hidden) of the suffix part, trunks run with it."""
        return self.forward(rows.embeddings, rows.positions, rows.mask, cache, **rows.layout)[:, rows.trunk :]

    def behind(self, rows: PackedRows, cache: Any) -> Tensor:
        """The same behind trunks that were run before, and whose keys and values the cache holds."""
        inputs, layout = rows.suffixes
        return self.forward(*inputs, cache, **layout)

    def trunks(self, rows: PackedRows) -> Layers:
        """The trunks' keys and values in every layer, with a graph that holds little."""
        run = self.recomputed()
        inputs, layout = rows.trunks
        self.forward(*inputs, run, **layout)
        return run.layers

    def filled(self, trunks: Layers) -> Any:
        """A cache that holds these trunks and goes on from them."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.base.config.text_config)
        for layer, (keys, values) in enumerate(trunks):
            cache.update(keys, values, layer)
        return cache

    def recomputed(self, trunks: Layers | None = None) -> Recomputed:
        """In place of a cache: computed again in the backward pass, behind these trunks if there are any."""
        return Recomputed(self.base.config.text_config.num_hidden_layers, trunks)

    @contextlib.contextmanager
    def keeping_trunks(self) -> Iterator[None]:
        """Inside, where it can be, the pass that prompts are sampled from serves the one update that follows."""
        self.kept = KeptTrunks(self.base.config.text_config) if can_keep(self) else None
        try:
            yield
        finally:
            self.kept = None

    def keeps(self, prompts: Sequence[EncodedPrompt]) -> bool:
        """Whether a pass over these prompts is to be made with its graph."""
        return self.engine == "shared" and self.kept is not None and self.kept.wants(prompts)

    def _repeated(
        self, states: dict[str, PromptState], prompts: Sequence[EncodedPrompt], completions: Sequence[Any], width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The plain way, kept as the oracle: every row is [prompt; completion], right-padded."""
        rows = [states[prompt.id] for prompt in prompts]
        labels = [torch.tensor(completion, device=self.device) for completion in completions]
        pairs = [
            (row, self.embed(label[:-1]).to(row.embeddings.dtype)) for row, label in zip(rows, labels, strict=True)
        ]
        embeddings = pad_sequence([torch.cat([row.embeddings, suffix]) for row, suffix in pairs], batch_first=True)
        places = [torch.cat([row.positions, row.following(len(suffix))], dim=1).T for row, suffix in pairs]
        lengths = torch.tensor([len(place) for place in places], device=self.device)
        mask = torch.arange(embeddings.shape[1], device=self.device)[None] < lengths[:, None]
        positions = pad_sequence(places, batch_first=True).permute(2, 0, 1)
        vision = vision_inputs(rows, [0] * len(rows), embeddings.shape[1])
        hidden = self.forward(embeddings, positions, mask.long(), **vision)
        first = [len(row.embeddings) - 1 for row in rows]
        kept = [hidden[i, at : at + len(label)] for i, (at, label) in enumerate(zip(first, labels, strict=True))]
        target = [i * width + torch.arange(len(label), device=self.device) for i, label in enumerate(labels)]
        return torch.cat(kept), torch.cat(labels), torch.cat(target)

    def forward(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Any = None, **inputs: Any) -> Tensor:
        """(B, N, hidden) last hidden states of the language model; keys and values go into the cache, if any.

        Args:
            embeddings: (B, N, hidden).
            positions: (3, B, N).
            mask: (B, columns) padding mask for transformers to make causal, or an additive 4D mask taken as it is.
            cache: What the attention layers update.
            inputs: Further inputs of the language model and of the attention.
        """
        self.forward_passes += 1
        with self.autocast():
            output = self.language_model(
                inputs_embeds=embeddings,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
                **inputs,
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in at least fp32."""
        with self.autocast():
            logits: Tensor = self.base.lm_head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def token_log_probs(self, hidden: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """(m,) log-probabilities of labels. (m, vocabulary) logits never stand at once if they are many, and none wait
        for the backward pass then, or where the prompts' passes wait for it.
        """

        def part(some: Tensor, wanted: Tensor) -> Tensor:
            return (self.logits(some) / temperature).log_softmax(-1).gather(-1, wanted[:, None])[:, 0]

        rows = max(1, LOGITS_AT_ONCE // self.base.config.text_config.vocab_size)
        if len(hidden) <= rows and not self.kept:
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
