"""The score table of a model folder: a split's videos, official wording, greedy decoding, the benchmark's scorer."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import pandas as pd
import torch
from scipy.stats import bootstrap

from harness.config.sections import ModelSection
from harness.data.encode import PromptEncoder
from harness.data.video.cache import FrameCache
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.errors import UserError
from harness.models.families import encode_video
from harness.models.loading import LoadedModel, load_model
from harness.vsibench.records import Record
from harness.vsibench.scorers import SCORERS
from harness.world.audit import blind_scores
from harness.world.build import SPLITS, build_split
from harness.world.floor_plan import answer
from harness.world.geometry import Floats
from harness.world.pretrain.dense import floor_plan
from harness.world.pretrain.shards import SETTINGS
from harness.world.pretrain.stages import RECIPE
from harness.world.pretrain.trainer import Trainer
from harness.world.questions import DATASET, Raw

NEW_TOKENS = 16


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
        bootstrap over scenes) and, with ``tower``, ceiling (see ``dense.floor_plan``); and the share of
        answers that could not be parsed.

    Raises:
        UserError: The model cannot be loaded, or ``tower`` is no such checkpoint, or not of this model.
    """
    model = load_model(ModelSection(name=str(folder), tuning="full", precision="fp32"), torch.device("cpu"))
    trainer = None if tower is None else _load_tower(tower, model)
    root = build_split(split, world, scenes, workers=workers)
    asked = [SPLITS[split].questions(index) for index in range(scenes)]
    fit = [record for index in range(blind) for record in SPLITS["train"].questions(index)]
    rows = _scored(asked, model, root, trainer)
    means = rows.groupby("question_type")
    table = blind_scores(fit, [record for records in asked for record in records])
    table["base"] = means["base"].mean()
    table[["low", "high"]] = means[["scene", "base"]].apply(_interval)
    if trainer is not None:
        table["ceiling"] = means["ceiling"].mean()
    return table, 1 - float(rows["parsed"].mean())


@torch.no_grad()
def _scored(asked: list[list[Raw]], model: LoadedModel, root: Path, tower: Trainer | None) -> pd.DataFrame:
    """A row per question: scene, question_type, base and ceiling (0 to 100), parsed."""
    policy, official = Policy(*model), SCORERS["official"]
    frames = FrameCache(root / "frames", SETTINGS)
    encoder = PromptEncoder(model.tokenizer, policy.base.config.video_token_id, frames, SETTINGS.merge_size)
    sampler = TransformersSampler(policy, batch=64)
    rows = []
    for scene, raw in enumerate(asked):
        path = root / DATASET / f"{raw[0]['scene_name']}.mp4"
        prompts = [encoder.encode(Record(**one), "official", path) for one in raw]
        answers = sampler.sample(prompts, 1, temperature=0.0, max_new_tokens=NEW_TOKENS, seed=0)
        by_geometry = [""] * len(raw)
        if tower is not None:
            tokens = encode_video(tower.model, prompts[0].video, tower.device)[0]
            plan = floor_plan(tower.heads(tokens, tower.category_embeddings()))
            by_geometry = [answer(one, plan) for one in raw]
        for prompt, (given,), computed in zip(prompts, answers, by_geometry, strict=True):
            record, base = prompt.record, official.score(given.text, prompt.record)
            ceiling = official.score(computed, record).score
            rows.append((scene, record.question_type, 100 * base.score, 100 * ceiling, base.parsed))
    return pd.DataFrame(rows, columns=["scene", "question_type", "base", "ceiling", "parsed"])


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
    if any(stage.mix is not None for stage in RECIPE[: trainer.stage + (trainer.step > 0)]):
        raise UserError(f"`--tower {path}`: a checkpoint of a later stage; give after-vision.pt")
    weights = model.model.state_dict()
    for name, weight in trainer.model.state_dict().items():
        if ".visual." in name and not torch.equal(weight.bfloat16(), weights[name].bfloat16()):
            raise UserError(f"`--tower {path}`: not the tower of this model (`{name}` differs); give its own run's")
    return trainer


def _interval(scores: pd.DataFrame) -> pd.Series:
    """95% percentile interval of a type's mean, resampling scenes."""
    by_scene = scores.groupby("scene")["base"].agg(["sum", "count"]).to_numpy(float)

    def mean(total: Floats, count: Floats, axis: int) -> Floats:
        return total.sum(axis) / count.sum(axis)

    found = bootstrap(by_scene.T, mean, paired=True, method="percentile", n_resamples=2_000, rng=0)
    return pd.Series(found.confidence_interval, index=["low", "high"])
