"""TRL's own GRPO trainer, repaired so that its loss sees the video.

TRL 1.16 supports images only. With a video in the prompt, generation sees the frames, but the forward passes of the
loss and of the reference get neither pixels nor M-RoPE positions: training runs without an error on wrong
log-probabilities. Only four private methods are overridden here; loss, sampling, advantages, optimiser and loop are
TRL's. Private methods change with almost every release (``_compute_loss`` in 14 of 21), so only one series is accepted,
and the first loss of every run is checked against a forward pass of plain transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from harness.api import UserError
from harness.data.encode import VIDEO_TOKEN_TYPE, EncodedPrompt
from harness.engine.policy import Policy

TRL_SERIES = "1.16."
"""The releases whose private methods these overrides fit."""

TOLERANCE = {"fp32": 1e-3, "bf16": 0.3}
"""Largest difference (nats per token) from the plain forward pass that counts as rounding, by precision."""

VIDEOS = "harness_videos"
"""Key of a batch's prompts: a list, which TRL shuffles and splits along with the tensors."""


def require_trl() -> None:
    """Refuse any other release series of TRL.

    Raises:
        UserError: TRL is missing or of another series.
    """
    try:
        found = version("trl")
    except PackageNotFoundError:
        raise UserError("TRL's trainers need the package trl: pip install 'trl==1.16.0'") from None
    if not found.startswith(TRL_SERIES):
        raise UserError(
            f"trl {found} is installed; video support overrides private methods of trl {TRL_SERIES}*, which change "
            "with almost every release: another one could train on wrong log-probabilities without an error. Install "
            "it with: pip install 'trl==1.16.0'"
        )


def refuse_gap(gap: float, prompt: EncodedPrompt, precision: str) -> None:
    """Refuse a loss that does not see the video, or sees it wrongly; ``gap`` is in nats per token.

    Raises:
        UserError: The gap is larger than rounding explains.
    """
    if not gap <= TOLERANCE[precision]:
        raise UserError(
            f"prompt {prompt.id}: the log-probabilities in TRL's loss differ by {gap:.3g} from a plain forward pass "
            "with the video; training is refused, since it would not see the video"
        )


@functools.cache
def video_trainer_class() -> Any:
    """``GRPOTrainer`` with four private methods overridden; see :func:`grpo_trainer` for how to build one."""
    require_trl()
    from trl import GRPOTrainer

    class VideoGRPOTrainer(GRPOTrainer):
        """The ``prompt`` column holds names; :meth:`bind_prompts` sets how a name is resolved."""

        def bind_prompts(self, prompts: Callable[[str], EncodedPrompt], precision: str) -> None:
            self._encoded = prompts
            self._precision = precision
            self._videos: list[EncodedPrompt] = []
            self.tokens_sampled = 0
            self._checked = False

        def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            rows = [self._encoded(name) for name in prompts]
            fields = pixels_of(rows) | {"mm_token_type_ids": [row.mm_token_type_ids.tolist() for row in rows]}
            return [row.input_ids.tolist() for row in rows], None, fields

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            self._videos = [self._encoded(row["prompt"]) for row in inputs]
            made: dict[str, Any] = super()._generate_and_score_completions(inputs)
            self.tokens_sampled += int(made["completion_mask"].sum())
            return made | {VIDEOS: self._videos}

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
            self._videos = inputs[VIDEOS]
            if not self._checked:
                self._check_first(inputs)
            loss: Tensor = super()._compute_loss(model, inputs)
            return loss

        def _get_per_token_logps_and_entropies(
            self, model: Any, input_ids: Tensor, attention_mask: Tensor, *rest: Any, **options: Any
        ) -> Any:
            seeing = _seeing(model, iter(self._videos), self.model.config.video_token_id)
            return super()._get_per_token_logps_and_entropies(seeing, input_ids, attention_mask, *rest, **options)

        @torch.no_grad()
        def _check_first(self, inputs: dict[str, Any]) -> None:
            """Compare the loss's log-probabilities of the first row with a plain forward pass with its pixels."""
            names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
            prompt, prompt_mask, completion, mask = (inputs[name][:1] for name in names)
            training = self.model.training
            self.model.eval()
            row, whole = torch.cat([prompt, completion], 1), torch.cat([prompt_mask, mask], 1)
            used = self._get_per_token_logps_and_entropies(self.model, row, whole, completion.shape[1])[0]
            tokens = completion[mask.bool()]
            with self.accelerator.autocast():
                plain = plain_log_probs(self.model, self._videos[0], tokens, self.temperature)
            self.model.train(training)
            gap = float((used[mask.bool()].float() - plain).abs().max())
            refuse_gap(gap, self._videos[0], self._precision)
            self._checked = True

    return VideoGRPOTrainer


def grpo_trainer(
    policy: Policy,
    prompts: Callable[[str], EncodedPrompt],
    names: Sequence[str],
    reward: Callable[[str, EncodedPrompt], float],
    settings: Mapping[str, Any],
) -> Any:
    """TRL's GRPO trainer on video prompts.

    As in the harness's own sampler, no special token but the end of turn is ever sampled; stock TRL suppresses only the
    image token, and a sampled video token would have no features.

    Args:
        policy: The model with its tokenizer and precision. With full fine-tuning and a reference model,
            ``config._name_or_path`` must be the folder of the base weights.
        prompts: Resolves a name. Pixels are used unchanged: no video is decoded or processed again.
        names: The training prompts, in order.
        reward: The reward of a completion's text.
        settings: Options of ``trl.GRPOConfig``; ``generation_kwargs`` may hold more ``suppress_tokens``.

    Raises:
        UserError: TRL is missing or of another series; or, in the first step, its loss does not see the video.
    """
    trainer_class = video_trainer_class()
    from datasets import Dataset
    from trl import GRPOConfig

    encoded = prompts

    def score(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        return [reward(text, encoded(name)) for name, text in zip(prompts, completions, strict=True)]

    sampling = dict(settings.get("generation_kwargs") or {})
    banned = {*policy.banned_tokens, *sampling.get("suppress_tokens", ())}
    arguments = {**settings, "generation_kwargs": sampling | {"suppress_tokens": sorted(banned)}}
    trainer = trainer_class(
        model=policy.model,
        reward_funcs=score,
        args=GRPOConfig(**arguments),
        train_dataset=Dataset.from_dict({"prompt": list(names)}),
        processing_class=policy.tokenizer,
    )
    trainer.bind_prompts(prompts, policy.precision)
    return trainer


def plain_log_probs(model: Any, prompt: EncodedPrompt, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """(L,) float32 log-probabilities of one completion by transformers' own forward pass, unpadded, with pixels."""
    ids = torch.cat([prompt.input_ids.to(tokens.device), tokens])[None]
    inputs = {name: value.to(tokens.device) for name, value in pixels_of([prompt]).items()}
    kinds = torch.nn.functional.pad(prompt.mm_token_type_ids, (0, len(tokens)))[None].to(tokens.device)
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        logits_to_keep=len(tokens) + 1,
        use_cache=False,
        **inputs,
    ).logits[0, :-1]
    return (logits.float() / temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def pixels_of(prompts: Sequence[EncodedPrompt]) -> dict[str, Tensor]:
    """The vision input of some rows; a shared video is repeated for each row, as TRL repeats images."""
    return {
        "pixel_values_videos": torch.cat([prompt.video.pixel_values for prompt in prompts]),
        "video_grid_thw": torch.cat([prompt.video.grid_thw for prompt in prompts]),
    }


def _seeing(model: Any, videos: Iterator[EncodedPrompt], video_token: int) -> Callable[..., Any]:
    """``model``, with the video input of the rows added; TRL calls it on consecutive chunks of them."""

    def forward(**inputs: Any) -> Any:
        ids = inputs["input_ids"]
        pixels = {name: value.to(ids.device) for name, value in pixels_of(list(islice(videos, len(ids)))).items()}
        kinds = (ids == video_token).long() * VIDEO_TOKEN_TYPE
        return model(**(inputs | pixels | {"mm_token_type_ids": kinds}))

    return forward
