"""The page of a report, its fairness card and its methods section. Other rooms import from here."""

from reports.page.fairness import fairness_card
from reports.page.methods import methods_section, samples_section
from reports.page.page import PAGE, footer, page_files, possible_files, render

__all__ = [
    "PAGE",
    "fairness_card",
    "footer",
    "methods_section",
    "page_files",
    "possible_files",
    "render",
    "samples_section",
]
