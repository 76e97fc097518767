"""Do declared looks keep the level of a study? Whole studies are drawn, looked at, and stopped where they are decided.

    PYTHONPATH=.:tests python tests/benchmarks/looks.py          # 10,000 draws a design, one table
    PYTHONPATH=.:tests python tests/benchmarks/looks.py 2000     # fewer draws

Rooms are the same at all looks, runs are added. "Any look" counts studies that call equal methods different at any look
that they have, "at the end" those that do so where they stop.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
from looks_kit import Study, outcome, p_values
from tabulate import tabulate

from reports.statistics import look_level

LOOKS, ALPHA, SEED = (3, 5, 8), 0.05, 7

DESIGNS: Mapping[str, Study] = {
    "2 methods, run SD 0.45": Study((0.45, 0.45)),
    "2 methods, run SD 1.1": Study((1.1, 1.1)),
    "2 methods, run SD 2.3": Study((2.3, 2.3)),
    "2 methods, run SD 0.3 and 2.3": Study((0.3, 2.3)),
    "base and 1 method, run SD 1.1": Study((1.1,), base=True),
    "base and 1 method, run SD 2.3": Study((2.3,), base=True),
    "base and 3 methods, run SD 1.1": Study((1.1,) * 3, base=True),
    "base and 3 methods, run SD 2.3": Study((2.3,) * 3, base=True),
    "base and 3 methods, run SD 0.45, 0.45, 2.3": Study((0.45, 0.45, 2.3), base=True),
    "2 methods, run SD 1.1, 3 points apart": Study((1.1, 1.1), (0.0, 3.0)),
    "2 methods, run SD 1.1, 5 points apart": Study((1.1, 1.1), (0.0, 5.0)),
    "2 equal methods, run SD 0.45, margin 3": Study((0.45, 0.45), margin=3.0),
    "2 methods, run SD 0.45, 3 apart, margin 3": Study((0.45, 0.45), (0.0, 3.0), margin=3.0),
    "2 methods, run SD 1.1, 3 apart, margin 3": Study((1.1, 1.1), (0.0, 3.0), margin=3.0),
}


def rules(tests: int) -> dict[str, dict[int, float]]:
    """The levels of the looks: spent over them, all at the last, and naively all at each."""
    spent = {
        name: {look: look_level(LOOKS, look, ALPHA, tests, name) for look in LOOKS}
        for name in ("obrien-fleming", "pocock")
    }
    return {**spent, "8 seeds, no look": {LOOKS[-1]: ALPHA}, "naive, 0.05 at each": dict.fromkeys(LOOKS, ALPHA)}


def main(draws: int) -> None:
    """Print the table."""
    limit = ALPHA + 2 * (ALPHA * (1 - ALPHA) / draws) ** 0.5
    rows = []
    for design, study in DESIGNS.items():
        p = p_values(study, LOOKS, draws, np.random.default_rng(SEED))
        for rule, levels in rules(len(study.pairs)).items():
            found = outcome(study, p, levels)
            errors = [found.ever, found.false]
            if study.margin > 1 and not study.equal.any():
                errors = [found.equivalent] * 2  # at the margin, what is called equivalent is false
            mark = "above" if max(errors) > limit else ""
            rows.append((design, rule, *errors, mark, found.found, found.equivalent, found.seeds))
    heads = ("design", "rule", "false, any look", "at the end", f"> {limit:.3f}", "found", "equivalent", "seeds")
    print(tabulate(rows, heads, floatfmt=(".3f",) * 7 + (".1f",)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
