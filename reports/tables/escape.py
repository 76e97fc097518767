"""Making text from data safe to show: one clean line, then the escapes of LaTeX and Markdown."""

from __future__ import annotations

import re
import unicodedata

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{DAGGER}": r"\textdagger{}",
    "\N{DOUBLE DAGGER}": r"\textdaggerdbl{}",
    "\N{DEGREE SIGN}": r"\textdegree{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
}

_LETTERS = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿ"
    "ĂăĄąĆćČčĎďĘęĚěĞğĹĺĽľŁłŃńŇňŐőŒœŔŕŘřŚśŞşŠšŤťŢţŮůŰűŸŹźŻżŽž"
)
"""Letters of the T1 font encoding, which pdflatex sets as they are."""


def clean(text: str) -> str:
    """One line of printable text: white space becomes single spaces, control characters vanish."""
    line = " ".join(text.split())
    return "".join(c for c in line if not unicodedata.category(c).startswith("C"))


def escape_latex(text: str) -> str:
    """Clean text as LaTeX source; characters that pdflatex cannot set are written as their code point."""
    escaped = "".join(_latex_character(c) for c in clean(text))
    return re.sub("--+", lambda dashes: "{}".join(dashes[0]), escaped)


def escape_markdown(text: str) -> str:
    """Clean text as GitHub-flavoured Markdown: nothing in it is markup, a cell's end or HTML."""
    escaped = re.sub(r"([\\`*_{}|#~$])", r"\\\1", clean(text).replace("&", "&amp;"))
    escaped = re.sub(r"\](?=[(\[:])|\[(?=\^)", r"\\\g<0>", escaped)  # links, footnotes; plain brackets are text
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", escaped).replace(">", "&gt;")


def _latex_character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    return c if c.isascii() or c in _LETTERS else f"U+{ord(c):04X}"
