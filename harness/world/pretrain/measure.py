"""The score table of a model folder: mp4 files of a split, official wording, greedy, official scoring rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerBase, Qwen2VLForConditionalGeneration

from harness.data.video.decode import decode_frames
from harness.data.video.frames import VideoSettings, process_frames
from harness.errors import UserError
from harness.vsibench.prompts import prompt_text
from harness.vsibench.records import Record
from harness.world.audit import blind_scores
from harness.world.build import SPLITS, build_split
from harness.world.camera import STOPS
from harness.world.pretrain.evaluate import greedy, score
from harness.world.pretrain.folder import load_tokenizer
from harness.world.pretrain.geometry_ceiling import answer, floor_plan
from harness.world.pretrain.packed import vision_features
from harness.world.pretrain.prompts import TURN, prefix_ids
from harness.world.pretrain.shards import TOKENS
from harness.world.pretrain.stages import RECIPE
from harness.world.pretrain.trainer import GRID, Trainer
from harness.world.questions import Raw
from harness.world.renderer import FRAME_SIZE

NEW_TOKENS = 16
_SETTINGS = VideoSettings(frames=2 * STOPS, min_pixels=28 * 28, max_pixels=FRAME_SIZE**2)
_SCENES = 10


def measure(
    folder: Path,
    world: Path,
    split: str = "test",
    scenes: int = 200,
    blind: int = 500,
    plain: int = 40,
    workers: int = 2,
    tower: Path | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Score a model folder on a split's videos.

    Args:
        folder: The model folder.
        world: Where the world's splits are kept; missing videos are made.
        split: The split to answer.
        scenes: Its first so many scenes.
        blind: Scenes of the train split on which the constant and the text prior are fitted.
        workers: Processes that make missing videos.
        plain: Questions that plain ``generate`` answers too, to check the fast path.
        tower: Checkpoint at the end of the model's vision stage, for the ceiling by geometry.

    Returns:
        A row per question type with chance, constant, text_prior, n, base, low and high (95% interval,
        bootstrap over scenes) and, with `tower`, ceiling (see ``geometry_ceiling``); and the checks: unparsable
        share, and questions on which plain transformers gave the same answer.

    Raises:
        UserError: `tower` is no such checkpoint, or not of this model.
    """
    trainer = Trainer(load_tokenizer(folder), seed=0)
    trainer.model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()
    eyes = None if tower is None else _load_tower(tower, trainer.model, trainer.tokenizer)
    root = build_split(split, world, scenes, workers=workers)
    asked = [SPLITS[split].questions(index) for index in range(scenes)]
    fit = [record for index in range(blind) for record in SPLITS["train"].questions(index)]
    table = blind_scores(fit, [record for records in asked for record in records])
    patches = [
        process_frames(
            decode_frames(root / "world" / f"{records[0]['scene_name']}.mp4", 2 * STOPS), _SETTINGS
        ).pixel_values
        for records in asked
    ]
    answers = _answers(trainer, patches, asked)
    rows = _scored(asked, answers)
    table["base"] = rows.groupby("question_type")["score"].mean()
    low, high = _bootstrap(rows)
    table["low"], table["high"] = low, high
    if eyes is not None:
        by_geometry = _scored(asked, _ceiling_answers(eyes, patches, asked))
        table["ceiling"] = by_geometry.groupby("question_type")["score"].mean()
    checks = {
        "unparsable": float(np.mean([not _parsable(a) for a in rows["answer"]])),
        "plain_equal": _plain_equal(trainer, patches, asked, answers, plain),
        "plain_n": plain,
    }
    return table, checks


def _scored(asked: Iterable[Sequence[Raw]], answers: Iterable[Sequence[str]]) -> pd.DataFrame:
    """A row per question: scene, question_type, answer and score (0 to 100)."""
    return pd.DataFrame(
        {
            "scene": scene,
            "question_type": record["question_type"],
            "answer": answer,
            "score": 100 * score(record["question_type"], answer, record["ground_truth"]),
        }
        for scene, (records, given) in enumerate(zip(asked, answers, strict=True))
        for record, answer in zip(records, given, strict=True)
    )


def _load_tower(path: Path, model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """The tower and its read-outs as they were when the vision stage ended.

    Args:
        path: ``after-vision.pt`` of the run that made the model.
        model: The model whose ceiling is asked for.
        tokenizer: Its tokenizer.

    Raises:
        UserError: No such checkpoint, one of a later stage (its word embeddings, which are part of the read-outs,
            have moved on), or one with another tower than the model's.
    """
    trainer = Trainer(tokenizer, seed=0)
    try:
        trainer.load(path)
    except (OSError, EOFError, KeyError, RuntimeError, UnpicklingError) as error:
        raise UserError(
            f"`--tower {path}`: not a checkpoint of `harness world pretrain` ({type(error).__name__}); "
            "give the after-vision.pt in its --work folder"
        ) from error
    if any(stage.mix is not None for stage in RECIPE[: trainer.stage + (trainer.step > 0)]):
        raise UserError(f"`--tower {path}`: a checkpoint of a later stage; give after-vision.pt")
    theirs = model.model.visual.state_dict()
    for name, weight in trainer.model.model.visual.state_dict().items():
        if not torch.equal(weight.bfloat16(), theirs[name].bfloat16()):
            raise UserError(f"`--tower {path}`: not the tower of this model (`{name}` differs); give its own run's")
    return trainer


@torch.no_grad()
def _ceiling_answers(
    tower: Trainer, patches: Sequence[torch.Tensor], asked: Sequence[Sequence[Raw]]
) -> Iterator[list[str]]:
    """Answers to each scene's questions from the tower's read-outs of its (TOKENS * 4, 1176) patches."""
    for video, records in zip(patches, asked, strict=True):
        tokens = vision_features(tower.model, video, GRID)
        plan = floor_plan(tower.heads(tokens, tower.category_embeddings()))
        yield [answer(record, plan) for record in records]


def _prompt(trainer: Trainer, record: dict[str, Any]) -> list[int]:
    return trainer.tokenizer.encode(prompt_text(Record(**record), "official") + TURN)


def _answers(
    trainer: Trainer, patches: Sequence[torch.Tensor], asked: Sequence[Sequence[dict[str, Any]]]
) -> list[list[str]]:
    answers: list[list[str]] = []
    for start in range(0, len(asked), _SCENES):
        part = asked[start : start + _SCENES]
        with torch.no_grad():
            video = vision_features(trainer.model, torch.cat(list(patches[start : start + _SCENES])), GRID)
        flat = greedy(trainer, video, [[_prompt(trainer, r) for r in records] for records in part], NEW_TOKENS)
        for records in part:
            answers.append(flat[: len(records)])
            flat = flat[len(records) :]
    return answers


@torch.no_grad()
def _plain_equal(
    trainer: Trainer,
    patches: Sequence[torch.Tensor],
    asked: Sequence[Sequence[dict[str, Any]]],
    answers: Sequence[Sequence[str]],
    count: int,
) -> int:
    """Of `count` questions spread over the scenes, how many plain ``generate`` answers the same."""
    pairs = [(s, q) for s, records in enumerate(asked) for q in range(len(records))]
    equal = 0
    for scene, question in pairs[:: max(1, len(pairs) // count)][:count]:
        ids = torch.tensor([prefix_ids(trainer.tokenizer, TOKENS) + _prompt(trainer, asked[scene][question])])
        out = trainer.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=patches[scene],
            video_grid_thw=GRID[None],
            mm_token_type_ids=(ids == trainer.model.config.video_token_id).int() * 2,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        text = trainer.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        equal += text == answers[scene][question]
    return equal


def _bootstrap(rows: pd.DataFrame, draws: int = 2_000) -> tuple[pd.Series, pd.Series]:
    """95% percentile interval of each type's mean, resampling scenes."""
    rng = np.random.default_rng(0)
    bounds: dict[str, tuple[float, float]] = {}
    for kind, part in rows.groupby("question_type"):
        by_scene = part.groupby("scene")["score"].agg(["sum", "count"]).to_numpy(float)
        index: NDArray[np.int64] = rng.integers(len(by_scene), size=(draws, len(by_scene)))
        drawn = by_scene[index].sum(1)
        low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
        bounds[str(kind)] = (float(low), float(high))
    frame = pd.DataFrame(bounds, index=["low", "high"]).T
    return frame["low"], frame["high"]


def _parsable(answer: str) -> bool:
    try:
        float(answer)
    except ValueError:
        return answer in tuple("ABCD")
    return True
