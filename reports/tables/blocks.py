"""A text with headings, code and tables, as Markdown and as LaTeX; a page sets it by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from reports.tables.escape import clean, escape_latex, escape_markdown

_TABLE_ROWS = 40
"""Rows of one LaTeX table, which cannot go on on the next page."""


@dataclass(frozen=True)
class Block:
    """A part of the section; all text in it is plain.

    Attributes:
        kind: A heading or a paragraph (one cell), lines of code (one row each), or a table (its head first).
        rows: The text.
    """

    kind: Literal["heading", "paragraph", "code", "table"]
    rows: Sequence[Sequence[str]]


def heading(text: str) -> Block:
    """A heading."""
    return Block("heading", [(text,)])


def paragraph(text: str) -> Block:
    """A paragraph."""
    return Block("paragraph", [(text,)])


def table(*rows: Sequence[str]) -> Block:
    """A table, its head first."""
    return Block("table", rows)


def to_markdown(blocks: Sequence[Block]) -> str:
    """The section as Markdown; text in it is never markup."""

    def written(block: Block) -> str:
        rows = [[escape_markdown(cell) for cell in row] for row in block.rows]
        if block.kind == "heading":
            return f"### {rows[0][0]}"
        if block.kind == "code":
            return "\n".join(f"    {clean(line)}" for (line,) in block.rows)
        if block.kind == "table":
            return tabulate(rows[1:], headers=rows[0], tablefmt="pipe", disable_numparse=True)
        return rows[0][0]

    return "## Methods\n\n" + "\n\n".join(map(written, blocks)) + "\n"


def to_latex(blocks: Sequence[Block]) -> str:
    """The section as LaTeX, for the packages booktabs and tabularx; text in it is never a command."""

    def written(block: Block) -> str:
        rows = [[_breakable(escape_latex(cell)) for cell in row] for row in block.rows]
        if block.kind == "heading":
            return rf"\paragraph{{{rows[0][0]}.}}"
        if block.kind == "code":
            lines = r"\\{}".join("\n" + rf"\texttt{{{line}}}" for (line,) in rows)
            return rf"\begin{{flushleft}}\footnotesize{lines}" + "\n" + r"\end{flushleft}"
        if block.kind == "table":
            pieces = [rows[at : at + _TABLE_ROWS] for at in range(1, len(rows), _TABLE_ROWS)]
            return "\n\n".join(_latex_table(rows[0], piece) for piece in pieces)
        return rows[0][0]

    return (
        "% Needs \\usepackage{booktabs,tabularx}.\n\\subsection*{Methods}\n\\begingroup\\emergencystretch=3em\n"
        + "\n\n".join(map(written, blocks))
        + "\n\n\\endgroup\n"
    )


def _breakable(latex: str) -> str:
    """LaTeX source in which long paths may go on on the next line."""
    return re.sub(r"\S*/\S*/\S*", lambda path: path[0].replace("/", r"/\allowbreak{}"), latex)


def _latex_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of the text's width, below the heading that runs into the text; cells are LaTeX source."""
    columns = "l" * (len(head) - 1) + r">{\raggedright\arraybackslash}X"
    top, *lines = (" & ".join(row) + r" \\" for row in (head, *body))
    return "\n".join(
        [
            r"\leavevmode\par\nobreak\smallskip{\small\noindent",
            rf"\begin{{tabularx}}{{\linewidth}}{{{columns}}}",
            r"\toprule",
            top,
            r"\midrule",
            # After a rule or a line's end, "[" and "*" would be read as their argument.
            *("{}" + line for line in lines),
            r"\bottomrule",
            r"\end{tabularx}\par}",
        ]
    )
