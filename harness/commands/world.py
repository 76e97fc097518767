"""``harness world``: the embedded world's own command line, with its model's pre-training below it."""

from __future__ import annotations

import importlib.util

import typer


def world_app() -> typer.Typer:
    """The world's commands; ``pretrain`` is among them where the package has it."""
    from harness.world.cli import app

    whole = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    whole.add_typer(app)
    if importlib.util.find_spec("harness.world.pretrain.cli") is not None:
        from harness.world.pretrain.cli import app as pretrain

        whole.add_typer(pretrain, name="pretrain")
    return whole


def run(arguments: list[str]) -> int:
    """Hand the rest of the command line on; gives the exit code."""
    try:
        code = world_app()(arguments or ["--help"], prog_name="harness world", standalone_mode=False)
    except typer.Abort as error:  # how Typer reports Ctrl-C
        raise KeyboardInterrupt from error
    return code if isinstance(code, int) else 0
