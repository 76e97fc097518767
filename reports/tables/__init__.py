"""The tables of a report and its verdicts. Other rooms import from here."""

from reports.tables.build import Tables, additional_table, build_tables
from reports.tables.compute import AgainstCompute, against_compute
from reports.tables.holds import Holds, holds_on
from reports.tables.pairs import UNCORRECTED, difference_text, p_text
from reports.tables.power import advice, power_table
from reports.tables.runs import Runs
from reports.tables.scores import BASELINES
from reports.tables.table import MISSING, Cell, Column, Row, Table, Value, csv_text, latex_document, superscript
from reports.tables.verdicts import Verdict, number, tally

__all__ = [
    "BASELINES",
    "MISSING",
    "UNCORRECTED",
    "AgainstCompute",
    "Cell",
    "Column",
    "Holds",
    "Row",
    "Runs",
    "Table",
    "Tables",
    "Value",
    "Verdict",
    "additional_table",
    "advice",
    "against_compute",
    "build_tables",
    "csv_text",
    "difference_text",
    "holds_on",
    "latex_document",
    "number",
    "p_text",
    "power_table",
    "superscript",
    "tally",
]
