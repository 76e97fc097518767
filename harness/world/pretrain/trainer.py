"""One pre-training step and its optimisers: vision read-outs, probes and the language-model loss together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.world.camera import STOPS
from harness.world.pretrain.batches import Batch, Texts
from harness.world.pretrain.curriculum import Curriculum, Mix
from harness.world.pretrain.dense import PIXEL_NOISE, VisionHeads, to_patches, vision_losses
from harness.world.pretrain.network import FRAME_PIXELS, PATCH, build_model
from harness.world.pretrain.packed import hidden_states, moved, video_prefix, vision_features
from harness.world.pretrain.probes import TAPS, Probes
from harness.world.pretrain.prompts import prefix_ids
from harness.world.pretrain.shards import TOKENS

GRID = torch.tensor([STOPS, FRAME_PIXELS // PATCH, FRAME_PIXELS // PATCH])
VIDEO_RMS = 0.7
"""Size of a video token handed to the language model: comparable with what one layer adds to it."""


@dataclass(frozen=True)
class Stage:
    """A stretch of pre-training.

    Attributes:
        name: What is learnt.
        steps: Optimiser steps.
        scenes: Scenes per step.
        mix: Texts per scene; None trains the vision tower alone.
        vision: Learning-rate factor of the vision tower; 0 freezes it.
        rate: Muon learning rate (matched to AdamW's update size).
        decay: Share of the steps, at the end, over which the rate falls to `floor` of itself.
        floor: Final learning rate as a share of the full one.
        probes: Weight of the probe losses.
        until: End the stage early, as soon as the held-out questions reach this mean of the eight tasks.
    """

    name: str
    steps: int
    scenes: int
    mix: Mix | None
    vision: float = 0.0
    rate: float = 3e-3
    decay: float = 0.0
    floor: float = 0.05
    probes: float = 1.0
    until: float | None = None


class Trainer:
    """Model, heads, probes and optimisers of a pre-training run."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int, device: str = "cpu") -> None:
        self.tokenizer, self.seed, self.device = tokenizer, seed, torch.device(device)
        self.model = build_model(tokenizer, seed).to(self.device)
        self.heads, self.probes = VisionHeads().to(self.device), Probes().to(self.device)
        self.curriculum = Curriculum(tokenizer)
        self.categories = torch.tensor(self.curriculum.category_ids, device=self.device)
        self.prefix = video_prefix(self.model, prefix_ids(tokenizer, TOKENS), GRID[None])
        self.muon, self.adam = self._optimisers()
        self.stage, self.step = 0, 0
        self.ended: list[int] = []  # the last step of each stage that is over

    def _optimisers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        tower = list(self.model.model.visual.parameters())
        in_tower = {id(p) for p in tower}
        embedding = self.model.model.language_model.embed_tokens.weight
        language = [p for p in self.model.parameters() if id(p) not in in_tower]
        matrices = [p for p in language if p.ndim == 2 and p is not embedding]
        others = [p for p in language if p.ndim != 2 or p is embedding]
        groups = [{"params": [p for p in tower if p.ndim == 2], "part": "vision"}, {"params": matrices, "part": "text"}]
        muon = torch.optim.Muon(groups, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        rest = [
            {"params": [p for p in tower if p.ndim != 2] + list(self.heads.parameters()), "part": "vision"},
            {"params": others + list(self.probes.parameters()), "part": "text"},
        ]
        return muon, torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0)

    def next_stage(self) -> None:
        """Go to the next stage, with fresh optimisers and a warm-up of its own."""
        self.ended.append(self.step)
        self.stage, self.step = self.stage + 1, 0
        self.muon, self.adam = self._optimisers()

    def set_rates(self, stage: Stage) -> None:
        """Warm up over 30 steps, hold, then decay linearly over the last part of the stage."""
        done = self.step / stage.steps
        scale = min(1.0, (self.step + 1) / 30)
        if stage.decay and done > 1 - stage.decay:
            scale *= max(stage.floor, (1 - done) / stage.decay)
        for optimiser, share in ((self.muon, 1.0), (self.adam, 0.6)):
            for group in optimiser.param_groups:
                factor = stage.vision if group["part"] == "vision" else float(stage.mix is not None)
                group["lr"] = stage.rate * share * scale * factor

    def half_precision(self) -> torch.autocast:
        """bfloat16 where it is safe."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def train_step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """One optimiser step; returns the losses, still on the device."""
        self.set_rates(stage)
        torch.manual_seed(hash((self.seed, self.stage, self.step)) % 2**31)  # the noise of this step, also after a stop
        here: Batch = moved(batch, self.device)
        with self.half_precision():
            with torch.set_grad_enabled(stage.vision > 0):
                video = vision_features(self.model, to_patches(here.frames, PIXEL_NOISE), GRID)
            losses: dict[str, Tensor] = {}
            if stage.vision > 0:
                read = self.heads(video.view(len(here.frames), TOKENS, -1), self.category_embeddings())
                losses.update(vision_losses(read, here.vision))
            if here.texts is not None:
                losses.update(self._text_losses(video, here.texts, stage))
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        for optimiser in (self.muon, self.adam):
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        self._update(stage)
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def _update(self, stage: Stage) -> None:
        parameters = [p for group in self.adam.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.muon.step()
        self.adam.step()

    def category_embeddings(self) -> Tensor:
        return self.model.model.language_model.embed_tokens.weight[self.categories]

    def _text_losses(self, video: Tensor, texts: Texts, stage: Stage) -> dict[str, Tensor]:
        hidden, taps = hidden_states(self.model, texts.pack, video, TAPS)
        loss = F.cross_entropy(self.model.lm_head(hidden[texts.asked]).float(), texts.wanted)
        probes = self.probes.losses(taps, texts.targets)
        return {"text": loss, **{name: stage.probes * value for name, value in probes.items()}}

    def settle_video(self, frames: NDArray[np.uint8]) -> None:
        """Rescale the tower's last layer so that video tokens have a root mean square of VIDEO_RMS.

        Read-outs normalise their input, so during the vision stage the scale drifts freely.
        """
        last = self.model.model.visual.merger.mlp[-1]
        with torch.no_grad():
            pixels = to_patches(torch.from_numpy(frames).to(self.device))
            size = vision_features(self.model, pixels, GRID).square().mean().sqrt()
            last.weight.mul_(VIDEO_RMS / size)
            last.bias.mul_(VIDEO_RMS / size)

    def save(self, path: Path) -> None:
        """Write a checkpoint under a temporary name and rename it; at the start of a stage without optimisers."""
        state = {name: module.state_dict() for name, module in self._modules()}
        if self.step:
            state.update(muon=self.muon.state_dict(), adam=self.adam.state_dict())
        temporary = path.with_suffix(".tmp")
        torch.save({**state, "stage": self.stage, "step": self.step, "ended": self.ended}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: Mapping[str, Any] = torch.load(path, weights_only=True, map_location=self.device)
        for name, module in self._modules():
            module.load_state_dict(state[name])
        self.muon, self.adam = self._optimisers()
        self.stage, self.step, self.ended = state["stage"], state["step"], list(state["ended"])
        if self.step:
            self.muon.load_state_dict(state["muon"])
            self.adam.load_state_dict(state["adam"])

    def _modules(self) -> tuple[tuple[str, nn.Module], ...]:
        return ("model", self.model), ("heads", self.heads), ("probes", self.probes)
