"""Video features: each distinct video passes the vision tower once; a frozen tower's features are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.models.families import encode_video

if TYPE_CHECKING:
    from harness.data.encode import EncodedPrompt
    from harness.data.video.frames import ProcessedVideo

CACHE_BYTES = 512 * 2**20
"""Features of a frozen tower kept in memory; a tiny clip takes 55 kB, a Qwen2-VL-2B clip 6 MB in bf16."""


class VideoFeatures:
    """Runs a model's vision tower on the distinct videos of some prompts.

    Args:
        model: The Qwen2-VL model that owns the tower.
        device: Where the model lives.
        precision: ``fp32`` or ``bf16`` (autocast).
    """

    def __init__(self, model: Any, device: torch.device, precision: str) -> None:
        self._model = model
        self._device = device
        self._precision = precision
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self.passes = 0

    @property
    def trained(self) -> bool:
        """Whether the tower has parameters to train; then nothing is kept."""
        return any(parameter.requires_grad for parameter in self._model.model.visual.parameters())

    def of(self, prompts: Iterable[EncodedPrompt]) -> dict[str, Tensor]:
        """Features by video digest, as :func:`encode_video` gives them; with gradient if the tower is trained."""
        videos = {prompt.video.digest: prompt.video for prompt in prompts}
        if self.trained:
            return {key: self._encode(video) for key, video in videos.items()}
        return {key: self._recall(key, video) for key, video in videos.items()}

    def _recall(self, key: str, video: ProcessedVideo) -> Tensor:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        with torch.no_grad():
            features = self._encode(video)
        self._kept[key] = features
        self._bytes += features.nbytes
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        return features

    def _encode(self, video: ProcessedVideo) -> Tensor:
        self.passes += 1
        # A tower in bf16 throughout needs no autocast, whose fp32 norms only make it copy to and fro.
        mixed = any(weight.dtype != torch.bfloat16 for weight in self._model.model.visual.parameters())
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16" and mixed):
            return encode_video(self._model, video, self._device)
