"""Running text for Markdown and LaTeX, and the only functions through which text from data reaches a format.

Labels, answers and error messages may hold anything. :func:`harness.visible.clean` makes one printable line of them;
the two escapes make that line literal text in their format.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from harness.visible import clean

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
    "\N{SUPERSCRIPT TWO}": r"\textsuperscript{2}",
    "\N{GREEK SMALL LETTER TAU}": r"$\tau$",
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
"""Letters of the T1 font encoding, which pdflatex typesets as they are."""

_TABLE_ROWS = 40
"""Rows of one LaTeX table, which cannot break across pages."""


@dataclass(frozen=True)
class Block:
    """A part of a document; all text in it is plain.

    Attributes:
        kind: A heading or a paragraph (one cell), a list or lines of code (one cell per row), or a table (its header
            row first).
        rows: The text.
        align: Alignment of a table's columns, a letter each (``l``, ``r``); all to the left when empty.
    """

    kind: Literal["heading", "paragraph", "list", "code", "table"]
    rows: Sequence[Sequence[str]]
    align: str = ""


def heading(text: str) -> Block:
    """A heading."""
    return Block("heading", [(text,)])


def paragraph(*parts: str) -> Block:
    """A paragraph of sentences; empty ones are left out."""
    return Block("paragraph", [(sentences(*parts),)])


def lines(kind: Literal["list", "code"], texts: Sequence[str]) -> Block:
    """A bulleted list or lines of code."""
    return Block(kind, [(text,) for text in texts])


def text_table(*rows: Sequence[str], align: str = "") -> Block:
    """A table, its header row first."""
    return Block("table", rows, align)


@dataclass(frozen=True)
class Document:
    """A titled text with headings, lists, code and tables. The page renders it from its blocks."""

    title: str
    blocks: Sequence[Block]

    def to_markdown(self) -> str:
        """The document as Markdown; text in it is never markup."""
        parts = [f"# {escape_markdown(self.title)}", *map(_markdown_block, self.blocks)]
        return "\n\n".join(parts) + "\n"

    def to_latex(self) -> str:
        """The document as a LaTeX subsection that needs booktabs and tabularx; text in it is never a command."""
        return (
            "% Needs \\usepackage{booktabs,tabularx}.\n"
            rf"\subsection*{{{escape_latex(self.title)}}}"
            "\n\\begingroup\\emergencystretch=3em\n" + "\n\n".join(map(_latex_block, self.blocks)) + "\n\n\\endgroup\n"
        )


def escape_latex(text: str) -> str:
    """Clean text as LaTeX source; characters that pdflatex cannot typeset appear as their code points."""
    known = ((c, _SPECIAL.get(c)) for c in clean(text))
    escaped = "".join(new or (c if c.isascii() or c in _LETTERS else f"U+{ord(c):04X}") for c, new in known)
    return re.sub("--+", lambda dashes: "{}".join(dashes[0]), escaped)


def escape_markdown(text: str) -> str:
    """Clean text as GitHub-flavoured Markdown: nothing in it acts as markup, ends a table cell or is HTML."""
    escaped = re.sub(r"([\\`*_{}|#~$])", r"\\\1", clean(text).replace("&", "&amp;"))
    escaped = re.sub(r"\](?=[(\[:])|\[(?=\^)", r"\\\g<0>", escaped)  # links, footnotes; plain brackets are text
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", escaped).replace(">", "&gt;")


def _markdown_block(block: Block) -> str:
    rows = [[escape_markdown(cell) for cell in row] for row in block.rows]
    match block.kind:
        case "heading":
            return f"## {rows[0][0]}"
        case "list":
            return "\n".join(f"- {text}" for (text,) in rows)
        case "code":
            return "\n".join(f"    {clean(line)}" for (line,) in block.rows)
        case "table":
            sides = [{"l": "left", "r": "right"}[letter] for letter in block.align] or None
            return tabulate(rows[1:], headers=rows[0], tablefmt="pipe", disable_numparse=True, colalign=sides)
        case "paragraph":
            return rows[0][0]


def _latex_block(block: Block) -> str:
    rows = [[_breakable(escape_latex(cell)) for cell in row] for row in block.rows]
    match block.kind:
        case "heading":
            return rf"\paragraph{{{rows[0][0]}.}}"
        case "list":
            return "\n".join([r"\begin{itemize}", *(rf"\item {text}" for (text,) in rows), r"\end{itemize}"])
        case "code":
            code = r"\\{}".join("\n" + rf"\texttt{{{line}}}" for (line,) in rows)
            return rf"\begin{{flushleft}}\footnotesize{code}" + "\n" + r"\end{flushleft}"
        case "table":
            pieces = [rows[at : at + _TABLE_ROWS] for at in range(1, len(rows), _TABLE_ROWS)]
            return "\n\n".join(_latex_table(rows[0], piece) for piece in pieces)
        case "paragraph":
            return rows[0][0]


def _breakable(latex: str) -> str:
    """LaTeX source in which long paths may break across lines."""
    return re.sub(r"\S*/\S*/\S*", lambda path: path[0].replace("/", r"/\allowbreak{}"), latex)


def _latex_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table as wide as the text, below a run-in heading; cells are LaTeX source."""
    columns = "l" * (len(head) - 1) + r">{\raggedright\arraybackslash}X"
    top, *rest = (" & ".join(row) + r" \\" for row in (head, *body))
    return "\n".join(
        [
            r"\leavevmode\par\nobreak\smallskip{\small\noindent",
            rf"\begin{{tabularx}}{{\linewidth}}{{{columns}}}",
            r"\toprule",
            top,
            r"\midrule",
            # After \\ and after a rule, "[" and "*" would be read as an argument.
            *("{}" + line for line in rest),
            r"\bottomrule",
            r"\end{tabularx}\par}",
        ]
    )


def count(n: float, noun: str) -> str:
    """A number and its noun: ``1 room``, ``5,130 questions``, ``0.5 points``."""
    number = f"{n:,}" if isinstance(n, int) else f"{n:g}"
    return f"{number} {noun}{'' if n == 1 else 's'}"


def amount(value: float) -> str:
    """A quantity to the unit, a small one to three digits: ``1,783``, ``99.3``, ``0.412``."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def sentences(*parts: str) -> str:
    """Sentences as running text; empty ones are left out."""
    return " ".join(part for part in parts if part)
