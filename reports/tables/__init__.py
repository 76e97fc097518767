"""The tables of a report and its verdicts. Other rooms import from here."""

from reports.tables.build import Tables, additional_table, build_tables
from reports.tables.pairs import difference_text
from reports.tables.power import advice, power_table
from reports.tables.table import MISSING, Table, csv_text, latex_document, superscript
from reports.tables.verdicts import Verdict, tally

__all__ = [
    "MISSING",
    "Table",
    "Tables",
    "Verdict",
    "additional_table",
    "advice",
    "build_tables",
    "csv_text",
    "difference_text",
    "latex_document",
    "power_table",
    "superscript",
    "tally",
]
