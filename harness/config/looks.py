"""Seeds per method, or the declared looks at which a study may stop."""

from __future__ import annotations

import re
from typing import Any

from harness.config.sections import MANY, SEEDS_FOR_METHODS

MOST_LOOKS = 10
"""More than any study needs."""


def parse_looks(seeds: Any) -> int | tuple[int, ...]:
    """A number of seeds, or several as the command line has them (``3,5,8``) or as a list.

    Raises:
        ValueError: It is neither, or the looks do not rise from as many seeds as a claim about methods needs.
    """
    texts = seeds.split(",") if isinstance(seeds, str) else seeds if isinstance(seeds, (list, tuple)) else [seeds]
    looks = [int(str(one)) if re.fullmatch(r" *\d{1,9} *", str(one)) else 0 for one in texts]
    if not looks or min(looks) < 1 or max(looks) > MANY:
        raise ValueError(f"write a whole number from 1 to {MANY}, or several that rise, such as 3,5,8")
    if len(looks) > 1 and (looks[0] < SEEDS_FOR_METHODS or sorted(set(looks)) != looks or len(looks) > MOST_LOOKS):
        raise ValueError(
            f"looks rise, are at most {MOST_LOOKS}, and begin at {SEEDS_FOR_METHODS} seeds or more, since fewer "
            "allow no claim about methods"
        )
    return looks[0] if len(looks) == 1 else tuple(looks)
