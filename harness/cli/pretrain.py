"""``harness world pretrain`` and ``harness world score``: make the tiny base model again, and measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def pretrain(
    out: Annotated[Path, typer.Option(help="Model folder to write.")] = Path("runs/tiny"),
    work: Annotated[Path, typer.Option(help="Shards, checkpoint, curves.")] = Path("cache/pretrain"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, noise and order.")] = 0,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Stop after so long; call again to resume.")] = None,
    scale: Annotated[float, typer.Option(min=0.001, help="Factor on the steps of every stage.")] = 1.0,
    shards: Annotated[int, typer.Option(min=1, max=900, help="Shards of 250 scenes to render.")] = 26,
    threads: Annotated[int, typer.Option(min=1, help="Training threads.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render, and make batches if above 2.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    ceiling: Annotated[bool, typer.Option("--ceiling", help="Go on to what the network can reach at most.")] = False,
) -> None:
    """Pre-train the tiny Qwen2-VL on the embedded world and write its folder."""
    from harness.world.pretrain.stages import Run
    from harness.world.pretrain.stages import pretrain as run_recipe

    console = Console()

    def show(point: dict[str, Any]) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in point["losses"].items())
        seconds = f"  {point['seconds']:.0f} s" if "seconds" in point else ""
        console.print(f"{point['stage']} {point['step']}/{point['of']}{seconds}  {losses}", highlight=False)
        for part in ("vision", "probes"):
            if part in point:
                scores = "  ".join(f"{name} {value:.2f}" for name, value in point[part].items())
                console.print(f"  held-out {part}: {scores}", highlight=False)
        for name, (value, n) in point.get("answers", {}).items():
            console.print(f"  held-out {name}: {value:.1f} (n={n})", highlight=False)

    complete = run_recipe(Run(seed, out, work, shards, scale, minutes, threads, workers, device, ceiling), show)
    console.print(f"{out} is written" if complete else f"stopped; the same command resumes from {work}")


def score(
    folder: Annotated[Path, typer.Option(help="Model folder.")] = Path("runs/tiny"),
    world: Annotated[Path, typer.Option(help="Folder of the world's splits.")] = Path("cache/world"),
    split: Annotated[str, typer.Option(help="Split to answer.")] = "test",
    scenes: Annotated[int, typer.Option(min=5, help="Scenes of it.")] = 200,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make missing videos.")] = 2,
    tower: Annotated[
        Path | None,
        typer.Option(help="after-vision.pt of the model's run: adds the ceiling by geometry from its tower."),
    ] = None,
) -> None:
    """Score a model folder on a split's videos, next to the best constant, the text-only prior and, with --tower, the
    ceiling by geometry."""
    import torch

    from harness.io import write_json
    from harness.vsibench.scoring import overall_of_types
    from harness.world.pretrain.measure import measure

    torch.set_num_threads(threads)
    table, unparsable = measure(folder, world, split, scenes, workers=workers, tower=tower)
    columns = [name for name in ("constant", "text_prior", "base", "ceiling") if name in table]
    mean = {name: overall_of_types({str(kind): value for kind, value in table[name].items()}) for name in columns}
    typer.echo(f"| question type | n | {' | '.join(columns)} | 95% interval of base |")
    typer.echo("|---" * (len(columns) + 3) + "|")
    for kind, row in table.iterrows():
        shown = " | ".join(f"{row[name]:.1f}" for name in columns)
        typer.echo(f"| {kind} | {row['n']:.0f} | {shown} | {row['low']:.1f} to {row['high']:.1f} |")
    typer.echo(f"| mean of the eight tasks | | {' | '.join(f'{mean[name]:.1f}' for name in columns)} | |")
    typer.echo(f"answers that could not be parsed: {unparsable:.2%}")
    rounded = {name: round(value, 2) for name, value in mean.items()}
    types = table.round(2).to_dict(orient="index")
    scored = {"split": split, "scenes": scenes, "types": types, "mean_of_tasks": rounded, "unparsable": unparsable}
    write_json(folder / "scores.json", scored)
