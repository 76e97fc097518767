"""Where each named model lives."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class ModelPreset:
    """A named model.

    Attributes:
        location: A hub id, or the folder of a packaged model.
        summary: One line for ``harness list``.
        study: The preset study that fits it.
    """

    location: str
    summary: str
    study: str


TINY = ModelPreset(
    str(resources.files("harness.models").joinpath("tiny")),
    "embedded Qwen2-VL of a few million parameters, trained on the embedded world; ships with the package",
    "tiny",
)
QWEN2_VL_2B = ModelPreset("Qwen/Qwen2-VL-2B-Instruct", "the paper's small model, from the hub", "2b")
QWEN2_VL_7B = ModelPreset("Qwen/Qwen2-VL-7B-Instruct", "the paper's large model, from the hub", "7b")
