"""``harness world``: render the embedded world, look at it, and measure what can be guessed without the video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(help="Generate and audit the embedded world of rooms; pre-train its model.", no_args_is_help=True)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


@app.command()
def render(
    split: Annotated[str, typer.Option(help="Split to render: test, dev, train or pretrain.")] = "test",
    scenes: Annotated[int | None, typer.Option(help="Number of scenes. \\[default: the split's own]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. \\[default: cache/world/VERSION]")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = 2,
    size: Annotated[int, typer.Option(help="Pixels per side of the frames, a multiple of 28.")] = 84,
) -> None:
    """Write a split's videos and questions in VSI-Bench's layout; scenes that are already there are kept."""
    from harness.world.build import build_split
    from harness.world.scenes import WORLD_VERSION

    with _bar() as bar:
        task = bar.add_task(f"{split}: scenes", total=None)
        root = build_split(
            split,
            out or Path("cache/world") / WORLD_VERSION,
            scenes,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            size=size,
        )
    typer.echo(root / f"{split}.jsonl")


@app.command()
def show(
    seed: Annotated[int, typer.Argument(help="Seed of the scene.")],
    out: Annotated[Path | None, typer.Option(help="Picture to write; world-SEED.png if left out.")] = None,
) -> None:
    """Draw a scene's frames, floor plan, questions and answers."""
    from harness.world.sheet import contact_sheet

    path = out or Path(f"world-{seed}.png")
    contact_sheet(seed, path)
    typer.echo(path)


@app.command()
def audit(
    train_scenes: Annotated[int, typer.Option(min=20, help="Scenes to fit the blind baselines on.")] = 1_500,
    test_scenes: Annotated[int, typer.Option(min=5, help="Scenes to score them on.")] = 400,
    seed: Annotated[int, typer.Option(min=0, max=100, help="Which scenes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score chance, the best constant and a text-only prior: what the questions tell without the video."""
    from harness.world.audit import audit as run_audit

    with _bar() as bar:
        task = bar.add_task("scenes", total=train_scenes + test_scenes)
        scores = run_audit(
            train_scenes,
            test_scenes,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(scores.round(2).to_dict(orient="index"), indent=1))
        return
    headers = ("SE" if name == "text_prior_se" else str(name) for name in scores.columns)
    table = Table("question type", *headers, title="Answers without the video, 0 to 100")
    table.columns[0].min_width = max(map(len, scores.index))  # three names differ only at their ends
    for row in scores.itertuples():
        table.add_row(str(row[0]), *(f"{value:.1f}" for value in row[1:-1]), str(row[-1]))
    Console().print(table)
