"""One pre-training step and its optimisers: vision read-outs, probes and the language-model loss together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from harness.world.pretrain.curriculum import Curriculum, Mix, TrainingText
from harness.world.pretrain.dense import (
    PIXEL_NOISE,
    VisionHeads,
    to_patches,
    vision_losses,
    vision_targets,
)
from harness.world.pretrain.network import FRAME_PIXELS, PATCH, build_model
from harness.world.pretrain.packed import Pack, hidden_states, pack, video_prefix, vision_features
from harness.world.pretrain.probes import TAPS, Probes, ProbeTargets
from harness.world.pretrain.prompts import prefix_ids
from harness.world.pretrain.shards import TOKENS, Example
from harness.world.scenes import STOPS

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


class Trainer:
    """Model, heads, probes, optimisers and random state of a pre-training run."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self.tokenizer = tokenizer
        self.model = build_model(tokenizer, seed)
        self.heads, self.probes = VisionHeads(), Probes()
        self.curriculum = Curriculum(tokenizer)
        self.categories = torch.tensor(self.curriculum.category_ids)
        self.rng = np.random.default_rng(seed)
        self.prefix = video_prefix(self.model, prefix_ids(tokenizer, TOKENS), GRID[None])
        self.muon, self.adam = self._optimisers()
        self.stage, self.step = 0, 0

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

    def train_step(self, frames: NDArray[np.uint8], examples: Sequence[Example], stage: Stage) -> dict[str, float]:
        """One optimiser step on a batch of scenes; returns the losses."""
        self.set_rates(stage)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(stage.vision > 0):
                video = vision_features(self.model, to_patches(frames, PIXEL_NOISE), GRID)
            losses: dict[str, Tensor] = {}
            if stage.vision > 0:
                read = self.heads(video.view(len(examples), TOKENS, -1), self.category_embeddings())
                losses.update(vision_losses(read, vision_targets(examples)))
            if stage.mix is not None:
                losses.update(self._text_losses(video, examples, stage))
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        for optimiser in (self.muon, self.adam):
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        self._update(stage)
        self.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def _update(self, stage: Stage) -> None:
        parameters = [p for group in self.adam.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.muon.step()
        self.adam.step()

    def category_embeddings(self) -> Tensor:
        return self.model.model.language_model.embed_tokens.weight[self.categories]

    def _text_losses(self, video: Tensor, examples: Sequence[Example], stage: Stage) -> dict[str, Tensor]:
        assert stage.mix is not None
        drawn = [self.curriculum.draw(example, stage.mix, self.rng) for example in examples]
        batch, targets, texts = self.layout(drawn, examples)
        hidden, taps = hidden_states(self.model, batch, video, TAPS)
        asked, wanted = supervised(batch, texts)
        loss = F.cross_entropy(self.model.lm_head(hidden[asked]).float(), wanted)
        probes = self.probes.losses(taps, targets)
        return {"text": loss, **{name: stage.probes * value for name, value in probes.items()}}

    def layout(
        self, drawn: Sequence[Sequence[TrainingText]], examples: Sequence[Example]
    ) -> tuple[Pack, ProbeTargets, list[TrainingText]]:
        """Pack the texts of several scenes and say what the probes should read."""
        texts = [text for scene in drawn for text in scene]
        owner = [k for k, scene in enumerate(drawn) for _ in scene]
        batch = pack(self.prefix, [text.ids for text in texts], owner, len(examples))
        targets = ProbeTargets(
            batch.ids,
            batch.scene_of_token,
            batch.starts.tolist(),
            [text.relations for text in texts],
            [text.options for text in texts],
            examples,
            self.curriculum.category_ids,
            self.model.config.video_token_id,
        )
        return batch, targets, texts

    def settle_video(self, frames: NDArray[np.uint8]) -> None:
        """Rescale the tower's last layer so that video tokens have a root mean square of VIDEO_RMS.

        Read-outs normalise their input, so during the vision stage the scale drifts freely.
        """
        last = self.model.model.visual.merger.mlp[-1]
        with torch.no_grad():
            size = vision_features(self.model, to_patches(frames), GRID).square().mean().sqrt()
            last.weight.mul_(VIDEO_RMS / size)
            last.bias.mul_(VIDEO_RMS / size)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "probes": self.probes.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "rng": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
            "stage": self.stage,
            "step": self.step,
        }

    def save(self, path: Path) -> None:
        """Write a checkpoint under a temporary name and rename it."""
        temporary = path.with_suffix(".tmp")
        torch.save(self.state(), temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        state: Mapping[str, Any] = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.probes.load_state_dict(state["probes"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch"])
        self.stage, self.step = state["stage"], state["step"]


def supervised(batch: Pack, texts: Sequence[TrainingText]) -> tuple[Tensor, Tensor]:
    """Flat indices whose next token is supervised, and those tokens."""
    spots = torch.tensor([s + i for s, text in zip(batch.starts.tolist(), texts, strict=True) for i in text.supervised])
    return spots - 1, batch.ids[spots]


def finite(losses: Mapping[str, float]) -> bool:
    """Whether no loss is NaN or infinite."""
    return all(math.isfinite(value) for value in losses.values())
