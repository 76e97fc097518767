"""The models that ship under a name."""

from __future__ import annotations

from importlib import resources

from harness.api.model import ModelPreset

TINY = ModelPreset(
    str(resources.files("harness.models").joinpath("tiny")),
    "embedded Qwen2-VL of a few million parameters, trained on the embedded world; ships with the package",
    "tiny",
)
QWEN2_VL_2B = ModelPreset("Qwen/Qwen2-VL-2B-Instruct", "the paper's small model", "2b", "qwen2_vl_2b.json")
QWEN2_VL_7B = ModelPreset("Qwen/Qwen2-VL-7B-Instruct", "the paper's large model", "7b", "qwen2_vl_7b.json")
