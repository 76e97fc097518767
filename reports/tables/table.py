"""A table that can be written as Markdown, LaTeX (booktabs), CSV and JSON, and printed in a terminal.

Every string in a table is plain text that may come from data, so each writer escapes it. Emphasis is set by fields
(``bold``, ``mark``, ``light``), never by markup inside the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import rich.table
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from tabulate import tabulate

from harness.console import Text
from harness.io import json_text
from harness.visible import clean
from reports.text import escape_latex, escape_markdown

Value = float | int | str | None
Align = Literal["left", "center", "right"]

MISSING = "-"
"""Shown for a missing value; CSV leaves the field empty and JSON has null."""

ROWS_ON_A_PAGE = 32
"""Rows of one LaTeX table, which leave room for caption and notes on a landscape page."""

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What a formula may begin with in a spreadsheet, full-width signs too."""

_PREAMBLE = r"""\documentclass[10pt,a4paper,landscape]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{\usepackage{mathptmx}}
\usepackage[margin=1.5cm]{geometry}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{xcolor}
\pagestyle{empty}
\makeatletter\setlength{\@fptop}{0pt}\setlength{\@fpsep}{2em}\makeatother
\begin{document}
"""


@dataclass(frozen=True)
class Part:
    """A further grid of a table too wide for one: it repeats the first column.

    Attributes:
        title: Follows the table's title.
        caption: What its columns mean.
    """

    title: str
    caption: str = ""


@dataclass(frozen=True)
class Column:
    """A column, whose cells may hold several values (a mean and its deviation, an interval).

    Attributes:
        header: Displayed header; LaTeX and the terminal keep line breaks in it.
        names: Names of the values in CSV and JSON, unique in the table; by default the header.
        format: Format string for the values, for example ``{:+.1f} [{:.1f}, {:.1f}]``.
        align: Alignment of its cells.
        light: Displayed in a lighter tone, for exploratory results (not in Markdown).
        part: The further grid it belongs to; None for the first. The terminal splits tables by width instead.
    """

    header: str
    names: tuple[str, ...] = ()
    format: str = "{}"
    align: Align = "right"
    light: bool = False
    part: Part | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return self.names or (" ".join(self.header.split()),)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        values: One per name of the column, with full precision.
        text: Displayed instead of the formatted values.
        bold: Emphasised, for example as the best of its column.
        mark: A superscript after the text: a dagger, a star.
        note: A remark, shown below the table as a numbered note.
    """

    values: tuple[Value, ...]
    text: str | None = None
    bold: bool = False
    mark: str = ""
    note: str = ""

    def shown(self, column: Column) -> str:
        """The displayed text: ``text``, else the formatted values, else :data:`MISSING`."""
        if self.text is not None:
            return clean(self.text)
        if any(pd.isna(v) for v in self.values):
            return MISSING
        return clean(column.format.format(*self.values))


@dataclass(frozen=True)
class Row:
    """A row. A change of ``group`` draws a rule and, unless empty, the group's name.

    Attributes:
        cells: One per column.
        group: Name of the group it belongs to.
        light: Displayed in a lighter tone, for results that are not ours (not in Markdown).
    """

    cells: tuple[Cell, ...]
    group: str = ""
    light: bool = False


@dataclass(frozen=True)
class Table:
    """A table of results with its caption and footnotes.

    Raises:
        ValueError: A row's cells or a cell's values do not fit the columns, or two names are equal.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    footnotes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [name for column in self.columns for name in column.keys]
        if len(set(names)) < len(names):
            raise ValueError(f"column names repeat: {names}")
        for i, row in enumerate(self.rows):
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {i} has {len(row.cells)} cells for {len(self.columns)} columns")
            for cell, column in zip(row.cells, self.columns, strict=True):
                if len(cell.values) != len(column.keys):
                    raise ValueError(f"row {i}: {cell.values!r} does not fit {column.keys}")

    @property
    def remarks(self) -> list[str]:
        """The cells' distinct notes in reading order; notes are numbered from 1."""
        return list(dict.fromkeys(cell.note for row in self.rows for cell in row.cells if cell.note))

    @property
    def captions(self) -> str:
        """The captions of all parts."""
        return " ".join(part.caption for part in self.parts if part.caption)

    @property
    def parts(self) -> list[Table]:
        """The grids that the table is displayed as, each a table; itself when there is only one."""
        names = dict.fromkeys(column.part for column in self.columns)
        if len(names) == 1:
            return [self]
        found = []
        for part in names:
            grid = self._select([j for j, column in enumerate(self.columns) if column.part == part or j == 0])
            grid = replace(grid, columns=tuple(replace(column, part=None) for column in grid.columns))
            if part is not None:
                grid = replace(grid, title=f"{self.title}: {part.title}", caption=part.caption, footnotes=())
            found.append(grid)
        return found

    def without_empty(self, *names: str) -> Table:
        """The table without those of the named columns (by the name of their first value) that have no values."""
        kept = [
            j
            for j, column in enumerate(self.columns)
            if column.keys[0] not in names or any(not pd.isna(row.cells[j].values[0]) for row in self.rows)
        ]
        return self._select(kept)

    def _select(self, kept: Sequence[int]) -> Table:
        rows = tuple(replace(row, cells=tuple(row.cells[j] for j in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[j] for j in kept), rows=rows)

    def to_frame(self) -> pd.DataFrame:
        """All values with full precision, one column for each name, missing ones as None."""
        grouped = any(row.group for row in self.rows)
        names = ["group"] * grouped + [name for column in self.columns for name in column.keys]
        tidy = []
        for row in self.rows:
            values: list[Value] = [row.group] if grouped else []
            values += [value for cell in row.cells for value in cell.values]
            tidy.append([clean(v) if isinstance(v, str) else None if pd.isna(v) else v for v in values])
        # Objects: pandas would turn integers next to a None into floats.
        return pd.DataFrame(tidy, columns=names, dtype=object)

    def to_csv(self) -> str:
        """Comma-separated values, see :func:`csv_text`."""
        return csv_text(self.to_frame())

    def to_json(self) -> str:
        """Title, caption, notes, and the rows as objects with full precision."""
        content = {
            "title": clean(self.title),
            "caption": clean(self.captions),
            "footnotes": [clean(note) for note in (*self.remarks, *self.footnotes)],
            "rows": self.to_frame().to_dict(orient="records"),
        }
        return json_text(content)

    def to_markdown(self) -> str:
        """A GitHub-flavoured Markdown table with title, caption and footnotes."""
        if len(self.parts) > 1:
            return "\n".join(part.to_markdown() for part in self.parts)
        lines = []
        for row, _, group in _with_groups(self.rows):
            if group:
                lines.append([f"*{escape_markdown(group)}*"] + [""] * (len(self.columns) - 1))
            shown = []
            for cell, column in zip(row.cells, self.columns, strict=True):
                text = escape_markdown(cell.shown(column))
                text = f"**{text}**" if cell.bold else text
                number = f"<sup>{self.remarks.index(cell.note) + 1}</sup>" if cell.note else ""
                shown.append(text + escape_markdown(cell.mark) + number)
            lines.append(shown)
        grid = tabulate(
            lines,
            headers=[escape_markdown(c.header) for c in self.columns],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=[c.align for c in self.columns] if lines else None,
        )
        notes = [f"<sup>{i}</sup> {escape_markdown(note)}" for i, note in enumerate(self.remarks, 1)]
        notes += [escape_markdown(note) for note in self.footnotes]
        parts = [f"### {escape_markdown(self.title)}", grid, escape_markdown(self.caption), *notes]
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_latex(self) -> str:
        """A booktabs ``table*`` with caption and footnotes, shrunk only when wider than the page.

        Rows that do not fit on a page continue in further tables of equal size. Needs the packages booktabs, graphicx
        and xcolor and the T1 font encoding, see :func:`latex_document`.
        """
        if len(self.parts) > 1:
            return "\n".join(part.to_latex() for part in self.parts)
        notes = [rf"\textsuperscript{{{i}}}\,{escape_latex(note)}" for i, note in enumerate(self.remarks, 1)]
        notes += [escape_latex(note) for note in self.footnotes]
        pages = max(1, math.ceil(len(self.rows) / ROWS_ON_A_PAGE))
        size = math.ceil(len(self.rows) / pages)
        fragments = []
        for page in range(pages):
            title = f"{self.title.rstrip('.')}{', continued' if page else ''}."
            caption = " ".join(escape_latex(part) for part in (title, "" if page else self.caption) if part)
            lines = [
                r"\begin{table*}[t]",
                r"\centering\footnotesize",
                rf"\caption{{{caption}}}\smallskip",
                r"\setlength{\tabcolsep}{4pt}",
                r"\sbox0{%",
                *_latex_body(self, self.rows[page * size : (page + 1) * size]),
                "}",
                r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            ]
            lines += [r"\par\smallskip\raggedright " + note for note in (notes if page == pages - 1 else ())]
            fragments.append("\n".join([*lines, r"\end{table*}"]) + "\n")
        return "\\clearpage\n".join(fragments)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table for a terminal; columns that do not fit follow below, with the first column repeated."""
        for i, columns in enumerate(self._blocks(options.max_width)):
            yield self._rich_block(columns, title=i == 0)
        notes = [f"{i} {clean(note)}" for i, note in enumerate(self.remarks, 1)]
        texts = [clean(self.captions), *notes, *(clean(note) for note in self.footnotes)]
        yield from (Text(text, style="dim") for text in texts if text)

    def _blocks(self, width: int) -> Iterator[list[int]]:
        """Indices of columns that fit on a line together; every block has the first column."""
        widths = []
        for j, column in enumerate(self.columns):
            cells = [self._terminal_text(row.cells[j], column).plain for row in self.rows]
            widths.append(max(cell_len(t) for t in (*column.header.split("\n"), *cells)) + 3)
        widths[0] = max([widths[0], *(cell_len(clean(row.group)) + 3 for row in self.rows)])
        block, used = [0], widths[0] + 3
        for j in range(1, len(self.columns)):
            if used + widths[j] > width and len(block) > 1:
                yield block
                block, used = [0], widths[0] + 3
            block.append(j)
            used += widths[j]
        yield block

    def _rich_block(self, columns: Sequence[int], *, title: bool) -> rich.table.Table:
        grid = rich.table.Table(box=box.SIMPLE_HEAD, title=Text(clean(self.title)) if title else None)
        grid.title_justify = "left"
        for j in columns:
            column = self.columns[j]
            head = Text("\n".join(clean(line) for line in column.header.split("\n")))
            grid.add_column(head, justify=column.align, style="dim" if column.light else "")
        for row, rule, group in _with_groups(self.rows):
            if rule:
                grid.add_section()
            if group:
                grid.add_row(Text(group, style="italic"))
            cells = (self._terminal_text(row.cells[j], self.columns[j]) for j in columns)
            grid.add_row(*cells, style="dim" if row.light else None)
        return grid

    def _terminal_text(self, cell: Cell, column: Column) -> Text:
        number = superscript(self.remarks.index(cell.note) + 1) if cell.note else ""
        return Text(cell.shown(column) + clean(cell.mark) + number, style="bold" if cell.bold else "")


def superscript(number: int) -> str:
    """The number of a note, for a terminal."""
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as comma-separated values; clean text that a spreadsheet would run as a formula begins with a quote."""
    rows = [[_tame(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    columns = [_tame(name) for name in frame.columns]
    return pd.DataFrame(rows, columns=columns, dtype=object).to_csv(index=False, lineterminator="\n")


def _tame(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def latex_document(fragments: Sequence[str]) -> str:
    """A complete landscape A4 document of LaTeX tables, as many per page as fit, for pdflatex."""
    return _PREAMBLE + "\n".join(fragments) + "\\end{document}\n"


def _with_groups(rows: Sequence[Row]) -> Iterator[tuple[Row, bool, str]]:
    """Rows, each with whether a rule precedes it and the name of a group that starts with it."""
    before: str | None = None
    for row in rows:
        begins = row.group != before
        yield row, begins and before is not None, clean(row.group) if begins else ""
        before = row.group


def _latex_body(table: Table, rows: Sequence[Row]) -> list[str]:
    lines = [rf"\begin{{tabular}}{{{''.join(c.align[0] for c in table.columns)}}}", r"\toprule"]
    lines += [" & ".join(_latex_head(c) for c in table.columns) + r" \\", r"\midrule"]
    for row, rule, group in _with_groups(rows):
        if rule:
            lines.append(r"\midrule")
        if group:
            lines.append(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\itshape {escape_latex(group)}}} \\")
        cells = zip(row.cells, table.columns, strict=True)
        shown = (_latex_cell(cell, column, table, light=column.light or row.light) for cell, column in cells)
        lines.append(" & ".join(shown) + r" \\")
    # After \\ and after a rule, "[" and "*" would be read as an argument.
    lines = ["{}" + line if line[:1] in ("[", "*") else line for line in lines]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _latex_head(column: Column) -> str:
    lines = [escape_latex(line) for line in column.header.split("\n")]
    # The braces keep a leading "[" from being read as an argument of the line break.
    text = r"\\{}".join(lines)
    return rf"\begin{{tabular}}[b]{{@{{}}{column.align[0]}@{{}}}}{text}\end{{tabular}}" if len(lines) > 1 else text


def _latex_cell(cell: Cell, column: Column, table: Table, *, light: bool) -> str:
    text = escape_latex(cell.shown(column))
    # Numbers get a true minus sign, and deviations a smaller font than their means.
    text = re.sub(r"(?<![\w.-])-(?=\d|$)", "$-$", text) if text != "-" else "--"
    text = re.sub(r" \$\\pm\$ ([\d.]+)$", r"{\\scriptsize\\,$\\pm$\1}", text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    number = table.remarks.index(cell.note) + 1 if cell.note else ""
    if cell.mark or number:
        text += rf"\textsuperscript{{{escape_latex(cell.mark)}{number}}}"
    return rf"\textcolor{{gray}}{{{text}}}" if light else text
