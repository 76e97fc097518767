"""What data says reaches a terminal as text that is seen, and nothing in it acts."""

import io
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import BinaryIO

import pytest
from rich.table import Table
from rich.traceback import Traceback

from harness.console import MIN_WIDTH, Console, Text
from harness.visible import clean, paragraph, visible

NASTY = {
    "colour": ("\x1b[31mred", r"\x1b[31mred"),
    "title": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "C1": ("\x9b2J\x85", r"\x9b2J\x85"),
    "overwrite": ("good\rbad\b\x0b\x0c", r"good\rbad\x08\x0b\x0c"),
    "bidi": ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
    "line separators": ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
    "zero width": ("a\u200bb\u200dc\u2060d\ufeffe\u00adf", r"a\u200bb\u200dc\u2060d\ufeffe\xadf"),
    "fillers": ("a\u3164b\u115fc\ufe0fd\U000e0100", r"a\u3164b\u115fc\ufe0fd\U000e0100"),
    "tags": ("\U000e0041", r"\U000e0041"),
    "not UTF-8": (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    "markup": ("x[/b] [link=http://a]y[/link] exp[v1] :smile:", "x[/b] [link=http://a]y[/link] exp[v1] :smile:"),
    "words": ("Zürich 漢字 ±1.0\u00a0µ", "Zürich 漢字 ±1.0\u00a0µ"),
}
ACTS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.parametrize(("text", "shown"), NASTY.values(), ids=NASTY)
def test_what_is_not_seen_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown == visible(shown)


def test_no_other_character_of_unicode_is_unseen() -> None:
    unseen = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    every = map(chr, range(sys.maxunicode + 1))
    assert not [c for c in every if unicodedata.category(c) in unseen and visible(c) == c and c not in "\n\t"]


def test_clean_text_is_one_line() -> None:
    assert clean("a\x1b[31mb\x00\r\n\tc\u202e\u200b") == r"a\x1b[31mb\x00 c\u202e\u200b"


def test_a_name_forges_no_second_message() -> None:
    assert paragraph("`a\nerror: all is lost`: no such file") == "`a\n  error: all is lost`: no such file"
    assert paragraph("two records:\n  a\n  b") == "two records:\n  a\n  b"


def printed(*things: object, **options: object) -> str:
    console = Console(file=io.StringIO(), width=200, **options)
    for one in things:
        console.print(one)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("text", "shown"), NASTY.values(), ids=NASTY)
def test_every_way_to_print_is_made_visible_and_loses_nothing(text: str, shown: str) -> None:
    table = Table(text, title=text, caption=text)
    table.add_row(Text(text))
    table.add_row(Text("before ").append(text))
    table.add_row(text)
    seen = printed(text, Text(text), Text.assemble((text, "bold")), table)
    assert seen.count(shown) == 9 and not ACTS.search(seen)


def test_libraries_own_renderables_are_made_visible() -> None:
    try:
        raise ValueError(NASTY["colour"][0])
    except ValueError:
        seen = printed(Traceback())
    assert "31mred" in seen and not ACTS.search(seen)


def test_a_link_of_a_library_is_not_followed() -> None:
    assert "http" not in printed(Text.from_ansi("\x1b]8;;http://a\x1b\\b\x1b]8;;\x1b\\"), force_terminal=True)


def test_messages_keep_their_styles_and_their_paths_whole() -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system="standard", _environ={})
    console.say(("error: ", "bold red"), f"{'long/' * 30}x[/b]\nerror: no")
    assert console.file.getvalue() == f"\x1b[1;31merror: \x1b[0m{'long/' * 30}x[/b]\n  error: no\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("columns", ["0", "1", "20", "x", "-3"])
def test_a_narrow_terminal_loses_nothing_and_is_not_redrawn(columns: str) -> None:
    environment = {"COLUMNS": columns, "TERM": "xterm"}
    console = Console(file=io.StringIO(), force_terminal=True, _environ=environment)
    assert console.width >= MIN_WIDTH
    assert console.animates == (columns in ("x", "-3"))
    assert not Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"}).animates


LIBRARY = """
import logging, sys, warnings
from harness.visible import lost_output, own_streams
from harness.console import Console
own_streams()
warnings.warn("warned \\x1b[31m")
logging.getLogger("a").warning("logged \\x1b[31m")
print("\\rprinted \\x1b[31m é")
Console(force_terminal=True).say(("ours é", "bold"))
print("lost:", lost_output(), file=sys.stderr)
raise ValueError("raised \\x1b[31m")
"""


def run(code: str, out: int | BinaryIO = subprocess.PIPE) -> tuple[str, str]:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "TERM": "xterm", "NO_COLOR": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.PIPE, check=False)
    return (done.stdout or b"").decode("ascii"), done.stderr.decode("ascii")


def test_what_libraries_print_is_made_visible_in_any_encoding() -> None:
    out, err = run(LIBRARY)
    assert out == "\rprinted \\x1b[31m \\xe9\n\x1b[1mours \\xe9\x1b[0m\n"
    for word in ("warned", "logged", "raised"):
        assert rf"{word} \x1b[31m" in err
    assert not ACTS.search(err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_lost_output_is_known() -> None:
    with Path("/dev/full").open("wb") as full:
        _, err = run(LIBRARY, full)
    assert "lost: No space left on device" in err


CLOSED = """
import os, sys
from harness.visible import own_streams
own_streams()
print("goes nowhere")
sys.stderr.write(str(os.open(".", os.O_RDONLY) > 2))
"""


def test_what_an_unbuffered_process_wrote_is_there_when_it_is_killed() -> None:
    code = "import os; from harness.visible import own_streams; own_streams(); print('said', end=''); os._exit(3)"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"said")


def test_a_closed_stream_is_no_file_that_is_opened_later() -> None:
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&-', sys.executable, CLOSED]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b"True"


def test_a_progress_bar_draws_text() -> None:
    from harness.study.display import progress_bar

    console = Console(file=io.StringIO(), width=200, force_terminal=True, _environ={"TERM": "xterm"})
    with progress_bar("world[/b] \x1b[5A", console) as show:
        show(1, 2)
    assert r"world[/b] \x1b[5A" in console.file.getvalue()  # type: ignore[attr-defined]
