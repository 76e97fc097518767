"""A model under a name: what an entry point of the group ``harness.models`` refers to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelPreset:
    """A named model.

    Attributes:
        location: A hub id or a local folder.
        summary: One line for ``harness list``.
        study: The preset study that fits it.
        sizes: A packaged file with the model's configuration, from which memory is estimated before any download.
    """

    location: str
    summary: str
    study: str
    sizes: str = ""
