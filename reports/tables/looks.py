"""What declared looks mean for a report's verdicts, in words."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.sections import Spending
from harness.config.study import BASE
from reports.looks import Look
from reports.results import Results
from reports.statistics import Contrast, level, overall
from reports.text import count, listed

TYPES: dict[Spending, str] = {"obrien-fleming": "O'Brien-Fleming type", "pocock": "Pocock type"}


def look_sentences(results: Results, contrasts: Sequence[Contrast]) -> tuple[str, ...]:
    """What looks mean for all verdicts, a sentence each: the level of this one, and what comes after it or is saved."""
    if (look := results.look) is None:
        return ()
    found = [
        f"This is look {look.number} of {len(look.looks)}, at {look.seeds} seeds per method (looks at "
        f"{listed([str(one) for one in look.looks])} seeds{results.told('seeds')}).",
        f"The looks share the level {look.spent:g} ({TYPES[look.spending]} spending), of which this one tests at "
        f"{look.alpha:g}: p-values are compared with that, and intervals are {level(look.alpha)} intervals.",
    ]
    if look.seeds == look.looks[-1]:
        return tuple(found)
    undecided = [c for c in overall(contrasts) if c.verdict == "undecided"]
    if look.begun is not None:
        done, cells = look.begun
        found.append(f"The next look is not complete: {done} of its {count(cells, 'cell')} {_are(done)} done.")
    elif undecided:
        found.append(f"{count(len(undecided), 'pair')} {_are(len(undecided))} undecided, so training goes on.")
    else:
        found.append(f"Every pair is decided, so the study stops here. {_saved(results, look)}")
    return tuple(found)


def _saved(results: Results, look: Look) -> str:
    """The runs of the remaining looks, and their device time if the finished ones are a measure."""
    more, methods = look.looks[-1] - look.seeds, [method for method in results.labels if method != BASE]
    seconds = 0.0
    for method in methods:
        spent = [one.consumed.seconds for one in results.cells if one.method == method and one.consumed]
        seconds += more * sum(spent) / max(len(spent), 1)
    time = f", about {seconds:,.0f} device seconds" if seconds else ""
    return f"The remaining looks would have cost up to {count(more * len(methods), 'training run')} more{time}."


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
