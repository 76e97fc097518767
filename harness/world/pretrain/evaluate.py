"""Held-out curves during pre-training: the read-outs, the loss on texts, and greedy answers scored by the benchmark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from harness.data.encode import EncodedPrompt
from harness.data.video.frames import process_frames
from harness.engine.sampler import TransformersSampler
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.world.pretrain.curriculum import Mix, make_batch
from harness.world.pretrain.dense import vision_scores, vision_targets
from harness.world.pretrain.shards import SETTINGS, Example
from harness.world.pretrain.trainer import Trainer
from harness.world.questions import DATASET

Frames = NDArray[np.uint8]
_NEW_TOKENS = 12
_SCENES = 10


def evaluate_forms(
    trainer: Trainer, frames: Frames, examples: Sequence[Example], forms: Sequence[str]
) -> dict[str, tuple[float, int]]:
    """Mean score (0 to 100) and number of questions per "type/form", of the first question of each type.

    The benchmark's own rule scores its own wording; answers in other forms, of which it reads the first
    word alone, are scored by the tolerant rule.
    """
    sampler = TransformersSampler(trainer.policy, batch=160)
    scores: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(examples), _SCENES):
        clips = zip(frames[start : start + _SCENES], examples[start : start + _SCENES], strict=True)
        prompts = [prompt for clip, example in clips for prompt in _prompts(trainer, clip, example, forms)]
        answers = sampler.sample(prompts, 1, temperature=0.0, max_new_tokens=_NEW_TOKENS, seed=0)
        for prompt, (answer,) in zip(prompts, answers, strict=True):
            record, form = prompt.record, prompt.record.question
            scorer = SCORERS["official" if form == "official" else "tolerant"]
            scores[f"{record.question_type}/{form}"].append(scorer.score(answer.text, record).score)
    return {key: (100 * float(np.mean(values)), len(values)) for key, values in sorted(scores.items())}


def _prompts(trainer: Trainer, clip: Frames, example: Example, forms: Sequence[str]) -> Iterator[EncodedPrompt]:
    """The first question of each type about a scene, in each form; its record has only its name and type."""
    video = process_frames(np.array(clip), SETTINGS)
    firsts = {question.type: question for question in reversed(example.questions)}
    for kind, question in firsts.items():
        for form in (form for form in forms if form in question.forms):
            ids, start = question.forms[form]
            record = Record(
                id=f"{example.seed}/{kind}/{form}",
                dataset=DATASET,
                scene_name=str(example.seed),
                question_type=kind,
                question=form,
                ground_truth=trainer.policy.tokenizer.decode(ids[start:].tolist(), skip_special_tokens=True),
            )
            yield trainer.prompt(ids[:start].tolist(), video, record, record.key)


@torch.no_grad()
def evaluate_dense(trainer: Trainer, frames: Frames, examples: Sequence[Example]) -> dict[str, float]:
    """Held-out scores of the vision read-outs (see ``dense.vision_scores``)."""
    with trainer.policy.autocast():
        read = trainer.heads(trainer.see(torch.from_numpy(np.array(frames))), trainer.category_embeddings())
    return vision_scores({name: value.float().cpu() for name, value in read.items()}, vision_targets(examples))


@torch.no_grad()
def evaluate_texts(
    trainer: Trainer, frames: Frames, examples: Sequence[Example], mix: Mix
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Teacher-forced (nats per token, accuracy per token) by kind of text, and R2 of the probes."""
    batch = make_batch(frames, examples, mix, trainer.curriculum, np.random.default_rng(0))
    with trainer.policy.autocast():
        logits, labels, streams = trainer.read(trainer.see(batch.frames), batch)
    nats = F.cross_entropy(logits, labels, reduction="none").cpu().numpy()
    right = (logits.argmax(-1) == labels).cpu().numpy()
    of = np.array([text.kind for scene in batch.texts for text in scene for _ in text.supervised])
    kinds = sorted(set(of.tolist()))
    table = {kind: (float(nats[of == kind].mean()), float(right[of == kind].mean())) for kind in kinds}
    return table, trainer.probes.r2(streams, batch.truths)
