"""The command line of plugins: list, show, check, new."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import MORE, PluginOption

app = typer.Typer()


class Kind(StrEnum):
    """What `harness new` can write."""

    ALGORITHM = "algorithm"
    REWARD = "reward"
    BENCHMARK = "benchmark"


@app.command("list", rich_help_panel=MORE)
def list_(plugin: PluginOption = None) -> None:
    """List methods, rewards, benchmarks, models and reports: where each comes from, what it needs and costs."""
    from harness.cli import plugins

    raise typer.Exit(plugins.list_plugins())


@app.command(rich_help_panel=MORE)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, reward or benchmark; or grpo:beta=0.")],
    plugin: PluginOption = None,
) -> None:
    """Show a method's equation, what it needs, and each hyper-parameter with its default, meaning and source."""
    from harness.cli import plugins

    raise typer.Exit(plugins.show(name))


@app.command(rich_help_panel=MORE)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method or reward, yours or built in; or grpo:beta=0.")],
    plugin: PluginOption = None,
    pure: Annotated[
        bool, typer.Option("--pure", metavar="", help="Without the two training steps on the tiny model.")
    ] = False,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="Folder for generated data.")] = Path("cache"),
) -> None:
    """Run the conformance suite on a method or reward; a failure names the likely mistake.

    [bold]Examples[/bold]

    \b
    harness check grpo
    harness check my_method --plugin my_method.py
    """
    from harness.cli import plugins

    raise typer.Exit(plugins.check(name, pure=pure, cache=cache))


@app.command(rich_help_panel=MORE)
def new(
    kind: Annotated[Kind, typer.Argument(help="What it is.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called, such as my-method.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the package. \\[default: NAME]")
    ] = None,
) -> None:
    """Write a small installable package with a worked method, reward or benchmark, its tests and a README.

    [bold]Example[/bold]

    \b
    harness new algorithm my-method
    pip install -e my-method && harness check my-method
    """
    from harness.cli import plugins

    raise typer.Exit(plugins.new(kind.value, name, out))
