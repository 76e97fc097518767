"""Held-out curves during pre-training: greedy answers on the fast path, scored as the benchmark scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.vsibench.types import NUMERIC_TYPES
from harness.world.pretrain.batches import Texts, make_batch
from harness.world.pretrain.curriculum import Mix
from harness.world.pretrain.dense import to_patches, vision_scores, vision_targets
from harness.world.pretrain.packed import hidden_states, moved, pack, vision_features
from harness.world.pretrain.probes import TAPS
from harness.world.pretrain.shards import TOKENS, Example
from harness.world.pretrain.trainer import GRID, Trainer

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_SCENES = 10


def score(question_type: str, answer: str, truth: str) -> float:
    """Mean relative accuracy of a number (arXiv 2412.14171, eq. 1), else whether the texts are equal."""
    if question_type not in NUMERIC_TYPES:
        return float(answer.strip() == truth)
    try:
        error = abs(float(answer) - float(truth)) / float(truth)
    except ValueError:
        return 0.0
    return float((error <= 1 - THRESHOLDS + 1e-9).mean())


@torch.no_grad()
def greedy(trainer: Trainer, video: Tensor, prompts: Sequence[Sequence[list[int]]], limit: int = 12) -> list[str]:
    """Greedy answers to the prompts of several scenes, in order; prompts that ended leave the batch."""
    end = trainer.model.config.text_config.eos_token_id
    owner = [k for k, scene in enumerate(prompts) for _ in scene]
    texts = [list(prompt) for scene in prompts for prompt in scene]
    answers: list[list[int]] = [[] for _ in texts]
    live = list(range(len(texts)))
    for _ in range(limit):
        batch = pack(trainer.prefix, [texts[i] + answers[i] for i in live], [owner[i] for i in live], len(prompts))
        ends = batch.starts + torch.tensor([len(texts[i]) + len(answers[i]) for i in live]) - 1
        hidden, _ = hidden_states(trainer.model, moved(batch, trainer.device), video)
        tokens = trainer.model.lm_head(hidden[ends.to(trainer.device)]).argmax(-1).tolist()
        for i, token in zip(live, tokens, strict=True):
            answers[i].append(token)
        live = [i for i in live if answers[i][-1] != end]
        if not live:
            break
    return [trainer.tokenizer.decode([t for t in answer if t != end]) for answer in answers]


@torch.no_grad()
def evaluate_forms(
    trainer: Trainer, frames: NDArray[np.uint8], examples: Sequence[Example], forms: Sequence[str], per_type: int = 1
) -> dict[str, tuple[float, int]]:
    """Mean score and number of questions per "type/form"."""
    end = trainer.tokenizer.eos_token or ""
    scores: dict[str, list[float]] = defaultdict(list)
    for begin in range(0, len(examples), _SCENES):
        part = slice(begin, begin + _SCENES)
        prompts, keys, truths = [], [], []
        for example in examples[part]:
            asked: dict[str, int] = defaultdict(int)
            scene = []
            for question in example.questions:
                asked[question.type] += 1
                for form in forms:
                    if form in question.forms and asked[question.type] <= per_type:
                        ids, start = question.forms[form]
                        scene.append(ids[:start].tolist())
                        keys.append((question.type, form))
                        truths.append(trainer.tokenizer.decode(ids[start:].tolist()).removesuffix(end))
            prompts.append(scene)
        with trainer.half_precision():
            video = _features(trainer, frames[part])
            answers = greedy(trainer, video, prompts)
        for (kind, form), answer, truth in zip(keys, answers, truths, strict=True):
            scores[f"{kind}/{form}"].append(score(kind if form != "think" else "", answer, truth))
    return {key: (100 * float(np.mean(values)), len(values)) for key, values in sorted(scores.items())}


@torch.no_grad()
def evaluate_dense(trainer: Trainer, frames: NDArray[np.uint8], examples: Sequence[Example]) -> dict[str, float]:
    """Held-out scores of the vision read-outs (see ``dense.vision_scores``)."""
    with trainer.half_precision():
        video = _features(trainer, frames)
        read = trainer.heads(video.view(len(examples), TOKENS, -1), trainer.category_embeddings())
    return vision_scores({name: value.float().cpu() for name, value in read.items()}, vision_targets(examples))


def _features(trainer: Trainer, frames: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(np.array(frames)).to(trainer.device)
    return vision_features(trainer.model, to_patches(pixels), GRID)


@torch.no_grad()
def evaluate_texts(
    trainer: Trainer, frames: NDArray[np.uint8], examples: Sequence[Example], mix: Mix, seed: int = 0
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Teacher-forced (nats per token, accuracy per token) by kind of text, and R2 of the probes."""
    batch, texts = make_batch(frames, examples, mix, trainer.curriculum, trainer.prefix, np.random.default_rng(seed))
    here: Texts = moved(batch.texts, trainer.device)
    with trainer.half_precision():
        hidden, taps = hidden_states(trainer.model, here.pack, _features(trainer, frames), TAPS)
        logits = trainer.model.lm_head(hidden[here.asked]).float()
    nats = torch.nn.functional.cross_entropy(logits, here.wanted, reduction="none").cpu()
    right = (logits.argmax(-1) == here.wanted).float().cpu()
    kinds = np.array([text.kind for text in texts for _ in text.supervised])
    table = {}
    for kind in sorted(set(kinds.tolist())):
        chosen = torch.from_numpy(kinds == kind)
        table[kind] = (nats[chosen].mean().item(), right[chosen].mean().item())
    return table, trainer.probes.r2(taps, here.targets)
