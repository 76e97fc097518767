"""A report on several studies. Other rooms import from here."""

from reports.several.page import several_page
from reports.several.studies import pooled, read_studies
from reports.several.tables import pooled_sentence, several_tables

__all__ = ["pooled", "pooled_sentence", "read_studies", "several_page", "several_tables"]
