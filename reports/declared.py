"""What a report says of what was declared and what was amended; nothing of answers that were made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from harness.study.declared import Declaration, value_in_words
from harness.study.matrix import DECLARATION
from reports.results import Results
from reports.text import Block, heading, lines, listed, paragraph, text_table

MAIN = {
    "methods": "Methods",
    "seeds": "Seeds",
    "budget.amount": "Budget",
    "report.pairs": "Pairs",
    "report.margin": "Equivalence margin",
    "report.alpha": "Level",
    "report.collapse": "Collapse, below base",
    "evaluation.scorer": "Scorer",
    "evaluation.checkpoint": "Reported checkpoint",
    "digests.train": "Training records",
    "digests.benchmark": "Benchmark",
}
"""The quantities that a report lists even if they were not amended."""

SEEDS_ADDED = (
    "A number of seeds that is chosen with results known raises the chance of a false verdict: adding seeds from 3 to "
    "10 until p < 0.05 gives 10 to 15% instead of 5%. Declared looks (--seeds 3,5,8) do not."
)


def declared_sentences(results: Results) -> tuple[str, ...]:
    """What is common to all verdicts: that the plan was kept, or each of its amendments."""
    if (plan := results.declared) is None:
        return ()
    if not plan.amended:
        before = "" if plan.known else ", and nothing was amended"
        return (f"Methods, seeds, pairs, margin, level, scorer and checkpoint were {plan.written}{before}.",)
    more = [SEEDS_ADDED] if "seeds" in plan.amended_knowingly else []
    amended = (f"Its {key} ({value_in_words(key, plan.current[key])}) was {plan.words(key)}" for key in plan.amended)
    return (f"The plan was {plan.written}.", *(f"{one}." for one in amended), *more)


def amended_notes(results: Results, a: str, b: str) -> tuple[str, ...]:
    """What of a pair's test was not declared before there were results, in a sentence each."""
    if (plan := results.declared) is None:
        return ()
    found = []
    if plan.known:
        found.append(f"Nothing was declared beforehand: the plan was {plan.written}.")
    if knowingly := [key for key in plan.amended_knowingly if not _is_additional(key, plan)]:
        found.append(
            f"Not as declared: with results known, the study's {listed(knowingly)} {_were(knowingly)} amended."
        )
        if "report.pairs" in knowingly and (a, b) in plan.pairs_added():
            found.append("This pair was added then.")
    return tuple(found)


def _is_additional(key: str, plan: Declaration) -> bool:
    """Whether a quantity is about benchmarks besides the headline, on which nothing is tested."""
    scorers, of_headline = "digests.scorers.", f"digests.scorers.{plan.current.get('evaluation.benchmark')}"
    return key.startswith("evaluation.more") or (key.startswith(scorers) and key != of_headline)


def declared_blocks(plan: Declaration) -> Iterator[Block]:
    """The plan and its amendments, for the methods section."""
    yield heading("Declared")
    yield paragraph(
        f"The plan ({DECLARATION}, which has every setting) was {plan.written}.",
        "Nothing was amended." if not plan.amendments else "Amendments, in the order of time:",
    )
    if plan.amendments:
        yield lines("list", [one.words for one in plan.amendments])
    now = plan.current
    rows = [(name, value_in_words(key, now[key]), plan.words(key)) for key, name in MAIN.items()]
    yield text_table(("Quantity", "Value", "When"), *rows)


def _were(things: list[str]) -> str:
    return "was" if len(things) == 1 else "were"
