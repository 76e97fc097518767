"""Scores of a model: held-out curves during pre-training, and the table of a model folder on a split's videos."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from harness.config.sections import ModelSection
from harness.data.encode import EncodedPrompt, PromptEncoder
from harness.data.video.cache import FrameCache
from harness.data.video.frames import process_frames
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.errors import UserError
from harness.models.families import encode_video
from harness.models.loading import LoadedModel, load_model
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS, ItemScore
from harness.world.audit import blind_scores
from harness.world.build import SPLITS, build_split
from harness.world.floor_plan import FloorPlan, answer
from harness.world.pretrain.curriculum import Stage, forms_of
from harness.world.pretrain.readouts import floor_plan, vision_scores
from harness.world.pretrain.shards import SETTINGS, Example
from harness.world.pretrain.trainer import Trainer
from harness.world.questions import DATASET, Raw
from harness.world.renderer import Frames

_NEW_TOKENS = 16
_TEXT_SCENES = 16
"""Held-out scenes whose texts are read."""


@torch.no_grad()
def held_out(trainer: Trainer, frames: Frames, examples: Sequence[Example], stage: Stage) -> dict[str, Any]:
    """A point of the held-out curves.

    Returns:
        vision: scores of the vision read-outs (see ``readouts.vision_scores``); and, once there are texts,
        texts: teacher-forced (nats per token, accuracy per token) by kind of text, on the first scenes;
        probes: R2 of the probes there; answers: see :func:`evaluate_forms`.
    """
    with trainer.policy.autocast():
        video = trainer.see(torch.from_numpy(np.array(frames)))
        read = trainer.heads(video, trainer.category_embeddings())
        target = default_collate([example.vision for example in examples])
        found = {"vision": vision_scores({name: value.float().cpu() for name, value in read.items()}, target)}
        if not stage.questions:
            return found
        rng = np.random.default_rng(0)
        batch = trainer.curriculum.batch(frames[:_TEXT_SCENES], examples[:_TEXT_SCENES], stage, rng)
        logits, labels, streams = trainer.read(video[:_TEXT_SCENES], batch)
    kinds = [text.kind for scene in batch.texts for text in scene for _ in text.supervised]
    nats, right = F.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1) == labels
    rows = pd.DataFrame({"nats": nats.cpu(), "right": right.cpu()}).groupby(kinds).mean()
    texts = {str(row[0]): (float(row[1]), float(row[2])) for row in rows.itertuples()}
    answers = evaluate_forms(trainer, frames, examples, ("official", "words"))
    return {**found, "texts": texts, "probes": trainer.probes.r2(streams, batch.truths), "answers": answers}


def evaluate_forms(
    trainer: Trainer, frames: Frames, examples: Sequence[Example], forms: Sequence[str]
) -> dict[str, tuple[float, int]]:
    """Mean score (0 to 100) and number of questions per "type/form", of the first question of each type.

    The benchmark's own rule scores its own wording; answers in other forms, of which it reads the first
    word alone, are scored by the tolerant rule.
    """
    prompts = []
    for clip, example in zip(frames, examples, strict=True):
        video = process_frames(np.array(clip), SETTINGS)
        firsts = {question["question_type"]: question for question in reversed(example.questions)}
        for question, form in itertools.product(firsts.values(), forms):
            if form in forms_of(question):
                record, ids, _ = trainer.curriculum.encode(question, form)
                prompts.append(trainer.prompt(ids, video, record, form))
    scores: dict[str, list[float]] = defaultdict(list)
    for prompt, (score, _) in zip(prompts, _ask(trainer.policy, prompts), strict=True):
        scores[f"{prompt.record.question_type}/{prompt.mode}"].append(score)
    return {key: (100 * float(np.mean(values)), len(values)) for key, values in sorted(scores.items())}


def _ask(policy: Policy, prompts: Sequence[EncodedPrompt]) -> list[ItemScore]:
    """The scores of greedy answers."""
    sampler = TransformersSampler(policy, batch=160)
    answers = sampler.sample(prompts, 1, temperature=0.0, max_new_tokens=_NEW_TOKENS, seed=0)
    rules = [SCORERS["official" if prompt.mode == "official" else "tolerant"] for prompt in prompts]
    return [rule.score(one.text, p.record) for rule, (one,), p in zip(rules, answers, prompts, strict=True)]


def measure(
    folder: Path,
    world: Path,
    split: str = "test",
    scenes: int = 200,
    blind: int = 500,
    workers: int = 2,
    tower: Path | None = None,
) -> tuple[pd.DataFrame, float]:
    """Score a model folder on a split's videos.

    Args:
        folder: The model folder.
        world: Where the world's splits are kept; missing videos are made.
        split: The split to answer.
        scenes: How many of its scenes, from the first.
        blind: Scenes of the train split on which the constant and the text prior are fitted.
        workers: Processes that make missing videos.
        tower: Checkpoint at the end of the model's vision stage, for the ceiling by geometry.

    Returns:
        A row per question type with chance, constant, text_prior, n, base, low and high (95% interval,
        bootstrap over scenes) and, with ``tower``, ceiling (see ``readouts.floor_plan``); and the share of
        answers that could not be parsed.

    Raises:
        UserError: The model cannot be loaded, or ``tower`` is no such checkpoint, or not of this model.
    """
    model = load_model(ModelSection(name=str(folder), tuning="full", precision="fp32"), torch.device("cpu"))
    trainer = None if tower is None else _load_tower(tower, model)
    root = build_split(split, world, scenes, workers=workers)
    asked = [record for index in range(scenes) for record in SPLITS[split].questions(index)]
    fit = [record for index in range(blind) for record in SPLITS["train"].questions(index)]
    policy, videos = Policy(*model), FrameCache(root / "frames", SETTINGS)
    encoder = PromptEncoder(model.tokenizer, policy.base.config.video_token_id, videos, SETTINGS.merge_size)
    clips = [root / DATASET / f"{one['scene_name']}.mp4" for one in asked]
    prompts = [encoder.encode(Record(**one), "official", clip) for one, clip in zip(asked, clips, strict=True)]
    rows = pd.DataFrame(asked).join(pd.DataFrame(_ask(policy, prompts)))
    types = rows.groupby("question_type")
    table = blind_scores(fit, asked)
    table["base"] = 100 * types["score"].mean()
    table[["low", "high"]] = 100 * types[["scene_name", "score"]].apply(_interval)
    if trainer is not None:
        rows["ceiling"] = _by_geometry(trainer, asked, prompts)
        table["ceiling"] = 100 * rows.groupby("question_type")["ceiling"].mean()
    return table, 1 - float(rows["parsed"].mean())


@torch.no_grad()
def _by_geometry(tower: Trainer, asked: Sequence[Raw], prompts: Sequence[EncodedPrompt]) -> list[float]:
    """The scores of answers by geometry from the tower's read-outs of each prompt's video."""
    plans: dict[str, FloorPlan] = {}
    for video in {prompt.video.digest: prompt.video for prompt in prompts}.values():
        tokens = encode_video(tower.model, video, tower.device)[0]
        plans[video.digest] = floor_plan(tower.heads(tokens, tower.category_embeddings()))
    answers = [answer(raw, plans[prompt.video.digest]) for raw, prompt in zip(asked, prompts, strict=True)]
    return [SCORERS["official"].score(text, p.record).score for text, p in zip(answers, prompts, strict=True)]


def _load_tower(path: Path, model: LoadedModel) -> Trainer:
    """The model's tower and its read-outs as they were when the vision stage ended.

    A later checkpoint will not do: the word embeddings, which are part of the read-outs, have moved on.
    """
    trainer = Trainer(seed=0)
    try:
        trainer.load(path)
    except (OSError, EOFError, KeyError, RuntimeError, UnpicklingError) as error:
        raise UserError(
            f"`--tower {path}`: not a checkpoint of `harness world pretrain` ({type(error).__name__}); "
            "give the after-vision.pt in its --work folder"
        ) from error
    if (trainer.stage, trainer.step) > (1, 0):
        raise UserError(f"`--tower {path}`: a checkpoint of a later stage; give after-vision.pt")
    weights = model.model.state_dict()
    for name, weight in trainer.model.state_dict().items():
        if ".visual." in name and not torch.equal(weight.bfloat16(), weights[name].bfloat16()):
            raise UserError(f"`--tower {path}`: not the tower of this model (`{name}` differs); give its own run's")
    return trainer


def _interval(scores: pd.DataFrame) -> pd.Series:
    """95% percentile interval of a type's mean, resampling scenes."""
    by_scene = scores.groupby("scene_name")["score"].agg(["sum", "count"]).to_numpy(float)
    drawn = by_scene[np.random.default_rng(0).integers(len(by_scene), size=(2_000, len(by_scene)))].sum(1)
    return pd.Series(np.percentile(drawn[:, 0] / drawn[:, 1], (2.5, 97.5)), index=["low", "high"])
