"""The base of every configuration, and of every plugin that has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class StrictConfig(BaseModel):
    """Base of every configuration: frozen, without unknown keys, without NaN, without true or false as a number.

    Give each field a default, a range and a ``description`` that says what it means and
    where the default comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        types = _types(cls.model_fields[info.field_name or ""].annotation)
        if types & {int, float} and not types & {bool, Any} and _has_bool(value):
            raise ValueError("Input should be a number, not true or false")
        return value


class Plugin:
    """Base of plugins with options.

    Attributes:
        plugin_group: The entry-point group of its kind, without ``harness.``.
        Config: Its options, a :class:`StrictConfig`.
        summary: One line for ``harness list``.
    """

    plugin_group: ClassVar[str]
    Config: ClassVar[type[StrictConfig]] = StrictConfig
    summary: ClassVar[str] = ""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config


def _types(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    if get_origin(annotation) is Literal:
        return set(map(type, get_args(annotation)))
    return {annotation}.union(*map(_types, get_args(annotation)))


def _has_bool(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_bool, value.values()))
    return any(map(_has_bool, value)) if isinstance(value, (list, tuple)) else isinstance(value, bool)
