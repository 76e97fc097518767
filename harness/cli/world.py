"""``harness world``: render the embedded world, look at it and audit it; pre-train and score its model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from harness.cli.options import AsJson, command, out_option
from harness.console import Console
from harness.errors import UserError

app = typer.Typer(help="Generate and audit the embedded world of rooms; pre-train its model.", no_args_is_help=True)

Split = Annotated[str, typer.Option(metavar="NAME", help="Split of the world: test, dev, train or pretrain.")]
Workers = Annotated[int, typer.Option(min=1, metavar="N", help="Processes that render scenes.")]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help="Threads of torch.")]


@command(app)
def render(
    split: Split = "test",
    scenes: Annotated[
        int | None, typer.Option(metavar="N", help="Number of scenes. \\[default: the split's own]")
    ] = None,
    out: Annotated[Path | None, out_option("cache/world/VERSION")] = None,
    workers: Workers = 2,
    size: Annotated[int, typer.Option(metavar="N", help="Pixels per side of the frames, a multiple of 28.")] = 84,
) -> None:
    """Write a split's videos and questions in VSI-Bench's layout; scenes that are already there are kept."""
    from harness.study.display import progress_bar
    from harness.world.build import build_split
    from harness.world.scenes import WORLD_VERSION

    folder = out or Path("cache/world") / WORLD_VERSION
    with progress_bar(f"{split}: scenes", Console(stderr=True)) as show:
        root = build_split(split, folder, scenes, workers=workers, progress=show, size=size)
    Console().say(str(root / f"{split}.jsonl"))


@command(app)
def show(
    seed: Annotated[int, typer.Argument(metavar="SEED", help="Seed of the scene.")],
    out: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="Picture to write. \\[default: world-SEED.png]", dir_okay=False),
    ] = None,
) -> None:
    """Draw a scene's frames, floor plan, questions and answers."""
    from harness.world.sheet import contact_sheet

    path = out or Path(f"world-{seed}.png")
    contact_sheet(seed, path)
    Console().say(str(path))


@command(app)
def audit(
    train_scenes: Annotated[int, typer.Option(min=20, metavar="N", help="Scenes to fit the baselines on.")] = 1_500,
    test_scenes: Annotated[int, typer.Option(min=5, metavar="N", help="Scenes to score them on.")] = 400,
    seed: Annotated[int, typer.Option(min=0, max=100, metavar="N", help="Random seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Score the best constant and a text-only prior: what the questions give away without the video."""
    from harness.study.display import progress_bar
    from harness.world.audit import audit as run_audit

    with progress_bar("scenes", Console(stderr=True)) as show:
        scores = run_audit(train_scenes, test_scenes, seed=seed, progress=show)
    if as_json:
        Console().print(json.dumps(scores.round(2).to_dict(orient="index"), indent=1), soft_wrap=True)
        return
    headers = ("SE" if name == "text_prior_se" else str(name) for name in scores.columns)
    table = Table("question type", *headers, title="Answers without the video, 0 to 100")
    table.columns[0].min_width = max(map(len, scores.index))  # three names differ only at their ends
    for row in scores.itertuples():
        table.add_row(str(row[0]), *(f"{value:.1f}" for value in row[1:-1]), str(row[-1]))
    Console().print(table)


@command(app)
def pretrain(
    out: Annotated[Path, out_option("runs/tiny")] = Path("runs/tiny"),
    work: Annotated[Path, typer.Option(metavar="DIR", help="Folder for shards, checkpoint and curves.")] = Path(
        "cache/pretrain"
    ),
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Random seed.")] = 0,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, metavar="N", help="Stop after so long; the same command resumes.")
    ] = None,
    scale: Annotated[float, typer.Option(min=0.001, metavar="X", help="Factor on the steps of every stage.")] = 1.0,
    shards: Annotated[int, typer.Option(min=1, max=900, metavar="N", help="Shards of 250 scenes to render.")] = 26,
    threads: Threads = 1,
    workers: Workers = 2,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Device to train on.")] = "cpu",
    ceiling: Annotated[
        bool, typer.Option("--ceiling", metavar="", help="Train on, to what the network can reach at most.")
    ] = False,
) -> None:
    """Pre-train the tiny Qwen2-VL on the embedded world and write its folder.

    With more than two workers, the others make batches.
    """
    import torch

    if math.isnan(scale) or (minutes is not None and math.isnan(minutes)):  # which no bound of an option excludes
        raise UserError("`--minutes` and `--scale` take numbers, not nan")
    from harness.world.pretrain.stages import Run
    from harness.world.pretrain.stages import pretrain as run_recipe

    torch.set_num_threads(threads)
    console = Console()

    def show(point: dict[str, Any]) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in point["losses"].items())
        seconds = f"  {point['seconds']:.0f} s" if "seconds" in point else ""
        console.say(f"{point['stage']} {point['step']}/{point['of']}{seconds}  {losses}")
        for part in ("vision", "probes"):
            if part in point:
                scores = "  ".join(f"{name} {value:.2f}" for name, value in point[part].items())
                console.say(f"  held-out {part}: {scores}")
        for name, (value, n) in point.get("answers", {}).items():
            console.say(f"  held-out {name}: {value:.1f} (n={n})")

    complete = run_recipe(Run(seed, out, work, shards, scale, minutes, workers, device, ceiling), show)
    console.say(f"{out} is written" if complete else f"stopped; the same command resumes from {work}")


@command(app)
def score(
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Model folder.")] = Path("runs/tiny"),
    world: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the world's splits.")] = Path("cache/world"),
    split: Split = "test",
    scenes: Annotated[int, typer.Option(min=5, metavar="N", help="Number of scenes.")] = 200,
    threads: Threads = 1,
    workers: Workers = 2,
    as_json: AsJson = False,
    tower: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="after-vision.pt of the model's run: adds the ceiling by geometry."),
    ] = None,
) -> None:
    """Score a model on a split's videos, next to the best constant and the text-only prior."""
    import torch

    from harness.vsibench.scoring import overall_of_types
    from harness.world.pretrain.measure import measure

    torch.set_num_threads(threads)
    table, unparsable = measure(folder, world, split, scenes, workers=workers, tower=tower)
    columns = [name for name in ("constant", "text_prior", "base", "ceiling") if name in table]
    mean = {name: overall_of_types({str(kind): value for kind, value in table[name].items()}) for name in columns}
    if as_json:
        rounded = {name: round(value, 2) for name, value in mean.items()}
        scored = {"split": split, "scenes": scenes, "types": table.round(2).to_dict(orient="index")}
        Console().say(json.dumps(scored | {"mean_of_tasks": rounded, "unparsable": unparsable}, indent=1))
        return
    console = Console()
    console.say(f"| question type | n | {' | '.join(columns)} | 95% interval of base |")
    console.say("|---" * (len(columns) + 3) + "|")
    for kind, row in table.iterrows():
        shown = " | ".join(f"{row[name]:.1f}" for name in columns)
        console.say(f"| {kind} | {row['n']:.0f} | {shown} | {row['low']:.1f} to {row['high']:.1f} |")
    console.say(f"| mean of the eight tasks | | {' | '.join(f'{mean[name]:.1f}' for name in columns)} | |")
    console.say(f"answers that could not be parsed: {unparsable:.2%}")
