"""The recipe: scenes rendered in shards, then stage after stage with checkpoints and held-out curves."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader

from harness.errors import UserError
from harness.io import append_lines, read_json, read_text, remove_leftovers, sha256_file, whole_lines, write_text
from harness.locks import LOCK_FILE, hold
from harness.outputs import inside
from harness.processes import process_pool, start_worker
from harness.vsibench.scoring import overall_of_types
from harness.world.build import SPLITS
from harness.world.pretrain.curriculum import Batches, Stage
from harness.world.pretrain.measure import evaluate_forms, held_out
from harness.world.pretrain.network import RECIPE_FILE, SHIPPED, check_folder, save_model
from harness.world.pretrain.shards import read_shard, shard_files, write_shard
from harness.world.pretrain.trainer import Trainer
from harness.world.scenes import WORLD_VERSION

SHARD = 250
"""Scenes per shard; shard k uses the seeds first + k * SEEDS_PER_SHARD onwards."""
SEEDS_PER_SHARD = 500
HELD_OUT, CURVE_SCENES = 200, 80
"""Held-out scenes, from the last seeds of the pre-training split: all for a stage's skill, the first for the curves."""
LOG_STEPS, CURVE_STEPS, SKILL_STEPS = 50, 250, 10
"""Steps from one line of losses and checkpoint, one held-out measurement, one test of a stage's skill, to the next."""

RECIPE: tuple[Stage, ...] = tuple(Stage(**entry) for entry in read_json(SHIPPED / RECIPE_FILE)["stages"])
"""The shipped model's. Its third stage ends with directions known in words and not yet by their letters. The last one,
of more direction and route questions in the benchmark's form, begins to teach these, and is stopped early on purpose,
by held-out skill, so that post-training has something to improve."""

CEILING: tuple[Stage, ...] = (replace(RECIPE[2], name="ceiling", steps=300, decay=0.5, until=None),)
"""The same network trained on: the head-room of the shipped model is at least what this gains."""

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Run:
    """Where a run keeps its files and how large it is.

    Attributes:
        seed: Seed of the weights, of the noise and of what is drawn.
        out: The model folder to write.
        work: Shards, checkpoint and curves; a later call with the same ``work`` resumes.
        shards: Shards of 250 scenes to render.
        scale: Factor on every stage's steps.
        minutes: Stop with a checkpoint after this many minutes; None runs the whole recipe.
        workers: Processes that render scenes, and then make batches if there are more than two.
        device: cpu or cuda.
        ceiling: Whether to continue after the shipped model's last stage.
        shard_scenes: Scenes per shard.
    """

    seed: int
    out: Path
    work: Path
    shards: int = 26
    scale: float = 1.0
    minutes: float | None = None
    workers: int = 2
    device: str = "cpu"
    ceiling: bool = False
    shard_scenes: int = SHARD

    @property
    def ceiling_out(self) -> Path:
        """The folder of the model that is trained on to the ceiling."""
        out = self.out.absolute()
        return out.with_name(f"{out.name}-ceiling")

    def stages(self) -> list[Stage]:
        """The stages with their steps scaled."""
        stages = (*RECIPE, *CEILING) if self.ceiling else RECIPE
        return [replace(stage, steps=max(1, round(stage.steps * self.scale))) for stage in stages]

    def identity(self) -> str:
        """JSON of what must be the same for a run to be resumed; continuing to the ceiling is allowed."""
        stages = [asdict(stage) for stage in replace(self, ceiling=False).stages()]
        return json.dumps({"seed": self.seed, "shards": self.shards, "stages": stages})

    def shard(self, index: int) -> Path:
        """Where the frames of a shard are; -1 is the held-out one."""
        return self.work / "shards" / ("held_out.npy" if index < 0 else f"shard_{index:04d}.npy")


def shard_seeds(index: int) -> range:
    """Seeds of a shard; -1 is the held-out one at the end of the split."""
    return SPLITS["pretrain"].seeds[index * SEEDS_PER_SHARD :][:SEEDS_PER_SHARD]


def render_shards(run: Run, report: Report) -> None:
    """Render the shards that are not there yet, the held-out one first."""
    missing = [k for k in range(-1, run.shards) if not all(map(Path.exists, shard_files(run.shard(k))))]
    counts = [min(HELD_OUT, run.shard_scenes) if k < 0 else run.shard_scenes for k in missing]
    with process_pool(run.workers) as pool:
        rendered = pool.map(write_shard, map(run.shard, missing), map(shard_seeds, missing), counts)
        for done, _ in enumerate(rendered, 1):
            report({"stage": "render", "step": done, "of": len(missing), "losses": {}})


def pretrain(run: Run, report: Report) -> bool:
    """Run or resume the recipe and write the model folder at the end.

    Args:
        run: What to do and where.
        report: Receives a dict per logged point: stage, step, losses, and held-out scores.

    Returns:
        Whether the recipe is complete (False: stopped by ``minutes``, call again to resume).

    Raises:
        UserError: ``work`` holds a run of another seed or recipe, or files of the user's, or another process uses it;
            ``out`` cannot be written; or the device is not there.
    """
    if run.device not in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        raise UserError(f"`--device {run.device}`: torch sees no such device here; leave it out to train on the CPU")
    started, kept = time.monotonic(), run.work / "identity.json"
    for folder in (run.out, run.ceiling_out) if run.ceiling else (run.out,):
        check_folder(folder)
    with hold(run.work, "folder of pre-training"):
        if kept.exists() and read_text(kept) != run.identity():
            raise UserError(f"`{run.work}` holds a run with another seed or scale: give another --work or remove it")
        if not kept.exists() and any(path.name != LOCK_FILE for path in run.work.iterdir()):
            raise UserError(f"`{run.work}`: it holds other files; choose an empty or a new folder with --work")
        inside(run.work, "shards/any")
        write_text(kept, run.identity())
        remove_leftovers(run.work)
        remove_leftovers(run.shard(0).parent)
        render_shards(run, report)
        return _Loop(run, report, started).run()


class _Loop:
    """The stages of a run, from where its last call stopped."""

    def __init__(self, run: Run, report: Report, started: float) -> None:
        self.settings, self.report = run, report
        self.stages, self.trainer = run.stages(), Trainer(run.seed, run.device)
        self.checkpoint, self.curves = run.work / "checkpoint.pt", run.work / "curves.jsonl"
        earlier = whole_lines(self.curves)
        self.end = math.inf if run.minutes is None else started + 60 * run.minutes
        self.start = started - (json.loads(earlier[-1])["seconds"] if earlier else 0.0)  # as if it had never stopped
        self.shards = [run.shard(k) for k in range(run.shards)]
        self.frames, self.examples = read_shard(run.shard(-1))
        self.sums: dict[str, list[Tensor]] = defaultdict(list)

    def run(self) -> bool:
        """Continue to the end of the recipe; False if the time is up first."""
        trainer, stages = self.trainer, self.stages
        if (whole := self._kept(stages[-1])).exists():  # complete already: another folder may be wanted
            trainer.load(whole)
            self._write()
        elif self.checkpoint.exists():
            trainer.load(self.checkpoint)
        data = Batches(self.shards, self.settings.seed, stages)
        while trainer.stage < len(stages):
            if not self._train(data, stages[trainer.stage]):
                trainer.save(self.checkpoint)
                return False
            self._end_stage(stages[trainer.stage])
        return True

    def _train(self, data: Batches, stage: Stage) -> bool:
        """Train to the end of a stage; False if the time is up first."""
        trainer, run = self.trainer, self.settings
        left = [(trainer.stage, step) for step in range(trainer.step, stage.steps)]
        workers = run.workers if run.workers > 2 else 0
        context = "spawn" if workers else None
        batches = DataLoader(
            data, None, sampler=left, num_workers=workers, multiprocessing_context=context, worker_init_fn=start_worker
        )
        for batch in batches:
            for name, value in trainer.train_step(batch, stage).items():
                self.sums[name].append(value)
            if self._measure(stage):
                return True
            if time.monotonic() > self.end:
                return False
        return True

    def _measure(self, stage: Stage) -> bool:
        """Write the losses and held-out scores that are due, and a checkpoint; whether the stage is over.

        Raises:
            RuntimeError: A loss is not finite.
        """
        step, over = self.trainer.step, self.trainer.step == stage.steps
        point: dict[str, Any] = {}
        if stage.until is not None and (step % SKILL_STEPS == 0 or over):
            answers = evaluate_forms(self.trainer, self.frames, self.examples, ("official",))
            types = {key.removesuffix("/official"): score for key, (score, _) in answers.items()}
            point["skill"] = overall_of_types(types)
            over = over or point["skill"] >= stage.until
        if step % CURVE_STEPS == 0 or over:
            point |= held_out(self.trainer, self.frames[:CURVE_SCENES], self.examples[:CURVE_SCENES], stage)
        if not point and step % LOG_STEPS:
            return over
        losses = {name: round(torch.stack(values).mean().item(), 4) for name, values in self.sums.items()}
        self.sums.clear()
        if not np.isfinite(list(losses.values())).all():
            raise RuntimeError(f"stage {stage.name}, step {step}: the loss is not finite")
        seconds = round(time.monotonic() - self.start, 1)
        line = {"stage": stage.name, "step": step, "of": stage.steps, "seconds": seconds, "losses": losses, **point}
        append_lines(self.curves, [json.dumps(line)])
        self.report(line)
        self.trainer.save(self.checkpoint)
        return over

    def _end_stage(self, stage: Stage) -> None:
        """Start the next stage, keep this one's weights, and write the model folder where the recipe ends."""
        trainer = self.trainer
        if not stage.questions:
            trainer.settle_video(torch.from_numpy(np.array(self.frames[:20])))
        trainer.next_stage()
        trainer.save(self._kept(stage))
        trainer.save(self.checkpoint)
        if trainer.stage in (len(RECIPE), len(self.stages)):
            self._write()

    def _kept(self, stage: Stage) -> Path:
        return self.settings.work / f"after-{stage.name}.pt"

    def _write(self) -> None:
        """Write the model folder with its recipe."""
        run, trainer = self.settings, self.trainer
        out = run.out if trainer.stage <= len(RECIPE) else run.ceiling_out
        recipe = {
            "command": f"harness world pretrain --seed {run.seed} --shards {run.shards}",
            "world_version": WORLD_VERSION,
            "seed": run.seed,
            "stages": [asdict(stage) for stage in self.stages[: trainer.stage]],
            "ended_at_steps": trainer.ended,
            "data": {
                "split": "pretrain",
                "seeds": [shard_seeds(0)[0], shard_seeds(run.shards - 1)[-1]],
                "scenes": run.shards * run.shard_scenes,
                "held_out_seeds": [shard_seeds(-1)[0], shard_seeds(-1)[-1]],
                "sha256": hashlib.sha256("".join(map(sha256_file, self.shards)).encode()).hexdigest(),
            },
            "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "seconds": round(time.monotonic() - self.start),
        }
        save_model(trainer.model, out, recipe)
