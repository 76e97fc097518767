"""The command line, put together. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import Annotated, cast

import typer

from harness.cli import data, doctor, plugins, results, studies, world
from harness.cli.options import SETUP
from harness.console import Console
from harness.errors import UserError
from harness.visible import lost_output, own_streams

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
"""A wrong option or argument; typer exports only kinds of it."""
_FIXABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EMFILE, errno.ENFILE),
)
"""Errors of the operating system that the user can fix: a full disk, a missing right, a file in a folder's place, links
in a circle, a name that is too long, too many open files."""


app = typer.Typer(
    name="harness",
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

        Console().say(version_of("vlm-harness"))
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
    _without_ascii_paths()
    own_streams()
    code = _run()
    if lost := lost_output():
        _tell(f"the output could not be written: {lost}")
        code = code or EXIT_USER_ERROR
    sys.exit(code)


def _without_ascii_paths() -> None:
    """Start again in UTF-8 mode where Python takes paths for ASCII, which those that files name need not be."""
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        shown_in = getattr(sys.stdout, "encoding", "ascii")
        environment = {"PYTHONIOENCODING": shown_in} | os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _run() -> int:
    try:
        _refuse_empty(sys.argv[1:])
        return int(app(prog_name="harness", standalone_mode=False) or 0)
    except _UsageError as error:
        if error.ctx is not None and (message := error.format_message()):  # none: the whole help was printed
            Console(stderr=True).say(error.ctx.get_usage())
            Console(stderr=True).say(f"Try '{error.ctx.command_path} --help' for help.", style="dim")
            _tell(message)
    except UserError as error:
        _tell(str(error))
    except OSError as error:
        if error.errno not in _FIXABLE:
            raise
        _tell(f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror))
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    return EXIT_USER_ERROR


def _tell(mistake: str) -> None:
    Console(stderr=True).say(("error: ", "bold red"), mistake)
