"""The recipe: which stages in which order, run with checkpoints, curves and a background renderer."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import UserError
from harness.io import append_lines, read_json, write_json
from harness.world.build import SPLITS
from harness.world.pretrain.curriculum import Mix
from harness.world.pretrain.evaluate import evaluate_dense, evaluate_forms, evaluate_texts
from harness.world.pretrain.folder import load_tokenizer, prepare_folder, save_model
from harness.world.pretrain.shards import Pool, write_shard
from harness.world.pretrain.trainer import Stage, Trainer, finite

SHARD = 500
"""Scenes per shard; shard k uses the seeds first + k * SEEDS_PER_SHARD onwards."""
SEEDS_PER_SHARD = 1_000
HELD_OUT = 200
"""Held-out scenes of the curves, from the last seeds of the pre-training split."""
CHECKPOINT_SECONDS = 120.0

LOOK = Mix(
    questions=4,
    forms={"official": 1, "words": 1},
    lists=3,
    drills=3,
    types={"route_planning": 0, "obj_appearance_order": 0.3},
)
QUESTIONS = Mix(questions=14, forms={"official": 1, "words": 0.7, "vanilla": 0.2}, lists=1, drills=2)
LETTERS = Mix(
    questions=14,
    forms={"official": 1, "words": 0.4, "vanilla": 0.4, "think": 0.05, "observe": 0.05},
    lists=1,
    drills=2,
)
FULL = Mix(
    questions=15,
    forms={"official": 1, "words": 0.35, "vanilla": 0.35, "think": 0.08, "observe": 0.08},
    drills=1,
)

RECIPE: tuple[Stage, ...] = (
    Stage("vision", steps=1_050, scenes=6, mix=None, vision=1.0, rate=5e-3),
    Stage("look-ups", steps=300, scenes=10, mix=LOOK),
    Stage("questions", steps=600, scenes=8, mix=QUESTIONS),
)
"""The shipped model: stopped early on purpose, so that post-training has something to improve."""

CEILING: tuple[Stage, ...] = (
    Stage("letters", steps=300, scenes=8, mix=LETTERS, decay=0.8),
    Stage("ceiling", steps=1_000, scenes=8, mix=FULL, vision=0.3, decay=0.7),
)
"""What the same network reaches when pre-training goes on: the head-room of the shipped model."""

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Run:
    """Where a run keeps its files and how large it is.

    Attributes:
        seed: Seed of the weights, of the noise and of what is drawn.
        out: The model folder to write.
        work: Shards, checkpoint and curves; a later call with the same `work` resumes.
        shards: Shards of 500 scenes to render.
        scale: Factor on every stage's steps.
        minutes: Stop after so many minutes, checkpointed; None for the whole recipe.
        threads: Threads of the training process; rendering uses one process more.
        ceiling: Whether to go on after the shipped model's last stage.
        shard_scenes: Scenes per shard.
    """

    seed: int
    out: Path
    work: Path
    shards: int = 20
    scale: float = 1.0
    minutes: float | None = None
    threads: int = 1
    ceiling: bool = False
    shard_scenes: int = SHARD

    def stages(self) -> list[Stage]:
        """The stages with their steps scaled."""
        stages = (*RECIPE, *CEILING) if self.ceiling else RECIPE
        return [replace(stage, steps=max(1, round(stage.steps * self.scale))) for stage in stages]

    def identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "stages": [asdict(stage) for stage in self.stages()]}


def shard_seeds(index: int) -> range:
    """Seeds of a shard; -1 is the held-out one at the end of the split."""
    seeds = SPLITS["pretrain"].seeds
    if index < 0:
        return seeds[-SEEDS_PER_SHARD:]
    return seeds[index * SEEDS_PER_SHARD : (index + 1) * SEEDS_PER_SHARD]


def _render(out: Path, folder: Path, count: int, scenes: int) -> None:
    """Process body: the held-out shard first, then the training shards; finished ones are kept."""
    os.nice(5)
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(out)
    for index in range(-1, count):
        path = (folder / "held_out" if index < 0 else folder) / f"shard_{max(index, 0):04d}"
        if not path.with_suffix(".npy").exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_shard(path, shard_seeds(index), tokenizer, min(HELD_OUT, scenes) if index < 0 else scenes)


def pretrain(run: Run, report: Report) -> bool:
    """Run or resume the recipe and write the model folder at the end.

    Args:
        run: What to do and where.
        report: Receives a dict per logged point: stage, step, losses, and held-out scores.

    Returns:
        Whether the recipe is complete (False: stopped by ``minutes``, call again to resume).

    Raises:
        UserError: `work` holds a run of another seed or recipe.
    """
    torch.set_num_threads(run.threads)
    identity = run.work / "identity.json"
    wanted = json.loads(json.dumps(run.identity()))
    if identity.exists() and read_json(identity) != wanted:
        raise UserError(
            f"`{run.work}` holds a run with another seed or scale: give another --work or remove that folder"
        )
    write_json(identity, wanted)
    tokenizer = prepare_folder(run.out)
    renderer = multiprocessing.get_context("spawn").Process(
        target=_render, args=(run.out, run.work / "shards", run.shards, run.shard_scenes), daemon=True
    )
    renderer.start()
    try:
        trainer = Trainer(tokenizer, run.seed)
        complete = _Loop(run, trainer, report, renderer).run()
    finally:
        renderer.terminate()
        renderer.join()
    if complete:
        save_model(trainer.model, run.out, {**wanted, "data": _data_ranges(run)})
    return complete


def _data_ranges(run: Run) -> dict[str, Any]:
    last = shard_seeds(run.shards - 1)
    held = shard_seeds(-1)
    return {
        "split": "pretrain",
        "seeds": [shard_seeds(0).start, last.stop - 1],
        "scenes": run.shards * run.shard_scenes,
        "held_out_seeds": [held.start, held.stop - 1],
    }


class _Loop:
    def __init__(self, run: Run, trainer: Trainer, report: Report, renderer: Any) -> None:
        self.run_, self.trainer, self.report, self.renderer = run, trainer, report, renderer
        self.checkpoint = run.work / "checkpoint.pt"
        self.started = self.saved = time.monotonic()
        self.pool = Pool(run.work / "shards")
        self.held = Pool(run.work / "shards" / "held_out")

    def run(self) -> bool:
        trainer = self.trainer
        if self.checkpoint.exists():
            trainer.load(self.checkpoint)
        while self.held.refresh() == 0 or self.pool.refresh() == 0:
            if not self.renderer.is_alive():
                raise RuntimeError("the rendering process ended before its first shard")
            time.sleep(1.0)
        stages = self.run_.stages()
        while trainer.stage < len(stages):
            stage = stages[trainer.stage]
            if not self._stage(stage):
                trainer.save(self.checkpoint)
                return False
            if stage.mix is None:
                trainer.settle_video(np.asarray(self.held.frames[0][:20]))
            trainer.next_stage()
            trainer.save(self.checkpoint)
        return True

    def _stage(self, stage: Stage) -> bool:
        """Run a stage to its end; False when the time is up."""
        trainer = self.trainer
        sums: dict[str, list[float]] = defaultdict(list)
        while trainer.step < stage.steps:
            if trainer.step % 100 == 0:
                self.pool.refresh()
            losses = trainer.train_step(*self.pool.draw(trainer.rng, stage.scenes), stage)
            if not finite(losses):
                raise RuntimeError(f"stage {stage.name}, step {trainer.step}: the loss is not finite")
            for name, value in losses.items():
                sums[name].append(value)
            if trainer.step % 50 == 0 or trainer.step == stage.steps:
                point = {"losses": {k: round(float(np.mean(v)), 4) for k, v in sums.items()}}
                if trainer.step % 400 == 0 or trainer.step == stage.steps:
                    point.update(self._held_out(stage))
                self._log(stage, point)
                sums.clear()
            now = time.monotonic()
            if now - self.saved > CHECKPOINT_SECONDS:
                trainer.save(self.checkpoint)
                self.saved = now
            if self.run_.minutes is not None and now - self.started > 60 * self.run_.minutes:
                return False
        return True

    def _held_out(self, stage: Stage) -> dict[str, Any]:
        frames, examples = np.asarray(self.held.frames[0][:80]), self.held.examples[0][:80]
        found: dict[str, Any] = {"vision": evaluate_dense(self.trainer, frames, examples)}
        if stage.mix is not None:
            texts, probes = evaluate_texts(self.trainer, frames[:16], examples[:16], stage.mix)
            found.update(texts=texts, probes=probes)
            found["answers"] = evaluate_forms(self.trainer, frames, examples, ("official", "words"))
        return found

    def _log(self, stage: Stage, point: dict[str, Any]) -> None:
        line = {
            "stage": stage.name,
            "step": self.trainer.step,
            "of": stage.steps,
            "cpu_seconds": round(time.process_time(), 1),
            **point,
        }
        append_lines(self.run_.work / "curves.jsonl", [json.dumps(line)])
        self.report(line)
