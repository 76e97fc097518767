"""One optimiser step of each of the paper's methods at Qwen2-VL-2B's true size: time, memory, projected GPU hours.

    python tests/benchmarks/paper_step.py --json                        # on a GPU with 80 GB, a few minutes
    python tests/benchmarks/paper_step.py --cpu --answers 8 --repeats 1 -s train.prompts_per_step=1
    python tests/benchmarks/paper_step.py --shape cpu-small --answers 8 --repeats 1 -s train.prompts_per_step=2

Weights and pixels are random, everything else is the preset paper-2b: LoRA, 16 frames of at most 128 x 28 x 28 pixels,
14 answers a question, 8 questions a step, micro-batches, reference; only the reward is a checksum. The code is that
which trains a cell of it (``harness.study.work.train_cell``). Random weights hardly ever end an answer, so sampled
answers have exactly --answers tokens: 64 is the preset's limit in vanilla mode, 8 is what short answers take; add 512
for its think and observe rows. The first step of every row is a warm-up and not measured in time.

The estimate is that of ``harness doctor --study paper-2b`` for the phases of training, without its line for the program
itself. Measured is what PyTorch's allocator gave out at most; on a CPU, the tensors that lived at once, weights and a
step's pixels included. Needs no video decoder, no network and no TRL, but the package itself installed, since presets
and methods are found by its entry points: ``python -m pip install --no-deps --no-build-isolation -e .``
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from meters import Clock, timed
from roofline import PAPER_HOURS
from synthetic import SHAPES, prompt_about, rewards, write_model
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from harness.config.study import StudyConfig, load_study
from harness.config.variants import parse_variant
from harness.data.encode import EncodedPrompt
from harness.data.video.frames import process_frames
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.io import read_json
from harness.memory.estimate import TEXT_TOKENS, VIDEO_SIZE, MemoryLimit, account_for
from harness.memory.trace import LiveBytes
from harness.models.loading import load_model
from harness.study import setup, work
from harness.train.groups import GroupBuilder
from harness.train.trainer import Trainer

STUDY = "paper-2b"
METHODS = ("sft", "dpo:pairs=corrupted", "dpo", "grpo")
TRUE_SHAPE = "qwen2-vl-2b"
TOLERANCE = 0.2


def main() -> None:
    options = parse()
    cuda = torch.cuda.is_available() and options.shape == TRUE_SHAPE
    if options.shape == TRUE_SHAPE and not cuda and not options.cpu:
        raise SystemExit(
            f"--shape {TRUE_SHAPE}: torch sees no CUDA device here. Run this on a machine with a GPU; or add "
            "--cpu: one question a step then takes minutes and about 16 GiB, and seconds say nothing about a GPU."
        )
    device = torch.device("cuda" if cuda else "cpu")
    warnings.filterwarnings("ignore")
    disable_progress_bar()
    work.build_rewards = lambda study: rewards()  # random text earns nothing of the real ones, and groups need variance
    steps = watch_steps(Clock(device))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(SHAPES[options.shape], model, 0, torch.bfloat16 if options.shape == TRUE_SHAPE else torch.float32)
        rows = []
        for method in options.methods:
            samples = load_study(STUDY, methods=[method]).algorithm(method).needs.rollouts
            for answers in options.answers if samples else [0]:
                out = Path(folder) / f"{len(rows)}"
                rows.append(measure(resolve(options, method, answers, model), method, device, out, steps))
                print(line(rows[-1]), flush=True)
    name = torch.cuda.get_device_name(device) if cuda else "CPU: seconds say nothing about a GPU"
    print(table(rows, f"{options.shape}, {name}"))
    if options.json:
        print(json.dumps({"shape": options.shape, "device": name, "torch": torch.__version__, "rows": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=sorted(SHAPES), default=TRUE_SHAPE)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--answers", type=int, nargs="+", default=[8, 64], help="tokens of a sampled answer")
    parser.add_argument("--repeats", type=int, default=2, help="measured steps; medians are reported")
    parser.add_argument("-s", dest="settings", action="append", default=[], help="a setting of the study, key=value")
    parser.add_argument("--cpu", action="store_true", help="the true shape also without a GPU")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args()


def resolve(options: argparse.Namespace, method: str, answers: int, model: Path) -> StudyConfig:
    """The study with the random model, and a budget of one warm-up step and the measured ones."""
    changes: dict[str, Any] = {"model.name": str(model), "train.checkpoints": 1}
    changes |= {"budget.kind": "steps", "budget.amount": 1 + options.repeats}
    if answers:
        changes["rollout.max_new_tokens"] = answers
    heads = {parse_variant(method).method, *StudyConfig.model_fields}  # not those of the other methods measured
    own = [setting for setting in options.settings if setting.partition(".")[0] in heads]
    return load_study(STUDY, methods=[method], overrides=own, changes=changes)


def watch_steps(clock: Clock) -> list[dict[str, float]]:
    """Wall seconds of every step that any trainer takes from here on, by phase."""
    taken: list[dict[str, float]] = []
    stock = Trainer._step

    def step(trainer: Trainer, number: int) -> dict[str, float]:
        with clock.phase("step"):
            numbers = stock(trainer, number)
        taken.append(clock.take()[0])
        return numbers

    Trainer._step = step  # type: ignore[method-assign]
    timed(TransformersSampler, "sample", clock, "sampling")
    timed(GroupBuilder, "_with_reference", clock, "reference")
    return taken


def random_prompt(study: StudyConfig, policy: Policy, number: int) -> EncodedPrompt:
    """A prompt on a video of random pixels that went through the video processor."""
    settings = setup.frame_cache(study, policy.base.config).settings
    size = (settings.frames, *VIDEO_SIZE, 3)
    video = process_frames(np.random.default_rng(number).integers(0, 256, size, np.uint8), settings)
    tokens = len(video.pixel_values) // settings.merge_size**2
    return prompt_about(video, tokens + TEXT_TOKENS, policy.base.config.text_config.vocab_size, number)


def measure(
    study: StudyConfig, method: str, device: torch.device, folder: Path, steps: list[dict[str, float]]
) -> dict[str, Any]:
    """Train one method for the study's few steps and say what they took."""
    cuda = device.type == "cuda"
    config = AutoConfig.from_pretrained(study.model.name)
    settings, count = study.for_method(method).train, int(study.budget.amount)
    room, questions = MemoryLimit("", 0, 1, cuda), range(count * settings.prompts_per_step)
    account = account_for(study, method, room, config=config, videos=len(questions))
    phases = {name: size for name, size in account.phases.items() if name != "evaluation"}
    program = sum(part.bytes for part in account.parts if part.name == "the program")
    loaded = load_model(study.model, device)
    policy = Policy(*loaded, engine=study.model.engine)
    # Made beforehand, since in a training they come from the cache of frames; a step holds its own alone.
    prompts = [random_prompt(study, policy, number) for number in questions]
    pixels = sum(prompt.video.pixel_values.nbytes for prompt in prompts) // count
    bench = SimpleNamespace(
        study=study.for_method(method),
        policy=policy,
        training_prompt=prompts.__getitem__,
        training=SimpleNamespace(records=prompts),
    )
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = checksum(policy)
    steps.clear()
    live = LiveBytes()
    with contextlib.nullcontext() if cuda else live:
        work.train_cell(bench, method, folder, 0, "random")
    weights = sum(one.nbytes for one in policy.model.parameters())
    peak = torch.cuda.max_memory_allocated(device) if cuda else weights + pixels + live.peak
    reserved = torch.cuda.max_memory_reserved(device) if cuda else None
    consumed = read_json(folder / "compute.json")
    seconds = {phase: statistics.median(one[phase] for one in steps[1:]) for phase in steps[0]}
    prompt = len(prompts[0].input_ids)
    trained = settings.prompts_per_step * prompt + consumed["tokens_trained"] / count
    sampled = consumed["tokens_sampled"] / count
    whole = load_study(STUDY).budget.amount / settings.prompts_per_step
    row = {
        "method": method,
        "answers": study.rollout.max_new_tokens if sampled else None,
        "prompt": prompt,
        "prompts_per_step": settings.prompts_per_step,
        "engine": policy.engine,
        "seconds": seconds,
        "every_step": [one["step"] for one in steps],
        "tokens_trained_per_second": trained / seconds["step"],
        "tokens_sampled_per_second": sampled / seconds["sampling"] if sampled else None,
        "measured_bytes": peak,
        "reserved_bytes": reserved,
        "estimated_bytes": account.always + max(phases.values()) - program,
        "estimated_phases": phases,
        "projected_hours": whole * seconds["step"] / 3600,
        "weights_changed": checksum(policy) != before,
    }
    del loaded, policy, bench, prompts
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return row


def checksum(policy: Policy) -> float:
    return sum(float(one.detach().double().sum()) for one in policy.model.parameters() if one.requires_grad)


# ------------------------------------------------------------------ tables


def line(row: dict[str, Any]) -> str:
    answers = f" of {row['answers']} tokens" if row["answers"] else ""
    return f"{row['method']}{answers}: {row['seconds']['step']:.2f} s a step, {row['measured_bytes'] / 2**30:.1f} GiB"


def table(rows: list[dict[str, Any]], title: str) -> str:
    lines = [
        f"\n### Preset {STUDY} on {title}",
        f"A step is {rows[0]['prompts_per_step']} questions of {rows[0]['prompt']} tokens, its video among them.\n",
        "| method | answer tokens | sampling s | reference s | update s | step s | trained tokens/s | sampled tokens/s "
        "| peak GiB | estimated GiB | estimate/peak | hours for a pass over VSI-100k |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        ratio = row["estimated_bytes"] / row["measured_bytes"]
        verdict = "" if abs(ratio - 1) <= TOLERANCE else " (not within a fifth)"
        times = " | ".join(f"{row['seconds'][phase]:.3f}" for phase in ("sampling", "reference", "update", "step"))
        sampled = f"{row['tokens_sampled_per_second']:.0f}" if row["tokens_sampled_per_second"] else "-"
        lines.append(
            f"| {row['method']} | {row['answers'] or '-'} | {times} "
            f"| {row['tokens_trained_per_second']:.0f} | {sampled} "
            f"| {row['measured_bytes'] / 2**30:.2f} | {row['estimated_bytes'] / 2**30:.2f} | {ratio:.2f}{verdict} "
            f"| {row['projected_hours']:.1f} |"
        )
    amount = int(load_study(STUDY).budget.amount)
    lines.append(
        f"\nA pass is {amount:,} questions (the preset's budget). For vsGRPO-2B the paper reports {PAPER_HOURS} GPU "
        "hours, on GPUs and for a number of questions that it does not name."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
