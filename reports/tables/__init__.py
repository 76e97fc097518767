"""The tables of a report and its verdicts. Other rooms import from here."""

from reports.tables.pairs import difference_text, pairs_table, tasks_table
from reports.tables.power import advice, power_table
from reports.tables.published import published_footnote, published_rows
from reports.tables.scores import BASELINES, ScoreRow, run_score, scores_table
from reports.tables.sensitivity import scored_by_all, sensitivity_table
from reports.tables.table import MISSING, Cell, Column, Row, Table, csv_text, latex_document
from reports.tables.verdicts import Verdict, missing_seeds, tally, verdicts

__all__ = [
    "BASELINES",
    "MISSING",
    "Cell",
    "Column",
    "Row",
    "ScoreRow",
    "Table",
    "Verdict",
    "advice",
    "csv_text",
    "difference_text",
    "latex_document",
    "missing_seeds",
    "pairs_table",
    "power_table",
    "published_footnote",
    "published_rows",
    "run_score",
    "scored_by_all",
    "scores_table",
    "sensitivity_table",
    "tally",
    "tasks_table",
    "verdicts",
]
