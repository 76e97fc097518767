"""The command line, put together. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from harness.cli import data, doctor, plugins, results, studies, world
from harness.cli.options import SETUP
from harness.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_FIXABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)
"""Errors of the operating system that the user can fix: a full disk, a missing right, a file in a folder's place."""


class _Output(io.FileIO):
    """An output whose reader may leave, as in ``harness compare | head``: the rest goes nowhere, and work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)

    @classmethod
    def in_place_of(cls, stream: TextIO) -> TextIO:
        """A process's own output with this behaviour, and "?" for what its encoding lacks; any other as it is."""
        if not isinstance(stream, io.TextIOWrapper) or stream not in (sys.__stdout__, sys.__stderr__):
            return stream
        stream.flush()
        raw = io.BufferedWriter(cls(stream.fileno(), "w", closefd=False))
        return io.TextIOWrapper(raw, encoding=stream.encoding, errors="replace", line_buffering=stream.line_buffering)


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # else Typer would print "Aborted!" and exit with 1
            sys.exit(EXIT_INTERRUPTED)


app = typer.Typer(
    name="harness",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which post-training method is better on my data and budget, and is the difference real?",
)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(version_of("vlm-harness"))
        raise typer.Exit


for family in (studies, results, doctor, plugins):
    app.add_typer(family.app)
app.add_typer(data.app, name="data", rich_help_panel=SETUP)
app.add_typer(world.app, name="world", rich_help_panel=SETUP)


def _refuse_empty(arguments: list[str]) -> None:
    """An empty name would be the present folder, or no value at all."""
    for one in arguments:
        if not one.strip() or re.fullmatch(r"--[\w-]+=\s*", one):
            raise UserError(f"the argument `{one}` is empty: a variable of the shell that is not set?")


def main() -> None:
    """Run the command line; a user's mistake ends with a message and exit code 2, never a traceback."""
    sys.stdout, sys.stderr = map(_Output.in_place_of, (sys.stdout, sys.stderr))
    try:
        _refuse_empty(sys.argv[1:])
        app(prog_name="harness")
    except (UserError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            if error.errno not in _FIXABLE:
                raise
            message = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        text = Text.assemble(("error: ", "bold red"), message)
        Console(stderr=True, highlight=False).print(text, soft_wrap=True)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
