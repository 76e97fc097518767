"""The base of every configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictConfig(BaseModel):
    """Base of every configuration: frozen, unknown keys are errors, NaN is refused.

    Give each field a default, a range and a ``description`` that says what it means and
    where the default comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
