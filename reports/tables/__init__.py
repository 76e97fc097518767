"""The tables of a report and its verdicts. Other rooms import from here."""

from reports.tables.pairs import difference_text, pairs_table, tasks_table
from reports.tables.published import published_footnote, published_rows
from reports.tables.scores import BASELINES, RunScore, ScoreRow, scores_table
from reports.tables.sensitivity import scored_by_all, sensitivity_table
from reports.tables.table import MISSING, Cell, Column, Row, Table, csv_text, latex_document
from reports.tables.verdicts import Verdict, tally, verdicts

__all__ = [
    "BASELINES",
    "MISSING",
    "Cell",
    "Column",
    "Row",
    "RunScore",
    "ScoreRow",
    "Table",
    "Verdict",
    "csv_text",
    "difference_text",
    "latex_document",
    "pairs_table",
    "published_footnote",
    "published_rows",
    "scored_by_all",
    "scores_table",
    "sensitivity_table",
    "tally",
    "tasks_table",
    "verdicts",
]
