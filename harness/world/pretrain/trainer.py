"""One pre-training step and its optimisers: vision read-outs, probes and the language-model loss together.

Texts are packed by the engine: the video of a scene is a prompt, and the texts about it are its completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data.encode import VIDEO_TOKEN_TYPE, EncodedPrompt
from harness.data.video.frames import ProcessedVideo, cut_patches, process_frames
from harness.engine.packing import pack
from harness.engine.policy import Policy
from harness.io import atomic_file
from harness.models.families import encode_video
from harness.vsibench.records import Record
from harness.world.pretrain.curriculum import BEFORE_TEXT, Batch, Curriculum, Stage
from harness.world.pretrain.network import build_model
from harness.world.pretrain.readouts import PROBES, Probes, VisionHeads, vision_losses
from harness.world.pretrain.shards import SETTINGS, TOKENS
from harness.world.renderer import FRAME_SIZE

VIDEO_RMS = 0.7
"""Size of a video token handed to the language model: comparable with what one layer adds to it."""
PIXEL_NOISE = 2.0
"""Standard deviation, of 255, of the noise added to training frames: about the error of the codec."""
_FLOOR = 0.05
"""Final learning rate of a stage that decays, as a share of the full one."""
_STATEFUL = ("model", "heads", "probes", "muon", "adam")
"""What a checkpoint holds the state of."""


class Trainer:
    """Model, heads, probes and optimisers of a pre-training run."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self.curriculum = Curriculum()
        self.seed, self.device = seed, torch.device(device)
        self.model = build_model(seed).to(self.device)
        self.policy = Policy(self.model, self.curriculum.tokenizer, self.device, "bf16")
        self.heads, self.probes = VisionHeads().to(self.device), Probes().to(self.device)
        self._before_text: list[int] = self.curriculum.tokenizer.encode(BEFORE_TEXT)
        self.stage, self.step = 0, 0
        self.ended: list[int] = []  # the last step of each stage that is over
        self._new_optimisers()
        black = process_frames(np.zeros((SETTINGS.frames, FRAME_SIZE, FRAME_SIZE, 3), np.uint8), SETTINGS)
        record = Record(id=0, dataset="world", scene_name="-", question_type="-", question="-", ground_truth="-")
        with torch.no_grad():
            (blank,) = self.policy.prompt_states([self.prompt([], black, record, "blank")]).values()
        # Text after a video continues the positions of its last token, not of its last frame as generation does.
        self._blank = blank._replace(next_position=int(blank.positions[0, -1]) + 1)

    def _new_optimisers(self) -> None:
        """Muon for matrices, AdamW for everything else; only AdamW's gradients are clipped."""
        model, embedding = self.model.model, self.model.model.language_model.embed_tokens.weight
        matrices, others = [], []
        for part, network, read in (("vision", model.visual, self.heads), ("text", model.language_model, self.probes)):
            parameters = list(network.parameters())
            flat = [p for p in parameters if p.ndim != 2 or p is embedding]
            matrices.append({"params": [p for p in parameters if p.ndim == 2 and p is not embedding], "part": part})
            others.append({"params": [*flat, *read.parameters()], "part": part})
        self.muon = torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)

    def next_stage(self) -> None:
        """Start the next stage, with fresh optimisers and a warm-up of its own."""
        self.ended.append(self.step)
        self.stage, self.step = self.stage + 1, 0
        self._new_optimisers()

    def train_step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """One optimiser step; returns the losses, still on the device."""
        self._set_rates(stage)
        torch.manual_seed(hash((self.seed, self.stage, self.step)) % 2**31)  # this step's noise, also after a stop
        with self.policy.autocast():
            with torch.set_grad_enabled(stage.vision > 0):
                video = self.see(batch.frames, PIXEL_NOISE)
            losses: dict[str, Tensor] = {}
            if stage.vision > 0:
                target = {name: values.to(self.device) for name, values in batch.vision.items()}
                losses.update(vision_losses(self.heads(video, self.category_embeddings()), target))
            if batch.texts:
                logits, labels, streams = self.read(video, batch)
                losses["text"] = F.cross_entropy(logits, labels)
                losses.update(self.probes.losses(streams, batch.truths))
        for optimiser in (self.muon, self.adam):
            optimiser.zero_grad(set_to_none=True)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        nn.utils.clip_grad_norm_([p for group in self.adam.param_groups for p in group["params"]], 1.0)
        self.muon.step()
        self.adam.step()
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def _set_rates(self, stage: Stage) -> None:
        """Warm up over 30 steps, hold, then decay linearly over the last part of the stage."""
        left = (1 - self.step / stage.steps) / max(stage.decay, 1e-9)  # of the decay; more than 1 before it
        scale = min(1.0, (self.step + 1) / 30) * min(1.0, max(_FLOOR, left))
        for optimiser, share in ((self.muon, 1.0), (self.adam, 0.6)):
            for group in optimiser.param_groups:
                factor = stage.vision if group["part"] == "vision" else float(stage.questions > 0)
                group["lr"] = stage.rate * share * scale * factor

    def prompt(self, ids: Sequence[int], video: ProcessedVideo, record: Record, form: str) -> EncodedPrompt:
        """A prompt from the token ids that follow its video, which ask a record's question in a form."""
        tokens = torch.tensor([*self._before_text, *ids])
        kinds = (tokens == self.model.config.video_token_id).long() * VIDEO_TOKEN_TYPE
        return EncodedPrompt(f"{record.key}/{form}", record, form, tokens, kinds, video)

    def category_embeddings(self) -> Tensor:
        """(categories, hidden) embeddings of the categories' tokens."""
        return self.policy.embed(torch.tensor(self.curriculum.category_ids, device=self.device))

    def see(self, frames: Tensor, noise: float = 0.0) -> Tensor:
        """(n, TOKENS, hidden) video tokens of (n, 2 * STOPS, S, S, 3) frames of 0 to 255.

        A patch attends within its frame only, so all clips go through the tower as one long video.
        """
        pixels = frames.to(self.device).flatten(0, 1).float()
        if noise:
            pixels = pixels + noise * torch.randn_like(pixels)
        patches, grid = cut_patches(pixels.permute(0, 3, 1, 2), SETTINGS)
        features = encode_video(self.model, ProcessedVideo(patches, grid, digest=""), self.device)
        return features[0].view(len(frames), TOKENS, -1)

    def read(self, video: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Run a batch's texts after the (n, TOKENS, hidden) video tokens of their scenes.

        Returns:
            (m, vocabulary) logits of the supervised tokens, these (m,) tokens, and (k, hidden) what each probe reads.
        """
        blank, embeddings = self._blank, self.policy.embed(self._blank.ids.to(self.device))
        slots = blank.visual.to(self.device)[:, None]
        shown = [embeddings.masked_scatter(slots, tokens.to(embeddings.dtype)) for tokens in video]
        states = {str(k): blank._replace(video=str(k), embeddings=inputs) for k, inputs in enumerate(shown)}
        completions = {str(k): [(0, text.ids) for text in scene] for k, scene in enumerate(batch.texts)}
        rows = pack(states, completions, 0, self.policy.embed)
        taps: list[Tensor] = []
        layers = self.policy.language_model.layers
        hooks = [layer.register_forward_hook(lambda *call: taps.append(call[-1])) for layer in layers]
        hidden = self.policy.forward_packed(rows).flatten(0, 1)
        for hook in hooks:
            hook.remove()
        streams = {}
        for name, (layer, _) in PROBES.items():
            prefix, suffix = taps[layer].tensor_split([rows.prefix_length], 1)
            if name == "stop":
                streams[name] = prefix[:, slots[:-1, 0]].flatten(0, 1)
            elif name == "summary":
                streams[name] = suffix[:, 0]  # the token that ends the video
            elif name in batch.places:  # a token's own place is the one that predicts the next token of its text
                streams[name] = suffix.flatten(0, 1)[rows.source[batch.places[name].to(self.device) + 1]]
        supervised = batch.supervised.to(self.device)
        logits = self.model.lm_head(hidden[rows.source[supervised]]).float()
        return logits, rows.labels[supervised], streams

    @torch.no_grad()
    def settle_video(self, frames: Tensor) -> None:
        """Rescale the tower's last layer so that video tokens have a root mean square of VIDEO_RMS.

        Read-outs normalise their input, so during the vision stage the scale drifts freely.
        """
        size = self.see(frames).square().mean().sqrt()
        for parameter in self.model.model.visual.merger.mlp[-1].parameters():
            parameter.mul_(VIDEO_RMS / size)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        with atomic_file(path) as file:
            torch.save({**state, "stage": self.stage, "step": self.step, "ended": self.ended}, file)

    def load(self, path: Path) -> None:
        """Restore a checkpoint."""
        state: Mapping[str, Any] = torch.load(path, weights_only=True, map_location=self.device)
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.stage, self.step, self.ended = state["stage"], state["step"], list(state["ended"])
