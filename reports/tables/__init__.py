"""Tables, verdicts and running text of a report, in every format. Other rooms import from here."""

from reports.tables.pairs import difference_text, pairs_table, tasks_table
from reports.tables.published import published_footnote, published_rows
from reports.tables.scores import RunScore, ScoreRow, scores_table
from reports.tables.sensitivity import scored_by_all, sensitivity_table
from reports.tables.table import MISSING, Cell, Column, Row, Table, csv_text, latex_document
from reports.tables.text import (
    Block,
    Document,
    clean,
    count,
    escape_markdown,
    heading,
    lines,
    listed,
    paragraph,
    text_table,
)
from reports.tables.verdicts import Verdict, tally, verdicts

__all__ = [
    "MISSING",
    "Block",
    "Cell",
    "Column",
    "Document",
    "Row",
    "RunScore",
    "ScoreRow",
    "Table",
    "Verdict",
    "clean",
    "count",
    "csv_text",
    "difference_text",
    "escape_markdown",
    "heading",
    "latex_document",
    "lines",
    "listed",
    "pairs_table",
    "paragraph",
    "published_footnote",
    "published_rows",
    "scored_by_all",
    "scores_table",
    "sensitivity_table",
    "tally",
    "tasks_table",
    "text_table",
    "verdicts",
]
