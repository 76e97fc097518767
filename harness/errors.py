"""The exception for everything that the user can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake, or something missing, that the user can fix.

    The command line prints its message without a traceback and exits with code 2.
    The message names the key or option, the file if there is one, and the fix.
    """


def unknown_name(what: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that is not known, with the nearest known one.

    Args:
        what: Where the name came from, as the user wrote it, for example ``--methods gpro``.
        name: The unknown name.
        known: All names that would have been accepted.
    """
    return UserError(f"`{what}`: no such name{closest(name, known)}")


def closest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all."""
    names = sorted(known)
    typed, known_as = name.lower(), {one.lower(): one for one in names}
    close = [known_as[one] for one in difflib.get_close_matches(typed, known_as, n=5, cutoff=0.5)]
    close.sort(key=lambda one: sorted(one.lower()) != sorted(typed))  # swapped letters are the likeliest slip
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"{hint} Known: {', '.join(names) or 'none'}"


def first_few(items: Sequence[str], separator: str = ", ", shown: int = 5) -> str:
    """The first items of a list for a message, and how many more there are."""
    more = f"{separator.removeprefix(',')}and {len(items) - shown} more" if len(items) > shown else ""
    return separator.join(items[:shown]) + more
