"""A vision-language model as training and evaluation use it: prompts embedded with their video, log-probabilities."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from harness.engine.activation_reuse import ActivationReuse, can_reuse
from harness.engine.model_runner import Engine, ModelRunner
from harness.engine.packing import PackedRows, pack
from harness.engine.vision_features import VideoFeatures
from harness.errors import UserError
from harness.models.conversation import answer_ends, special_tokens, vision_tokens
from harness.models.families import prompt_positions, vision_inputs
from harness.models.prompt_state import PromptState

if TYPE_CHECKING:
    from harness.api.types import Needs
    from harness.data.encode import EncodedPrompt
    from harness.engine.kv_cache import KeyValues


class Policy(ModelRunner):
    """A model with its tokenizer: one way to embed a prompt and one log-probability function for every method.

    Args:
        model: A Qwen2-VL model, possibly inside a PEFT wrapper.
        tokenizer: Its tokenizer; None for an outline that only counts memory.
        device: Where it is.
        precision: ``fp32`` or ``bf16`` (autocast).
        video: The vision tower's features, when shared with another policy.
        engine: ``shared`` runs each prompt once for all its completions, ``naive`` once for each.

    Attributes:
        end_tokens: Token ids that end a completion; the first ends a supervised answer.

    Raises:
        UserError: The checkpoint's files name something as an end that cannot be one, or nothing.
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
        super().__init__(model, device, precision, engine)
        self.tokenizer = tokenizer
        self.video = video or VideoFeatures(self.base, device, precision)
        self.end_tokens: tuple[int, ...] = ()
        if tokenizer is not None:
            self.end_tokens = answer_ends(tokenizer, self.base.config, self.base.generation_config)
            # So that generate(), which TRL calls, ends at the same tokens and adds no defaults of the checkpoint.
            ends, pad = list(self.end_tokens), tokenizer.pad_token_id
            self.base.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=pad)
        self._reuse: ActivationReuse | None = None

    @property
    def banned_tokens(self) -> tuple[int, ...]:
        """Tokens that must never be sampled: a video token would have no features, an id without a token no text."""
        config = self.base.config
        nameless = set(range(config.text_config.vocab_size)).difference(self.tokenizer.get_vocab().values())
        banned = nameless.union(special_tokens(self.tokenizer), vision_tokens(config))
        return tuple(sorted(banned.difference(self.end_tokens)))

    # ------------------------------------------------------------------ prompts

    def prompt_states(self, prompts: Sequence[EncodedPrompt]) -> dict[str, PromptState]:
        """Embed each distinct prompt once; each distinct video passes the vision tower once.

        Raises:
            UserError: A prompt is too long, or its video tokens do not match the video's features.
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
                f"record {prompt.record.key} ({prompt.record.scene}): the prompt has "
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

    # ------------------------------------------------------------------ log-probabilities

    def log_probs(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Per-token log-probabilities of completions, one row each, after their prompts.

        Each distinct prompt is run once and its completions attend to it (or, with the ``naive`` engine, once for each
        completion). ``lm_head`` runs only on the positions that predict a completion token.

        Args:
            prompts: n prompts; equal ones are embedded once.
            completions: n token sequences, none empty.
            temperature: Divides the logits.

        Returns:
            (n, L) float32 log-probabilities, 0 on padding, and the (n, L) mask, 1.0 on completion tokens.
        """
        self._check_completions(prompts, completions)
        states = self.prompt_states(prompts)
        lengths = torch.tensor([len(completion) for completion in completions], device=self.device)
        width = int(lengths.max())
        mask = torch.arange(width, device=self.device)[None] < lengths[:, None]
        run = self._packed_hidden if self.engine == "shared" else self._naive_hidden
        hidden, labels, target = run(states, prompts, completions, width)
        chosen = self.token_log_probs(hidden, labels, temperature, recompute=self._reuse is not None)
        values = chosen.new_zeros(mask.numel()).index_put((target,), chosen).view(mask.shape)
        return values, mask.to(values.dtype)

    def _check_completions(self, prompts: Sequence[EncodedPrompt], completions: Sequence[Sequence[int]]) -> None:
        vision = {self.base.config.video_token_id, self.base.config.image_token_id}
        for prompt, completion in zip(prompts, completions, strict=True):
            if not len(completion):
                raise ValueError(f"record {prompt.record.key}: an empty completion has no log-probability")
            if vision & set(completion):
                raise UserError(
                    f"record {prompt.record.key}: a completion contains a vision token ({vision & set(completion)}) "
                    "for which there are no features; remove it from the data"
                )

    def _packed_hidden(
        self, states: dict[str, PromptState], prompts: Sequence[EncodedPrompt], completions: Sequence[Any], width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states that predict the completion tokens, those tokens, and their places in the flattened result.

        Each distinct prompt is run once, with its completions after it.
        """
        of_prompt: dict[str, list[tuple[int, Sequence[int]]]] = {key: [] for key in states}
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            of_prompt[prompt.id].append((row, completion))
        rows = pack(states, of_prompt, width, self.embed)
        hidden = self._reuse.suffix_hidden(rows) if self._reuse and torch.is_grad_enabled() else None
        if hidden is None:
            hidden = self.forward_packed(rows)
        return hidden.flatten(0, 1)[rows.source], rows.labels, rows.target

    def _naive_hidden(
        self, states: dict[str, PromptState], prompts: Sequence[EncodedPrompt], completions: Sequence[Any], width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same with a row [prompt; completion] for each completion, right-padded: the tests' reference."""
        rows = [states[prompt.id] for prompt in prompts]
        labels = [torch.tensor(completion, device=self.device) for completion in completions]
        pairs = [
            (row, self.embed(label[:-1]).to(row.embeddings.dtype)) for row, label in zip(rows, labels, strict=True)
        ]
        embeddings = pad_sequence([torch.cat([row.embeddings, inputs]) for row, inputs in pairs], batch_first=True)
        places = [torch.cat([row.positions, row.following(len(inputs))], dim=1).T for row, inputs in pairs]
        lengths = torch.tensor([len(place) for place in places], device=self.device)
        mask = torch.arange(embeddings.shape[1], device=self.device)[None] < lengths[:, None]
        positions = pad_sequence(places, batch_first=True).permute(2, 0, 1)
        vision = vision_inputs(rows, [0] * len(rows), embeddings.shape[1])
        hidden = self.forward(embeddings, positions, mask.long(), **vision)
        first = [len(row.embeddings) - 1 for row in rows]
        chosen = [hidden[i, at : at + len(label)] for i, (at, label) in enumerate(zip(first, labels, strict=True))]
        target = [i * width + torch.arange(len(label), device=self.device) for i, label in enumerate(labels)]
        return torch.cat(chosen), torch.cat(labels), torch.cat(target)

    # ------------------------------------------------------------------ reuse of the sampling pass

    @contextlib.contextmanager
    def activation_reuse(self, needs: Needs, updates_per_batch: int) -> Iterator[ActivationReuse | None]:
        """One training step: inside, the prefill of sampling serves the update, where :func:`can_reuse` allows it."""
        self._reuse = ActivationReuse(self) if can_reuse(self, needs, updates_per_batch) else None
        try:
            yield self._reuse
        finally:
            self._reuse = None

    @contextlib.contextmanager
    def gradient_of_a_step(self) -> Iterator[None]:
        """Around all micro-batches of an update; may be entered again after a failure."""
        if self._reuse is None:
            yield
            return
        self._reuse.begin()
        yield
        self._reuse.backward()

    def prefill_gradient(self, prompts: Sequence[EncodedPrompt]) -> contextlib.AbstractContextManager[Any]:
        """Around embedding and prefill of prompts to sample from: records a graph if the update will reuse it."""
        # The engine may have fallen back to the naive one since the step began.
        reused = self._reuse is not None and self.engine == "shared" and self._reuse.accepts(prompts)
        return torch.set_grad_enabled(reused)

    def prefill(self, rows: PackedRows) -> tuple[Tensor, KeyValues]:
        if self._reuse and torch.is_grad_enabled():
            return self._reuse.prefill(rows)
        return super().prefill(rows)

    # ------------------------------------------------------------------ the reference model, and other views

    def reference(self) -> Policy:
        """A frozen view of this policy as it is now.

        With adapters and a frozen vision tower the same weights serve (see :meth:`as_reference`); otherwise the model
        is copied, except for a frozen vision tower. Call it before any training or restoring.
        """
        if hasattr(self.model, "disable_adapter") and not self.video.trained:
            return self
        tower = self.base.model.visual
        frozen = copy.deepcopy(self.model, memo={} if self.video.trained else {id(tower): tower})
        frozen.requires_grad_(False)
        video = None if self.video.trained else self.video
        return Policy(frozen, self.tokenizer, self.device, self.precision, video, self.engine)

    def uncounted(self) -> Policy:
        """The same weights, with passes and video features that are not counted in this policy's."""
        other = copy.copy(self)
        other._reuse = None
        other.video = VideoFeatures(self.base, self.device, self.precision)
        return other

    @contextlib.contextmanager
    def as_reference(self) -> Iterator[None]:
        """Inside, this policy is the reference model: adapters off, no gradient."""
        disable = getattr(self.model, "disable_adapter", None)
        with torch.no_grad(), disable() if disable else contextlib.nullcontext():
            yield
