"""``harness world pretrain``: make the tiny base model again, in stages, resumable."""

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
    shards: Annotated[int, typer.Option(min=1, max=900, help="Shards of 500 scenes to render.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Training threads; rendering takes one process more.")] = 1,
) -> None:
    """Pre-train the tiny Qwen2-VL on the embedded world and write its folder."""
    from harness.world.pretrain.stages import Run
    from harness.world.pretrain.stages import pretrain as run_recipe

    console = Console()

    def show(point: dict[str, Any]) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in point["losses"].items())
        console.print(f"{point['stage']} {point['step']}/{point['of']}  {losses}", highlight=False)
        for part in ("vision", "probes"):
            if part in point:
                scores = "  ".join(f"{name} {value:.2f}" for name, value in point[part].items())
                console.print(f"  held-out {part}: {scores}", highlight=False)
        for name, (value, n) in point.get("answers", {}).items():
            console.print(f"  held-out {name}: {value:.1f} (n={n})", highlight=False)

    complete = run_recipe(Run(seed, out, work, shards, scale, minutes, threads), show)
    console.print(f"{out} is written" if complete else f"stopped; the same command resumes from {work}")
