"""The page of a report, its fairness card and its methods section. Other rooms import from here."""

from reports.page.fairness import fairness_card
from reports.page.methods import methods_section, samples_section
from reports.page.page import PAGE, page_files, possible_files

__all__ = ["PAGE", "fairness_card", "methods_section", "page_files", "possible_files", "samples_section"]
