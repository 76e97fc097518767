"""What tests of the command line share: how a command ended, and what a mistake must look like."""

from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


def mistake(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.out + ended.err
    flat = " ".join(ended.err.split())
    for word in words:
        assert word in flat, flat
