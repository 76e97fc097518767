"""The recipe: scenes rendered in shards, then stage after stage with checkpoints and held-out curves."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from harness.errors import UserError
from harness.io import append_lines, read_json, write_json
from harness.vsibench.scoring import overall_of_types
from harness.world.build import SPLITS
from harness.world.pretrain.batches import Batches
from harness.world.pretrain.curriculum import Mix
from harness.world.pretrain.evaluate import evaluate_dense, evaluate_forms, evaluate_texts
from harness.world.pretrain.folder import load_tokenizer, prepare_folder, save_model
from harness.world.pretrain.shards import Pool, shards_digest, write_shard
from harness.world.pretrain.trainer import Stage, Trainer
from harness.world.scenes import WORLD_VERSION

SHARD = 250
"""Scenes per shard; shard k uses the seeds first + k * SEEDS_PER_SHARD onwards."""
SEEDS_PER_SHARD = 500
HELD_OUT = 200
"""Held-out scenes of the curves, from the last seeds of the pre-training split."""
CHECKPOINT_SECONDS = 120.0
LOG_STEPS, CURVE_STEPS, SKILL_STEPS = 50, 250, 10
"""Steps from one line of losses, one held-out measurement, one look whether a stage is skilled enough, to the next."""

LOOK = Mix(
    questions=4,
    forms={"official": 1, "words": 1},
    lists=3,
    drills=3,
    types={"route_planning": 0, "obj_appearance_order": 0.3},
)
QUESTIONS = Mix(
    questions=14,
    forms={"official": 1, "words": 0.7, "vanilla": 0.2, "think": 0.08, "observe": 0.08},
    lists=1,
    drills=2,
)
LETTERS = Mix(
    questions=8,
    forms={"official": 1, "vanilla": 0.3, "words": 0.15, "think": 0.05, "observe": 0.05},
    drills=2,
    types={
        "object_counting": 0.3,
        "object_abs_distance": 0.2,
        "object_size_estimation": 0.1,
        "room_size_estimation": 0.5,
        "object_rel_distance": 0.5,
        "obj_appearance_order": 0.3,
    },
)
RECIPE: tuple[Stage, ...] = (
    Stage("vision", steps=2_000, scenes=16, mix=None, vision=1.0, rate=5e-3, decay=0.3),
    Stage("look-ups", steps=500, scenes=20, mix=LOOK),
    Stage("questions", steps=480, scenes=20, mix=QUESTIONS, until=67.0),
    Stage("letters", steps=240, scenes=20, mix=LETTERS, until=70.0),
)
"""The third stage ends with directions known in words and not yet by their letters. The last one, of more direction and
route questions in the benchmark's form, begins to teach these, and is stopped early on purpose, by held-out skill, so
that post-training has something to improve."""

CEILING: tuple[Stage, ...] = (Stage("ceiling", steps=300, scenes=20, mix=QUESTIONS, decay=0.5),)
"""The same network trained on: the head-room of the shipped model is at least what this gains."""

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Run:
    """Where a run keeps its files and how large it is.

    Attributes:
        seed: Seed of the weights, of the noise and of what is drawn.
        out: The model folder to write.
        work: Shards, checkpoint and curves; a later call with the same `work` resumes.
        shards: Shards of 250 scenes to render.
        scale: Factor on every stage's steps.
        minutes: Stop after so many minutes, checkpointed; None for the whole recipe.
        threads: Threads of the training process.
        workers: Processes that render scenes, and then make batches if there are more than two.
        device: cpu or cuda.
        ceiling: Whether to go on after the shipped model's last stage.
        shard_scenes: Scenes per shard.
    """

    seed: int
    out: Path
    work: Path
    shards: int = 26
    scale: float = 1.0
    minutes: float | None = None
    threads: int = 1
    workers: int = 2
    device: str = "cpu"
    ceiling: bool = False
    shard_scenes: int = SHARD

    def stages(self) -> list[Stage]:
        """The stages with their steps scaled."""
        stages = (*RECIPE, *CEILING) if self.ceiling else RECIPE
        return [replace(stage, steps=max(1, round(stage.steps * self.scale))) for stage in stages]

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; going on to the ceiling is allowed."""
        stages = [asdict(stage) for stage in replace(self, ceiling=False).stages()]
        return {"seed": self.seed, "shards": self.shards, "stages": stages}


def shard_seeds(index: int) -> range:
    """Seeds of a shard; -1 is the held-out one at the end of the split."""
    seeds = SPLITS["pretrain"].seeds
    if index < 0:
        return seeds[-SEEDS_PER_SHARD:]
    return seeds[index * SEEDS_PER_SHARD : (index + 1) * SEEDS_PER_SHARD]


def _shard_path(folder: Path, index: int) -> Path:
    return (folder / "held_out" if index < 0 else folder) / f"shard_{max(index, 0):04d}.npy"


def _render(out: Path, path: Path, index: int, scenes: int) -> None:
    """Process body: one shard."""
    torch.set_num_threads(1)
    write_shard(path, shard_seeds(index), load_tokenizer(out), scenes)


def render_shards(run: Run, report: Report) -> None:
    """Render the shards that are not there yet, the held-out one first."""
    folder = run.work / "shards"
    (folder / "held_out").mkdir(parents=True, exist_ok=True)
    missing = [k for k in range(-1, run.shards) if not _shard_path(folder, k).exists()]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(run.workers, len(missing)), mp_context=context) as pool:
        waiting = [
            pool.submit(
                _render,
                run.out,
                _shard_path(folder, k),
                k,
                min(HELD_OUT, run.shard_scenes) if k < 0 else run.shard_scenes,
            )
            for k in missing
        ]
        for done, future in enumerate(as_completed(waiting), 1):
            future.result()
            report({"stage": "render", "step": done, "of": len(missing), "losses": {}})


def pretrain(run: Run, report: Report) -> bool:
    """Run or resume the recipe and write the model folder at the end.

    Args:
        run: What to do and where.
        report: Receives a dict per logged point: stage, step, losses, and held-out scores.

    Returns:
        Whether the recipe is complete (False: stopped by ``minutes``, call again to resume).

    Raises:
        UserError: `work` holds a run of another seed or recipe, or the device is not there.
    """
    if run.device not in _devices():
        raise UserError(f"`--device {run.device}`: torch sees no such device here; leave it out to train on the CPU")
    torch.set_num_threads(run.threads)
    identity = run.work / "identity.json"
    wanted = json.loads(json.dumps(run.identity()))
    if identity.exists() and read_json(identity) != wanted:
        raise UserError(
            f"`{run.work}` holds a run with another seed or scale: give another --work or remove that folder"
        )
    write_json(identity, wanted)
    tokenizer = prepare_folder(run.out)
    started = time.monotonic()
    render_shards(run, report)
    trainer = Trainer(tokenizer, run.seed, run.device)
    return _Loop(run, trainer, report, started).run()


def _devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


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
    def __init__(self, run: Run, trainer: Trainer, report: Report, started: float) -> None:
        self.run_, self.trainer, self.report = run, trainer, report
        self.checkpoint = run.work / "checkpoint.pt"
        self.started, self.saved = started, time.monotonic()
        self.curves = run.work / "curves.jsonl"
        earlier = self.curves.read_text().splitlines() if self.curves.exists() else []
        self.before = json.loads(earlier[-1])["seconds"] if earlier else 0.0
        self.held = Pool([_shard_path(run.work / "shards", -1)])
        self.shards = [_shard_path(run.work / "shards", k) for k in range(run.shards)]
        self.sums: dict[str, list[Tensor]] = defaultdict(list)

    def run(self) -> bool:
        trainer, stages = self.trainer, self.run_.stages()
        if self.checkpoint.exists():
            trainer.load(self.checkpoint)
        if trainer.stage > len(stages):  # it went on to the ceiling once
            trainer.load(self._kept(stages[-1]))
        data = Batches(
            self.shards,
            self.run_.out,
            trainer.prefix,
            self.run_.seed,
            [(stage.mix, stage.scenes) for stage in stages],
        )
        if trainer.stage == len(stages):  # complete already: another folder may be wanted
            self._write(stages)
        while trainer.stage < len(stages):
            if not self._train(data, stages[trainer.stage]):
                trainer.save(self.checkpoint)
                return False
            self._end_stage(stages)
        return True

    def _train(self, data: Batches, stage: Stage) -> bool:
        """The rest of a stage; False if the time was up before its end."""
        trainer = self.trainer
        to_do = [(trainer.stage, step) for step in range(trainer.step, stage.steps)]
        for batch in data.ordered(to_do, self.run_.workers if self.run_.workers > 2 else 0):
            losses = trainer.train_step(batch, stage)
            if self._after_step(stage, losses):
                break
            if self._time_is_up():
                return False
        return True

    def _end_stage(self, stages: Sequence[Stage]) -> None:
        """Go to the next stage, keep this one's weights, and write the model folder where the recipe ends."""
        trainer, stage = self.trainer, stages[self.trainer.stage]
        if stage.mix is None:
            trainer.settle_video(np.array(self.held.frames[0][:20]))
        trainer.next_stage()
        trainer.save(self.checkpoint)
        shutil.copyfile(self.checkpoint, self._kept(stage))
        if trainer.stage in (len(RECIPE), len(stages)):
            self._write(stages[: trainer.stage])

    def _kept(self, stage: Stage) -> Path:
        return self.run_.work / f"after-{stage.name}.pt"

    def _write(self, stages: Sequence[Stage]) -> None:
        run = self.run_
        out = run.out if len(stages) <= len(RECIPE) else run.out.with_name(f"{run.out.name}-ceiling")
        prepare_folder(out)
        recipe = {
            "command": f"harness world pretrain --seed {run.seed} --shards {run.shards}",
            "world_version": WORLD_VERSION,
            "seed": run.seed,
            "stages": [
                {**asdict(stage), "ended_at_step": step} for stage, step in zip(stages, self.trainer.ended, strict=True)
            ],
            "data": {**_data_ranges(run), "sha256": shards_digest(self.shards)},
            "device": self._device(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "seconds": round(self._seconds()),
        }
        save_model(self.trainer.model, out, recipe)

    def _device(self) -> str:
        return torch.cuda.get_device_name() if self.trainer.device.type == "cuda" else "cpu"

    def _after_step(self, stage: Stage, losses: dict[str, Tensor]) -> bool:
        """Log, measure, keep a checkpoint; whether the stage is over."""
        step = self.trainer.step
        for name, value in losses.items():
            self.sums[name].append(value)
        point: dict[str, Any] = {}
        over = step == stage.steps
        if stage.until is not None and (step % SKILL_STEPS == 0 or over):
            point["skill"] = self._skill()
            over = over or point["skill"] >= stage.until
        if step % CURVE_STEPS == 0 or over:
            point.update(self._held_out(stage))
        if point or step % LOG_STEPS == 0:
            self._log(stage, {"losses": self._mean_losses(stage), **point})
        now = time.monotonic()
        if now - self.saved > CHECKPOINT_SECONDS and not over:  # the end of a stage has a checkpoint of its own
            self.trainer.save(self.checkpoint)
            self.saved = now
        return over

    def _mean_losses(self, stage: Stage) -> dict[str, float]:
        """The losses since the last line.

        Raises:
            RuntimeError: One is not finite.
        """
        means = {name: round(torch.stack(values).mean().item(), 4) for name, values in self.sums.items()}
        self.sums.clear()
        if not all(np.isfinite(value) for value in means.values()):
            raise RuntimeError(f"stage {stage.name}, step {self.trainer.step}: the loss is not finite")
        return means

    def _skill(self) -> float:
        """Mean of the eight tasks over the official questions of all held-out scenes, one of a type and scene."""
        frames, examples = np.asarray(self.held.frames[0]), self.held.examples[0]
        answers = evaluate_forms(self.trainer, frames, examples, ("official",))
        return overall_of_types({key.removesuffix("/official"): score for key, (score, _) in answers.items()})

    def _time_is_up(self) -> bool:
        minutes = self.run_.minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes

    def _seconds(self) -> float:
        """Seconds of this call and, up to their last line in the curves, of those before it."""
        return self.before + time.monotonic() - self.started

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
            "seconds": round(self._seconds(), 1),
            **point,
        }
        append_lines(self.curves, [json.dumps(line)])
        self.report(line)
