"""Running the language model: a forward pass over packed rows, prefill, decode step, logits and log-probabilities."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.engine import fast_layers
from harness.engine.attention import NAME, register
from harness.engine.kv_cache import KeyValues, PrefixCache, SuffixCache, key_values

if TYPE_CHECKING:
    from harness.engine.packing import PackedRows

Engine = Literal["shared", "naive"]

MAX_LOGITS = 2**26
"""Most logits computed at once, rows x vocabulary (256 MB in fp32); more rows are computed in checkpointed chunks."""


class ModelRunner:
    """Runs the language model of a vision-language model on embeddings.

    Args:
        model: A Qwen2-VL model, possibly inside a PEFT wrapper.
        device: Where it is.
        precision: ``fp32`` or ``bf16`` (autocast).
        engine: ``shared`` runs each prompt once for all its completions, ``naive`` once for each.

    Attributes:
        forward_passes: Calls of the language model so far.
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: str, engine: Engine = "shared") -> None:
        self.model = model
        self.device = device
        self.precision = precision
        self.engine = engine
        self.forward_passes = 0
        other = set(getattr(self.base.config.text_config, "layer_types", None) or ()) - {"full_attention"}
        if engine == "shared" and other:
            self.fall_back(f"the model has layers other than full attention ({', '.join(sorted(other))})")
        if self.engine == "shared":
            register()
            # Without a shared prefix this is plain SDPA, so it may stay set (gradient checkpointing requires that).
            self.language_model.config._attn_implementation = NAME
            fast_layers.install(self.base)

    def fall_back(self, reason: str) -> None:
        """Switch to the naive engine and say why."""
        logging.getLogger(__name__).warning(
            "model.engine = shared is not used: %s. The naive engine gives the same results, more slowly.", reason
        )
        self.engine = "naive"

    @property
    def base(self) -> Any:
        """The Qwen2-VL model itself, without a PEFT wrapper (adapters stay inside its layers)."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def language_model(self) -> Any:
        """transformers' module of the language model."""
        return self.base.model.language_model

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision, where the policy computes in bf16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings."""
        embeddings: Tensor = self.base.get_input_embeddings()(ids)
        return embeddings

    def forward(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: Any = None, **inputs: Any) -> Tensor:
        """(B, N, hidden) last hidden states of the language model; keys and values go into the KV cache, if any.

        Args:
            embeddings: (B, N, hidden).
            positions: (3, B, N).
            mask: (B, columns) padding mask that transformers makes causal, or an additive 4D mask used as it is.
            cache: KV cache that the attention layers update.
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

    def forward_packed(self, rows: PackedRows, cache: Any = None) -> Tensor:
        """(B, S, hidden) of the suffix part, from a pass over prefixes and suffixes."""
        return self.forward(rows.embeddings, rows.positions, rows.mask, cache, **rows.options)[:, rows.prefix_length :]

    def prefill(self, rows: PackedRows) -> tuple[Tensor, KeyValues]:
        """Run prompts without completions.

        Returns:
            (B, S, hidden) of the prompts' suffixes; keys and values of prefixes and suffixes, (B, kv heads, P + S, head
            size) in every layer.
        """
        cache = self.kv_cache([])
        hidden = self.forward_packed(rows, cache)
        return hidden, key_values(cache)

    def decode_step(self, embeddings: Tensor, positions: Tensor, prefix: PrefixCache, suffix: SuffixCache) -> Tensor:
        """(rows, vocabulary) logits after one more token a row, whose keys and values join the suffix cache.

        Args:
            embeddings: (rows, 1, hidden) of the tokens.
            positions: (3, rows, 1).
            prefix: KV cache of the shared prefixes.
            suffix: KV cache of the rows' own tokens.
        """
        suffix.unmask_next()
        hidden = self.forward(embeddings, positions, suffix.mask, suffix, shared_prefix=prefix)
        suffix.column.add_(1)
        return self.logits(hidden[:, -1])

    def kv_cache(self, layers: KeyValues) -> Any:
        """transformers' growing KV cache with these keys and values in it."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.base.config.text_config)
        for layer, (keys, values) in enumerate(layers):
            cache.update(keys, values, layer)
        return cache

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in at least fp32."""
        with self.autocast():
            logits: Tensor = self.base.lm_head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def token_log_probs(
        self, hidden: Tensor, labels: Tensor, temperature: float = 1.0, *, recompute: bool = False
    ) -> Tensor:
        """(m,) log-probabilities of labels after (m, hidden) hidden states.

        The logits of many tokens are computed in chunks and again in the backward pass, so that they are never in
        memory all at once.

        Args:
            hidden: Last hidden states of the positions that predict the labels.
            labels: (m,) token ids.
            temperature: Divides the logits.
            recompute: Compute even a few tokens' logits again in the backward pass, to save memory.
        """

        def chunk(some: Tensor, wanted: Tensor) -> Tensor:
            return (self.logits(some) / temperature).log_softmax(-1).gather(-1, wanted[:, None])[:, 0]

        size = max(1, MAX_LOGITS // self.base.config.text_config.vocab_size)
        if len(hidden) <= size and not recompute:
            return chunk(hidden, labels)
        chunks = zip(hidden.split(size), labels.split(size), strict=True)
        return torch.cat([checkpoint(chunk, some, wanted, use_reentrant=False) for some, wanted in chunks])
