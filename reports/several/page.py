"""The page of several studies: what they say together, their scores and differences in blocks, and what they are."""

from __future__ import annotations

from collections.abc import Sequence

from reports.page import PAGE, footer, render
from reports.several.studies import OneStudy, Pooled
from reports.several.tables import pooled_sentence
from reports.statistics import level
from reports.tables import Table
from reports.text import count, listed


def several_page(
    studies: Sequence[OneStudy], found: Sequence[Pooled], tables: dict[str, Table], alpha: float
) -> dict[str, bytes]:
    """``index.html`` of a report on several studies.

    Args:
        studies: What was read.
        found: What they say together.
        tables: By the name of its files.
        alpha: Level of the combined intervals.
    """
    models = list(dict.fromkeys(one.model for one in studies))
    titles = list(dict.fromkeys(one.results.title for one in studies))
    headings = {
        "combined": ("Over the studies", [pooled_sentence(one, alpha) for one in found]),
        "scores": ("Scores", []),
        "pairs": ("Differences within each study", []),
        "studies": ("The studies", []),
    }
    context = {
        "title": f"{listed(models)} on {listed(titles)}",
        "lead": f"{count(len(studies), 'study').replace('studys', 'studies')}; intervals at {level(alpha)}",
        "sections": [(*headings[name], tables[name]) for name in headings if name in tables],
        "footer": footer(),
    }
    return {PAGE: render("several.html.j2", context).encode()}
