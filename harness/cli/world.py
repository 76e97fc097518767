"""``harness world``: the embedded world's own command line, with its model's pre-training and scores below it."""

from __future__ import annotations

import typer


def world_app() -> typer.Typer:
    """The world's commands, ``pretrain`` and ``score``."""
    from harness.cli.pretrain import pretrain, score
    from harness.cli.rooms import app

    whole = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    whole.add_typer(app)
    whole.command()(pretrain)
    whole.command()(score)
    return whole


def run(arguments: list[str]) -> int:
    """Hand the rest of the command line on; gives the exit code."""
    try:
        code = world_app()(arguments or ["--help"], prog_name="harness world", standalone_mode=False)
    except typer.Abort as error:  # how Typer reports Ctrl-C
        raise KeyboardInterrupt from error
    return code if isinstance(code, int) else 0
