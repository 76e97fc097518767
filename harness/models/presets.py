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
        sizes: A packaged file with its configuration, from which memory is accounted for before it is fetched.
    """

    location: str
    summary: str
    study: str
    sizes: str = ""


TINY = ModelPreset(
    str(resources.files("harness.models").joinpath("tiny")),
    "embedded Qwen2-VL of a few million parameters, trained on the embedded world; ships with the package",
    "tiny",
)
QWEN2_VL_2B = ModelPreset("Qwen/Qwen2-VL-2B-Instruct", "the paper's small model", "2b", "qwen2_vl_2b.json")
QWEN2_VL_7B = ModelPreset("Qwen/Qwen2-VL-7B-Instruct", "the paper's large model", "7b", "qwen2_vl_7b.json")
