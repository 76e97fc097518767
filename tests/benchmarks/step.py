"""How long one GRPO step on video takes: TRL's own trainer, this project's plain engine and its shared-prefix engine.

    python tests/benchmarks/step.py --prompt 2048 --completion 8 --group 14 --repeats 3 --json
    python tests/benchmarks/step.py --prompt 512 2048 --group 4 16 --batch-sizes 1 --repeats 1     # or --grid
    python tests/benchmarks/step.py --model qwen2-vl-2b --completion 16 --group 14 --repeats 3 --json     # on a GPU

One process, contenders alternating, medians. First every contender takes one step at each micro-batch size, a warm-up
in which the bytes kept for the backward pass are counted: what lives when it begins (`held_bytes`), and the most that
lives until it has ended, gradients and what is computed again included (`peak_bytes`). Then it goes on at its fastest.
Every round has a new prompt and video, so that no feature cache spans steps. With --json the last line of standard
output is JSON; progress goes to standard error. Memory ratios are between what is kept for one backward pass:
`memory_*_over_engine` at the contender's fastest micro-batch size, `memory_*_whole_group_over_engine` where it takes
the whole group at once, as the engine does.
The plain engine gets the video's features from the same cache as the shared one; TRL runs the tower in every pass.
On one CPU thread `seconds`, and so ratios, are processor seconds, which other programs on the machine hardly change;
otherwise they are wall seconds (`basis` says which; both are in the JSON).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from contenders import Contender, Step, Task, batch_sizes, build
from meters import Clock
from roofline import PAPER_HOURS, PAPER_PROMPTS, floor_seconds, measure
from synthetic import SHAPES, grid_for, make_prompt, write_model
from transformers.utils.logging import disable_progress_bar

from harness.errors import UserError

PHASES = ("sampling", "reference", "update", "step")
NAMES = ("trl", "naive", "engine")
GRID = {"prompt": [512, 1024, 2048], "completion": [8, 64], "group": [4, 8, 14, 16]}


def main() -> None:
    options = parse()
    device = choose_device(options)
    precision = "bf16" if device.type == "cuda" else "fp32"
    warnings.filterwarnings("ignore")
    disable_progress_bar()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(SHAPES[options.model], model, options.seed)
        out = Path(folder) / "out"
        basis = basis_of(device, options.threads)
        rates = measure(device, precision, lambda: Clock(device).now()[basis == "processor"])
        axes = GRID if options.grid else vars(options)
        results = []
        for sizes in itertools.product(axes["prompt"], axes["completion"], axes["group"]):
            task = Task(*sizes, options.beta, options.lora, precision, device, options.seed, model, out)
            results.append(run_cell(task, options) | floors(task, options, rates))
            add_ratios(results[-1])
            print(markdown(results[-1]), flush=True)
            note(line(results[-1]))
    report = {"machine": machine(device, precision, options, rates), "settings": vars(options), **results[-1]}
    if len(results) > 1:
        report |= {"cells": results, "growth": growth(results)}
        print(grid_markdown(results))
    if options.json:
        print(json.dumps(report))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--prompt", type=int, nargs="+", default=[2048], help="prompt tokens, the video's among them")
    parser.add_argument("--completion", type=int, nargs="+", default=[8], help="tokens of every completion")
    parser.add_argument("--group", type=int, nargs="+", default=[14], help="completions a prompt")
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds; medians are reported")
    parser.add_argument("--grid", action="store_true", help=f"all cells of {GRID}")
    parser.add_argument("--model", choices=sorted(SHAPES), default="cpu-small")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--lora", action="store_true", help="adapters instead of full fine-tuning")
    parser.add_argument("--beta", type=float, default=1e-4, help="weight of the KL term; 0 leaves the reference out")
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="micro-batch sizes to try (default: 1 2 4 GROUP)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    return parser.parse_args()


def choose_device(options: argparse.Namespace) -> torch.device:
    """Say clearly where the figures come from, and refuse a shape that needs a GPU where there is none."""
    found = torch.cuda.is_available()
    if options.device == "cuda" and not found:
        raise SystemExit("--device cuda: torch sees no CUDA device here")
    if options.model == "qwen2-vl-2b" and not found:
        raise SystemExit(
            "--model qwen2-vl-2b: torch sees no CUDA device here, and a step of this shape takes hours on a CPU. "
            "Run the same command on a machine with a GPU, or use --model cpu-small."
        )
    device = torch.device("cuda" if found and options.device != "cpu" else "cpu")
    if device.type == "cpu":
        note(f"no GPU used: measured on the CPU, {options.threads} thread(s)")
    return device


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ measuring


def run_cell(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Tune every contender, then alternate; medians by contender and phase."""
    note(f"prompt {task.prompt}, completion {task.completion}, group {task.group}")
    vocabulary = SHAPES[options.model].vocabulary
    prompt = make_prompt(task.prompt, vocabulary, options.seed)
    tuned = {name: tune(name, task, options, prompt) for name in options.contenders}
    steps: dict[str, list[Step]] = {name: [] for name in tuned}
    for number in range(options.repeats):
        prompt = make_prompt(task.prompt, vocabulary, options.seed + 1 + number)
        for name, (contender, _) in rotated(list(tuned.items()), number):
            if contender is None:
                continue
            contender.move(task.device)
            steps[name].append(contender.step(prompt))
            taken = steps[name][-1]
            note(f"  {name}: {taken.wall['step']:.3f} s, of the processor {taken.processor['step']:.3f} s")
            if task.device.type == "cuda":
                contender.move(torch.device("cpu"))
    basis = basis_of(task.device, options.threads)
    contenders = {name: summary(tuned[name][1], taken, basis, task.group) for name, taken in steps.items()}
    cell = {"prompt": task.prompt, "completion": task.completion, "group": task.group}
    return {"cell": cell, "contenders": contenders}


def rotated(rows: list[Any], by: int) -> list[Any]:
    by %= len(rows)
    return rows[by:] + rows[:by]


def tune(
    name: str, task: Task, options: argparse.Namespace, prompt: Any
) -> tuple[Contender | None, dict[int, dict[str, Any]]]:
    """One step at each size; keep the fastest. The step is a warm-up too, and counts the bytes kept for backward."""
    basis = basis_of(task.device, options.threads)
    tried: dict[int, dict[str, Any]] = {}
    best: tuple[float, Contender | None] = (float("inf"), None)
    for batch in batch_sizes(name, task.group, options.batch_sizes or [1, 2, 4, task.group]):
        contender = None
        try:
            contender = build(name, task, batch)
            step = contender.step(prompt, count_held=True)
        except (torch.OutOfMemoryError, UserError) as error:
            if isinstance(error, UserError) and "out of memory" not in str(error):
                raise
            tried[batch] = {"out_of_memory": True}
            note(f"  {name}, micro-batch {batch}: out of memory")
        else:
            seconds = (step.wall if basis == "wall" else step.processor)["step"]
            tried[batch] = {
                "step": seconds,
                "held_bytes": step.held,
                "peak_bytes": step.peak,
                "allocated_bytes": step.allocated,
                "tokens": step.tokens,
                "parameters_changed": step.changed,
            }
            note(f"  {name}, micro-batch {batch}: {seconds:.3f} s, {step.held / 2**20:.0f} MiB kept")
            if seconds < best[0]:
                best = (seconds, contender)
        if best[1] is not None and task.device.type == "cuda":
            best[1].move(torch.device("cpu"))
        del contender
        gc.collect()
    return best[1], tried


def summary(tried: dict[int, dict[str, Any]], steps: list[Step], basis: str, group: int) -> dict[str, Any]:
    """Medians of the measured steps; None where the contender could not take one."""
    fitting = {size: row for size, row in tried.items() if "step" in row}
    if not steps or not fitting:
        return {"tried": tried, "seconds": None}
    batch = min(fitting, key=lambda size: fitting[size]["step"])
    wall, processor = (
        {phase: statistics.median(seconds[phase] for seconds in taken) for phase in PHASES}
        for taken in ([step.wall for step in steps], [step.processor for step in steps])
    )
    return {
        "micro_batch": batch,
        "tried": tried,
        "seconds": wall if basis == "wall" else processor,
        "wall_seconds": wall,
        "processor_seconds": processor,
        "every_step": [{"wall": step.wall["step"], "processor": step.processor["step"]} for step in steps],
        "held_bytes": fitting[batch]["held_bytes"],
        "peak_bytes": fitting[batch]["peak_bytes"],
        "held_bytes_whole_group": fitting[group]["held_bytes"] if group in fitting else None,
        "allocated_bytes": max(step.allocated for step in steps),
        "tokens": steps[-1].tokens,
        "parameters_changed": all(step.changed for step in steps),
    }


def basis_of(device: torch.device, threads: int) -> str:
    return "processor" if device.type == "cpu" and threads == 1 else "wall"


def floors(task: Task, options: argparse.Namespace, rates: Any) -> dict[str, Any]:
    from transformers import AutoConfig

    sizes = (task.prompt, task.completion, task.group)
    width = 2 if task.precision == "bf16" else 4
    config, grid = AutoConfig.from_pretrained(task.model), grid_for(task.prompt)
    return {"floor": floor_seconds(config, grid, sizes, task.lora, task.beta > 0, rates, width)}


def add_ratios(result: dict[str, Any]) -> None:
    """Other contenders over the engine, within this run."""
    rows = {name: row for name, row in result["contenders"].items() if row["seconds"]}
    engine, ratio = rows.get("engine"), {}
    for name in ("trl", "naive"):
        row = rows.get(name)
        pair = row is not None and engine is not None
        ratio[f"{name}_over_engine"] = row["seconds"]["step"] / engine["seconds"]["step"] if pair else None
        ratio[f"wall_{name}_over_engine"] = (
            row["wall_seconds"]["step"] / engine["wall_seconds"]["step"] if pair else None
        )
        ratio[f"memory_{name}_over_engine"] = row["held_bytes"] / engine["held_bytes"] if pair else None
        whole = pair and row["held_bytes_whole_group"]
        ratio[f"memory_{name}_whole_group_over_engine"] = whole / engine["held_bytes"] if whole else None
        for phase in PHASES[:-1]:
            usable = pair and engine["seconds"][phase] > 0
            ratio[f"{phase}_{name}_over_engine"] = row["seconds"][phase] / engine["seconds"][phase] if usable else None
    result["ratio"] = ratio
    if engine:
        result["share_of_floor"] = result["floor"]["step"] / engine["seconds"]["step"]
    hours = {name: row["seconds"]["step"] * PAPER_PROMPTS / 3600 for name, row in rows.items()}
    result["projected_hours"] = {"prompts": PAPER_PROMPTS, "paper_reports": PAPER_HOURS, **hours}


def growth(results: list[dict[str, Any]]) -> dict[str, float]:
    """The engine's step at 16 completions over that at 4, by prompt and completion length."""
    times = {
        (row["cell"]["prompt"], row["cell"]["completion"], row["cell"]["group"]): row["contenders"]["engine"]["seconds"]
        for row in results
        if row["contenders"].get("engine", {}).get("seconds")
    }
    return {
        f"{prompt}/{completion}": times[prompt, completion, 16]["step"] / times[prompt, completion, 4]["step"]
        for prompt, completion, group in times
        if group == 16 and (prompt, completion, 4) in times
    }


def machine(device: torch.device, precision: str, options: argparse.Namespace, rates: Any) -> dict[str, Any]:
    import transformers

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "gpu": device.type == "cuda",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": options.threads,
        "basis": basis_of(device, options.threads),
        "precision": precision,
        "teraflops": rates.operations / 1e12,
        "gigabytes_per_second": rates.bytes / 1e9,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


# ------------------------------------------------------------------ tables


def line(result: dict[str, Any]) -> str:
    """A cell in one line, for a run of many that someone watches or that is cut short."""
    cell, rows = result["cell"], result["contenders"]
    seconds = [
        f"{name} {row['seconds']['step']:.3f} s" if row["seconds"] else f"{name} out of memory"
        for name, row in rows.items()
    ]
    ratios = [
        f"{result['ratio'][f'{name}_over_engine']:.2f}x {name}"
        for name in ("trl", "naive")
        if result["ratio"][f"{name}_over_engine"]
    ]
    return f"{cell['prompt']}/{cell['completion']}/{cell['group']}: {', '.join([*seconds, *ratios])}"


def markdown(result: dict[str, Any]) -> str:
    cell, ratio = result["cell"], result["ratio"]
    lines = [
        f"\n### prompt {cell['prompt']}, completion {cell['completion']}, group {cell['group']}",
        "| contender | micro-batch | sampling s | reference s | update s | step s | MiB for backward | over engine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["contenders"].items():
        if not row["seconds"]:
            lines.append(f"| {name} | - | - | - | - | out of memory | - | - |")
            continue
        times = " | ".join(f"{row['seconds'][phase]:.3f}" for phase in PHASES)
        over = ratio.get(f"{name}_over_engine")
        kept = f"{row['held_bytes'] / 2**20:.0f}"
        lines.append(f"| {name} | {row['micro_batch']} | {times} | {kept} | {f'{over:.1f}x' if over else ''} |")
    tried = [
        f"{name}: " + ", ".join(f"{size}: {_tried(row)}" for size, row in entry["tried"].items())
        for name, entry in result["contenders"].items()
    ]
    lines += ["", "Warm-up step by micro-batch size. " + "; ".join(tried) + "."]
    lines.append(f"Floor of a step that pays for the prompt once: {result['floor']['step']:.3f} s.")
    return "\n".join(lines)


def _tried(row: dict[str, Any]) -> str:
    return f"{row['step']:.2f} s and {row['held_bytes'] / 2**20:.0f} MiB" if "step" in row else "out of memory"


def grid_markdown(results: list[dict[str, Any]]) -> str:
    keys = ("trl_over_engine", "naive_over_engine", "memory_trl_whole_group_over_engine", "memory_trl_over_engine")
    lines = [f"\n| prompt | completion | group | engine s | {' | '.join(keys)} |", "|---" * (4 + len(keys)) + "|"]
    for result in results:
        values = [result["ratio"][key] for key in keys]
        engine = (result["contenders"].get("engine") or {}).get("seconds") or {}
        cells = [*result["cell"].values(), f"{engine.get('step', float('nan')):.3f}"]
        cells += [f"{value:.1f}x" if value else "-" for value in values]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
