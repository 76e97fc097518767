"""The score table of a model folder: mp4 files of a split, official wording, greedy, official scoring rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import AutoModelForImageTextToText

from harness.data.decode import decode_frames
from harness.data.prompts import prompt_text
from harness.data.records import Record
from harness.data.video import VideoSettings, process_frames
from harness.world.audit import blind_scores
from harness.world.build import SPLITS, build_split
from harness.world.camera import STOPS
from harness.world.pretrain.evaluate import greedy, score
from harness.world.pretrain.folder import load_tokenizer
from harness.world.pretrain.packed import vision_features
from harness.world.pretrain.prompts import TURN, prefix_ids
from harness.world.pretrain.shards import TOKENS
from harness.world.pretrain.trainer import GRID, Trainer
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

    Returns:
        A row per question type with chance, constant, text_prior, n, base, low and high (95% interval,
        bootstrap over scenes), and the checks: unparsable share, and questions on which plain
        transformers gave the same answer.
    """
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
    trainer = Trainer(load_tokenizer(folder), seed=0)
    trainer.model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()
    answers = _answers(trainer, patches, asked)
    rows = pd.DataFrame(
        {
            "scene": scene,
            "question_type": record["question_type"],
            "answer": answer,
            "score": 100 * score(record["question_type"], answer, record["ground_truth"]),
        }
        for scene, (records, given) in enumerate(zip(asked, answers, strict=True))
        for record, answer in zip(records, given, strict=True)
    )
    grouped = rows.groupby("question_type")["score"]
    table["base"] = grouped.mean()
    low, high = _bootstrap(rows)
    table["low"], table["high"] = low, high
    checks = {
        "unparsable": float(np.mean([not _parsable(a) for a in rows["answer"]])),
        "plain_equal": _plain_equal(trainer, patches, asked, answers, plain),
        "plain_n": plain,
    }
    return table, checks


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
