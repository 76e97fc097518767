"""Random seeds as a function of (seed, use, step): there is no state to save and restore."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *axes: int | str) -> int:
    """A 62-bit seed for one use of randomness.

    Args:
        seed: The repetition's seed.
        axes: What is drawn and when, for example ``("rollout", step)``. Never a method's name: every method sees the
            same data order and the same random numbers.
    """
    text = "/".join(str(part) for part in (seed, *axes))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 2
