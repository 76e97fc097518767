"""Randomness as a function of (seed, axis, step): no state to save, nothing that drifts on resume."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *axes: int | str) -> int:
    """A 62-bit seed for one use of randomness.

    The axes name what may vary, for example ``("rollout", step)``. A method's name is never an axis, so that every
    method sees the same data order and the same draws.
    """
    text = "/".join(str(part) for part in (seed, *axes))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 2
