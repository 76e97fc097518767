"""Video features: each distinct video passes the vision tower once; a frozen tower's features are cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.models.families import encode_video, vision_is_trained

if TYPE_CHECKING:
    from harness.data.encode import EncodedPrompt
    from harness.data.video.frames import ProcessedVideo

CACHE_BYTES = 512 * 2**20
"""Most memory for features of a frozen tower; a tiny clip takes 55 kB, a Qwen2-VL-2B clip 6 MB in bf16."""


class VideoFeatures:
    """Runs a model's vision tower on the distinct videos of some prompts.

    Args:
        model: The Qwen2-VL model that owns the tower.
        device: Where the model is.
        precision: ``fp32`` or ``bf16`` (autocast).
    """

    def __init__(self, model: Any, device: torch.device, precision: str) -> None:
        self._model = model
        self._device = device
        self._precision = precision
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self.passes = 0

    @property
    def trained(self) -> bool:
        """Whether the tower has parameters to train; then nothing is cached."""
        return vision_is_trained(self._model)

    def of(self, prompts: Iterable[EncodedPrompt]) -> dict[str, Tensor]:
        """Features by video digest, as :func:`encode_video` returns them; with gradient if the tower is trained."""
        videos = {prompt.video.digest: prompt.video for prompt in prompts}
        if self.trained:
            return {key: self._encode(video) for key, video in videos.items()}
        return {key: self._cached(key, video) for key, video in videos.items()}

    def _cached(self, key: str, video: ProcessedVideo) -> Tensor:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        with torch.no_grad():
            features = self._encode(video)
        self._cache[key] = features
        self._bytes += features.nbytes
        while self._bytes > CACHE_BYTES and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._bytes -= dropped.nbytes
        return features

    def _encode(self, video: ProcessedVideo) -> Tensor:
        self.passes += 1
        # A tower entirely in bf16 needs no autocast, whose fp32 norms would only add copies between the two types.
        mixed = any(weight.dtype != torch.bfloat16 for weight in self._model.model.visual.parameters())
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16" and mixed):
            return encode_video(self._model, video, self._device)
