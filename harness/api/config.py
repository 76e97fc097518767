"""The base of every configuration, and of every plugin that has one."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """Base of every configuration: frozen, without unknown keys, without NaN.

    Give each field a default, a range and a ``description`` that says what it means and
    where the default comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
